"""Decide what becomes of a dead letter now: find its part of the source record, as it was and as it is now."""

from __future__ import annotations

from typing import NamedTuple

from streammig.batching import cut, select, tally_of
from streammig.model import DeadLetter, Examined, Place, Range, Record

UNCLEAR = "unclear-share"
_UNCLEAR = "its source record makes several records, of which others were sent: which one it is now is unclear"
ALL = 1 << 40  # more units than any source record has


class Outcome(NamedTuple):
    """The records to send, or the code and the message of why the letter is filtered or still dead."""

    records: list[Record]
    code: str = ""
    message: str = ""
    filtered: bool = False
    part: bool = False  # whether other parts of the source record were sent


def outcome(letter: DeadLetter, part: int, before: Examined, now: Examined) -> Outcome:
    """Find the letter's part of its source record: `before` is the record as exported, `now` as corrected.

    If the source record made nothing else, all of it belongs to the letter. Else its other parts must be the same now,
    unit for unit, or a unit would be sent twice or not at all.

    `part` comes from the checkpoint: 1 if other parts were certainly sent, 2 if a replay sent more for this letter than
    the target refused.
    """
    units = _window(letter, part, before)
    if units is None:
        return Outcome([], UNCLEAR, _UNCLEAR)
    window = _range(letter, *units)
    others = _outside(before, window)
    if not others and not part:
        window = _range(letter, 0, ALL)
    elif _outside(now, window) != others:
        return Outcome([], UNCLEAR, _UNCLEAR)
    if dead := [it for it in now.dead if window.begin.unit <= it.unit < window.end.unit]:
        return Outcome([], dead[0].code, dead[0].message)
    if records := select(now.records, [window]):
        return Outcome(records, part=bool(others or part))
    return Outcome([], now.filtered[0][0], "", True) if now.filtered else Outcome([], UNCLEAR, _UNCLEAR)


def _window(letter: DeadLetter, part: int, before: Examined) -> tuple[int, int] | None:
    """Return the units of the source record that the letter stands for, as (begin, end); None if that is unclear."""
    begin, units = letter.unit, letter.tally.units
    if part < 2 and any(it.unit == begin for it in before.dead):
        return begin, begin + 1  # the rules refuse it still; such a part takes one number
    if units and tally_of(select(before.records, [_range(letter, begin, begin + units)])) == letter.tally:
        return begin, begin + units  # it was valid, and the target or the batcher refused it
    if not part and begin == 0 and len(before.records) + len(before.dead) <= 1:
        return 0, ALL  # rules or mapping have changed since
    return None


def _range(letter: DeadLetter, begin: int, end: int) -> Range:
    source, offset, ordinal = letter.position.source, letter.position.offset, letter.position.ordinal
    return Range(Place(source, offset, begin, ordinal), Place(source, offset, end, ordinal))


def _outside(examined: Examined, window: Range) -> list[tuple[int, bytes]]:
    """Return unit number and body of each part outside the window; an empty body for a dead part."""
    others = [(it.unit, it.body) for it, inside in cut(examined.records, [window]) if not inside]
    return others + [(it.unit, b"") for it in examined.dead if not window.begin.unit <= it.unit < window.end.unit]
