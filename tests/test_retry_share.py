"""What of a source record is one dead letter's: all of it, or units between those that others were sent as."""

from __future__ import annotations

import pytest

from streammig.dead_letters.outcome import UNCLEAR, outcome
from streammig.model import DeadLetter, Examined, Position, Record, Tally

POSITION = Position(0, 100, 50, 3)


def record(unit: int, *events: str) -> Record:
    body = b'{"id":"c1","events":[' + b",".join(b'"%b"' % event.encode() for event in events) + b"]}"
    return Record(POSITION, unit, "c1", body, len(events), (), (body.index(b"[") + 1, len(body) - 2))


def bad(unit: int, units: int = 0, code: str = "bad") -> DeadLetter:
    return DeadLetter(POSITION, unit, code, "what is wrong", Tally(1, units))


def rest(unit: int, units: int) -> DeadLetter:
    """A letter of units behind the first of their record."""
    return DeadLetter(POSITION, unit, "refused", "no", Tally(0, units))


def made(*parts: Record | DeadLetter) -> Examined:
    records = tuple(part for part in parts if isinstance(part, Record))
    return Examined(POSITION, records, dead=tuple(part for part in parts if isinstance(part, DeadLetter)))


FEW, MANY = record(0, "a", "b"), record(0, "a", "b", "c")
ALONE = made(bad(0, 2))
MAPPED = made(record(0, "a"), bad(1), record(2, "z"))
FILTERED = Examined(POSITION, filtered=(("deleted", Tally(1, 1)),))


@pytest.mark.parametrize(
    ("letter", "before", "now", "sent"),
    [
        (bad(0, 2), ALONE, made(record(0, "a", "b"), record(2, "c")), [record(0, "a", "b"), record(2, "c")]),
        (bad(0, 2), made(FEW), made(FEW), [FEW]),  # the target refused it
        (bad(0, 2), made(FEW), made(record(0, "x")), [record(0, "x")]),
        (rest(1, 2), made(MANY), made(MANY), [record(1, "b", "c")]),
        (rest(1, 2), made(MANY), made(record(0, "a", "x", "c")), [record(1, "x", "c")]),
        (bad(1), MAPPED, made(record(0, "a"), record(1, "b"), record(2, "z")), [record(1, "b")]),
        (bad(0, 3), made(MANY), made(MANY), [MANY]),  # the mapping was mended since
    ],
)
def test_a_letter_takes_what_nothing_else_was_sent_as(
    letter: DeadLetter, before: Examined, now: Examined, sent: list[Record]
) -> None:
    assert [it.body for it in outcome(letter, 0, before, now).records] == [it.body for it in sent]


@pytest.mark.parametrize(
    ("letter", "part", "before", "now", "code"),
    [
        (rest(1, 2), 0, made(MANY), made(record(0, "x", "b", "c")), UNCLEAR),  # what was sent is another now
        (rest(1, 1), 0, made(MANY), made(record(0, "a", "c")), UNCLEAR),  # another number of units
        (bad(1), 0, MAPPED, made(record(0, "a"), record(1, "b", "c"), record(3, "z")), UNCLEAR),
        (bad(1), 0, MAPPED, made(record(0, "a"), record(1, "b"), bad(2)), UNCLEAR),
        (bad(5, 9), 0, made(MANY), made(MANY), UNCLEAR),  # it stands for nothing that the record makes now
        (bad(0, 2), 2, ALONE, made(record(0, "a", "b", "c", "d")), UNCLEAR),  # the other half was accepted
        (bad(0, 9), 1, made(MANY), made(MANY), UNCLEAR),  # the mapping was mended, and others were sent
        (bad(0, 2), 0, ALONE, made(bad(0, 1, "worse")), "worse"),
        (bad(1), 0, MAPPED, made(record(0, "a"), bad(1, 0, "worse"), record(2, "z")), "worse"),
        (bad(0, 2), 0, ALONE, FILTERED, "deleted"),
    ],
)
def test_i3_where_that_is_unclear_or_still_bad_nothing_is_sent(
    letter: DeadLetter, part: int, before: Examined, now: Examined, code: str
) -> None:
    found = outcome(letter, part, before, now)
    assert (found.records, found.code, found.filtered) == ([], code, now is FILTERED)
