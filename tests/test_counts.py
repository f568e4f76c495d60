"""What speed and flat memory are made of, counted: bytes read, records decoded, requests made, records alive."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from streammig.batching import BatchLimits
from streammig.masivo.rules import RuleOptions, cutting, rules
from streammig.masivo.rules.cutting import Block
from streammig.model import START, Place, Progress, Span, Tally
from streammig.reader import Reader
from streammig.sources import open_source, parse_input
from streammig.sources.source import Source, Told
from tests.commands import Shell, sandbox, write
from tests.sandbox_caller import customer
from tests.spans import Slice, examine

OPTIONS = RuleOptions(now=datetime(2024, 1, 1, tzinfo=UTC))


def bodies(count: int, **more: Any) -> list[bytes]:
    made = (customer(f"c{number}", country="x" * 90, **more) for number in range(count))
    return [json.dumps(each, separators=(",", ":")).encode() for each in made]


def drafts(feed: Reader) -> int:
    found = 0
    while (sealing := feed.next()) is not None:
        found += sealing.draft is not None
    return found


def test_a_resumed_stage_reads_nothing_that_is_settled(tmp_path: Path) -> None:
    path, records = tmp_path / "export.json", bodies(20_000)
    data = b'{"customers":[' + b",".join(records) + b"]}"
    path.write_bytes(data)
    offset = data.index(records[18_000])
    source = open_source([parse_input(str(path))])
    read, rest = source.meter.read, len(data) - offset
    settled = Progress(Place(0, offset, 0, 18_001), 18_000, Tally(18_000, 18_000))
    feed = Reader(source, rules("customers", OPTIONS), BatchLimits(), settled)
    assert drafts(feed) == 2
    assert source.meter.read - read <= rest + 64 * 1024


class Decoding:
    """Counts what rules decode into models."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        monkeypatch.setattr(cutting, "Block", self._block)

    def _block(self, data: Sequence[bytes], decode: Callable[[bytes], Any]) -> Block:
        def counted(each: bytes) -> Any:
            self.calls += 1
            return decode(each)

        return Block(data, counted)


def run_of(records: list[bytes]) -> list[Slice]:
    return [Slice(0, 10_000 * at, at + 1, len(data), data) for at, data in enumerate(records)]


@pytest.mark.parametrize("more", [{}, {"status": "ACTIVE"}])
def test_a_record_is_decoded_once_to_be_judged_also_where_a_field_is_cut_from_it(
    more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = rules("customers", OPTIONS, judge="python")
    decoding = Decoding(monkeypatch)
    examined = examine(judged, run_of(bodies(1000, **more)))
    assert all(it.records for it in examined)
    assert decoding.calls == 1000


def test_a_bad_value_in_one_record_does_not_have_the_others_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = rules("customers", OPTIONS, judge="python")
    decoding, records = Decoding(monkeypatch), bodies(64)
    records[20] = records[20].replace(b"@", b"#")
    examined = examine(judged, run_of(records))
    assert sum(len(it.records) for it in examined) == 63
    assert decoding.calls == 64


@pytest.mark.parametrize("indent", [None, 2])
def test_framing_looks_at_each_byte_once_and_a_tenth_of_them_again(indent: int | None, tmp_path: Path) -> None:
    path, records = tmp_path / "export.json", [json.loads(body) for body in bodies(20_000)]
    path.write_text(json.dumps({"customers": records}, indent=indent))
    source = open_source([parse_input(str(path))])
    read, parsed, size = source.meter.read, source.meter.parsed, path.stat().st_size
    assert sum(map(len, source.spans())) == 20_000
    assert source.meter.parsed - parsed <= 1.1 * size
    assert source.meter.read - read <= size


def test_no_more_requests_are_made_than_the_records_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capfd)
    write(tmp_path / "c.json", [customer(f"c{number}") for number in range(2500)])
    with sandbox() as target:
        ended = shell.run(target.url, "--customers", "c.json", "--json")
        assert ended.code == 0, ended.err
        assert target.ledger()["holds"]["customers"]["count"] == 2500
    assert ended.document["stages"]["customers"]["requests"] == 3


class Alive(bytes):
    """Bytes of a span that tell how many like them there are."""

    now = most = 0

    def __new__(cls, data: bytes) -> Alive:
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Alive.now -= 1


class Endless(Source):
    """A source that makes its records as they are asked for."""

    def spans(self, start: Place = START, told: Told | None = None) -> Iterator[Span]:
        for number in range(0, 40_000, 500):
            records = [b'%b"id":"c%d"%b' % (HEAD, at, TAIL % at) for at in range(number, number + 500)]
            ends = list(accumulate([len(each) + 1 for each in records]))
            starts = [0, *ends[:-1]]
            ends = [end - 1 for end in ends]
            yield Span(0, number * 1000, Alive(b",".join(records)), starts, ends, range(number + 1, number + 501))

    def fingerprints(self) -> list[dict[str, Any]]:
        return []

    def unchanged(self) -> None:
        pass


HEAD = b"{"
TAIL = b',"name":"n","email":"c%d@example.com","registration_date":"2020-01-01T00:00:00Z","balance":[]}'


def test_i6_the_spans_alive_at_once_are_those_of_the_open_batch_and_no_record_is_an_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def record(*_: object) -> None:
        raise AssertionError("a clean record became an object")

    monkeypatch.setattr("streammig.columns.Record", record)
    feed = Reader(Endless(), rules("customers", OPTIONS), BatchLimits(), Progress())
    assert drafts(feed) == 40
    assert Alive.most <= 4
    assert Alive.now <= 1
