"""What of a source record belongs to one dead letter of it, as it was and as it is now."""

from __future__ import annotations

from typing import NamedTuple

from streammig.batching import cut, select, tally_of
from streammig.model import DeadLetter, Examined, Place, Range, Record

UNCLEAR = "unclear-share"
_UNCLEAR = "its source record makes several records, of which others were sent: which one it is now is unclear"
ALL = 1 << 40  # units, more than a source record makes


class Share(NamedTuple):
    """What becomes of a dead letter now: records to send, or the code of why it is filtered or still dead."""

    records: list[Record]
    code: str = ""
    message: str = ""
    filtered: bool = False
    part: bool = False  # others of the source record were sent


def share(letter: DeadLetter, part: int, before: Examined, now: Examined) -> Share:
    """What the letter's part of its source record is, which is `before` in the export and, if corrected, `now`.

    Where nothing else was made of the source record, all that it makes is the letter's. Else what others were sent as
    must be the same now, unit for unit, or a unit would be sent twice or not at all. `part` is 1 where
    others were sent for certain, and 2 where a replay sent more for this letter than the target refused.
    """
    units = _window(letter, part, before)
    if units is None:
        return Share([], UNCLEAR, _UNCLEAR)
    window = _range(letter, *units)
    others = _outside(before, window)
    if not others and not part:
        window = _range(letter, 0, ALL)
    elif _outside(now, window) != others:
        return Share([], UNCLEAR, _UNCLEAR)
    if dead := [it for it in now.dead if window.begin.unit <= it.unit < window.end.unit]:
        return Share([], dead[0].code, dead[0].message)
    if records := select(now.records, [window]):
        return Share(records, part=bool(others or part))
    return Share([], now.filtered[0][0], "", True) if now.filtered else Share([], UNCLEAR, _UNCLEAR)


def _window(letter: DeadLetter, part: int, before: Examined) -> tuple[int, int] | None:
    """The units of the source record that the letter stands for: from the first up to, not including, the last."""
    begin, units = letter.unit, letter.tally.units
    if part < 2 and any(it.unit == begin for it in before.dead):
        return begin, begin + 1  # what the rules refuse takes one number
    if units and tally_of(select(before.records, [_range(letter, begin, begin + units)])) == letter.tally:
        return begin, begin + units  # it was a record, and the target or the batcher refused it
    if not part and begin == 0 and len(before.records) + len(before.dead) <= 1:
        return 0, ALL  # rules or mapping were mended since
    return None


def _range(letter: DeadLetter, begin: int, end: int) -> Range:
    source, offset, ordinal = letter.position.source, letter.position.offset, letter.position.ordinal
    return Range(Place(source, offset, begin, ordinal), Place(source, offset, end, ordinal))


def _outside(examined: Examined, window: Range) -> list[tuple[int, bytes]]:
    """The unit numbers and bodies of what is not in the window; of dead ones only the numbers."""
    others = [(it.unit, it.body) for it, inside in cut(examined.records, [window]) if not inside]
    return others + [(it.unit, b"") for it in examined.dead if not window.begin.unit <= it.unit < window.end.unit]
