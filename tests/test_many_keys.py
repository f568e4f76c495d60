"""Five million customers: each id and e-mail that occurs twice is found, no other, within the disk that is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from streammig.columns import Columns
from streammig.dedup import Build, KeyIndex, room_of_index, scan
from streammig.masivo.rules import rules
from streammig.model import Span
from streammig.scan import StageScan
from streammig.scan.stage import read_through
from streammig.scan.tasks import Tasks
from streammig.sources import open_source, parse_input
from streammig.telemetry import ignore
from tests.shares import share
from tests.test_workers import OPTIONS, quietly

EVERY, STEP = 5_000, 1_000
READ = 20_000  # customers that come out of a file; the others begin with their keys


def key(nth: int) -> tuple[str, str]:
    """The id and the e-mail of the customer of a number. Of each 5,000 one has another's id, one another's e-mail."""
    owner, mail = nth, nth
    if nth % EVERY == EVERY - 1:
        owner = nth - EVERY // 2
    elif nth % EVERY == EVERY - 2:
        mail = nth - EVERY // 2
    return f"customer-{owner:09d}", f"m{mail:09d}@example.org"


class Keys:
    """`Rules` that give the keys of customers, by their numbers alone."""

    head = tail = b""
    once = False

    def columns(self, span: Span) -> Columns:
        found = Columns()
        found.index, found.unit = [*range(len(span))], [0] * len(span)
        keys = [key(nth) for nth in span.ordinals]
        found.owners, found.uniques = [owner for owner, _ in keys], [mail for _, mail in keys]
        return found


def spans(begin: int, end: int) -> Iterator[Span]:
    for first in range(begin, end, STEP):
        starts = range(0, STEP * 10, 10)
        yield Span(1, first * 10, b"", starts, starts, range(first, first + STEP))


def written(path: Path) -> str:
    with path.open("w") as file:
        for nth in range(1, READ):
            owner, mail = key(nth)
            file.write(
                f'{{"id": "{owner}", "name": "N", "email": "{mail}", "registration_date": "2021-05-01T10:00:00Z",'
                ' "balance": []}\n'
            )
    return str(path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_key_that_occurs_twice_among_millions_is_found_and_no_other(tmp_path: Path) -> None:
    count = share(5_000) * STEP
    source = open_source([parse_input(written(tmp_path / "c.ndjson"))])
    job = StageScan("customers", source, rules("customers", OPTIONS), {}, tmp_path)
    (needed,) = room_of_index(count).values()
    most, done = [0], Event()

    def watch() -> None:
        while not done.wait(0.1):
            files = list((tmp_path / "index").rglob("*"))
            most[0] = max(most[0], sum(_size(it) for it in files))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with Build(tmp_path / "index", "") as build:
            assert read_through(job, build, quietly, Tasks(None, Event(), ignore)).records == READ - 1
            for span in spans(READ, count):
                build.add(scan(Keys(), build.key, span))
            with build.finish() as index:
                check(index, count)
    finally:
        done.set()
        watching.join()
    assert 0 < most[0] <= needed


def check(index: KeyIndex, count: int) -> None:
    def is_twice(nth: int) -> bool:
        return nth % EVERY >= EVERY - 2

    twice = [nth for nth in range(1, count) if is_twice(nth)]
    found = list(index.duplicates())
    assert [it.place.ordinal for it in found] == twice
    assert [it.first.ordinal for it in found] == [nth - EVERY // 2 for nth in twice]
    assert [it.code for it in found] == ["duplicate-email", "duplicate-customer"] * (len(twice) // 2)


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0
