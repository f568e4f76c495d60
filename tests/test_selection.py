"""Spans, and which of their records are sent: customers once, and of what belongs to them all that can arrive."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streammig.batching import BatchLimits
from streammig.masivo.rules import RuleOptions, rules
from streammig.model import FILTERED, Place, Position, Progress, Span, Tally
from streammig.reader import Reader
from streammig.selection import OF_FILTERED, WithoutRepeated, WithOwners
from streammig.sources import open_source, parse_input
from tests.sandbox_caller import customer, event
from tests.spans import Slice, examine, slices

RUN = [
    Slice(2, 1000 * at, at + 1, len(data), data)
    for at, data in enumerate(json.dumps(customer(f"c{nth}")).encode() for nth in (0, 1, 0, 2))
]
OPTIONS = RuleOptions(now=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_part_of_a_span_is_the_same_records_at_the_same_places() -> None:
    bad = {1: (9, "invalid-json", "no JSON")}
    plain = Span(1, 50, b'{"a":1},{"b":2},{"c":3}', (0, 8, 16), (7, 15, 23), (4, 5, 6), bad)
    elsewhere = Span(1, 50, plain.data, plain.starts, plain.ends, (4, 5, 6), bad, [(500, 90), (700, 9), (900, 70)])
    for span in (plain, elsewhere):
        assert pickle.loads(pickle.dumps(span)) == span
        assert span.part(0, 3) is span
        for begin in range(4):
            for end in range(begin, 4):
                assert slices(span.part(begin, end)) == slices(span)[begin:end]
    assert [plain.position(at) for at in range(3)] == [
        Position(1, 50, 7, 4),
        Position(1, 58, 9, 5),
        Position(1, 66, 7, 6),
    ]
    assert (elsewhere.position(2), elsewhere.end) == (Position(1, 900, 70, 6), Place(1, 970, 0, 7))
    assert [elsewhere.before(Place(1, offset)) for offset in (0, 500, 501, 700, 901)] == [0, 0, 1, 1, 3]
    assert (elsewhere.before(Place(0, 9999)), elsewhere.before(Place(2))) == (0, 3)


def test_i3_a_customer_that_repeats_another_is_a_dead_letter_and_no_other_is() -> None:
    asked: list[tuple[Place, Place]] = []

    def repeated(begin: Place, end: Place) -> dict[tuple[int, int, int], tuple[str, str]]:
        asked.append((begin, end))
        return {(2, 2000, 0): ("duplicate-customer", "the same id"), (2, 3000, 7): ("duplicate-email", "another unit")}

    found = examine(WithoutRepeated(rules("customers", OPTIONS), repeated), RUN)
    assert asked == [(Place(2, 0, 0, 1), Place(2, 3000 + RUN[-1].length, 0, 5))]
    assert [[record.owner for record in it.records] for it in found] == [["c0"], ["c1"], [], ["c2"]]
    assert [(it.code, it.tally.records) for each in found for it in each.dead] == [("duplicate-customer", 1)]


@pytest.mark.parametrize(
    ("why", "filtered", "dead"),
    [
        (FILTERED, [(OF_FILTERED, 2)], []),
        ("bad-email", [], [("owner-bad-email", "its customer's record is a dead letter: bad-email", 2)]),
    ],
)
def test_what_belongs_to_an_absent_customer_is_filtered_or_dead_as_the_customer_is(
    why: str, filtered: list[tuple[str, int]], dead: list[tuple[str, str, int]]
) -> None:
    record = json.dumps({"id": "c1", "events": [event("p1"), event("p2")]}).encode()
    subject = WithOwners(rules("events", OPTIONS), lambda owners: {"c1": why} if "c1" in owners else {})
    (it,) = examine(subject, [Slice(0, 0, 1, len(record), record)])
    assert it.records == ()
    assert [(reason, tally.units) for reason, tally in it.filtered] == filtered
    assert [(letter.code, letter.message, letter.tally.units) for letter in it.dead] == dead


def test_i3_of_a_record_sent_in_part_only_the_rest_is_dead_when_its_customer_goes_missing(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text(json.dumps([{"id": "c1", "events": [event(f"p{nth}") for nth in range(5)]}]))
    source, judged = open_source([parse_input(str(path))]), rules("events", OPTIONS)
    sealing = Reader(source, judged, BatchLimits(units=2), Progress()).next()
    assert sealing
    progress = sealing.progress
    assert (progress.read.units, progress.frontier.unit) == (2, 2)
    gone = WithOwners(judged, lambda owners: dict.fromkeys(owners, "refused"), progress.begun)
    last = Reader(source, gone, BatchLimits(units=2), progress).next()
    assert last
    (letter,) = last.progress.dead
    assert (letter.unit, letter.code, letter.tally.units, letter.tally.records) == (2, "owner-refused", 3, 0)
    assert last.progress.read - progress.read == letter.tally != Tally()
