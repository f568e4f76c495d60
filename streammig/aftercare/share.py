"""What of a source record belongs to one dead letter of it, as it was and as it is now."""

from __future__ import annotations

from typing import NamedTuple

from streammig.batching import select, tally_of
from streammig.records import DeadLetter, Examined, Place, Range, Record

UNCLEAR = "unclear-share"
_UNCLEAR = (
    "its source record makes several records, of which others were sent, and more than the one that is a dead letter"
    " comes out otherwise now"
)


class Share(NamedTuple):
    """What becomes of a dead letter now: records to send, or the code of why it is filtered or still dead."""

    records: list[Record]
    code: str = ""
    message: str = ""
    filtered: bool = False

    @property
    def units(self) -> tuple[int, int]:
        """From its first unit up to, not including, the last."""
        return self.records[0].unit, max(it.unit + it.units for it in self.records)


def share(letter: DeadLetter, before: Examined, now: Examined) -> Share:
    """What the letter's part of its source record is, which is `before` in the export and, if repaired, `now`.

    Where nothing else was made of the source record, all that it makes is the letter's. Else what others were sent as
    must be the same now, unit for unit, or a unit would be sent twice or not at all.
    """
    window = _window(letter, before)
    if window is None:
        return Share([], UNCLEAR, _UNCLEAR)
    begin, end = window
    if _alone(begin, end, before):
        records, dead = list(now.records), list(now.dead)
    else:
        shift = _end(now) - _end(before)
        ahead = _same(before, (0, begin), now, (0, begin))
        if not ahead or not _same(before, (end, _end(before)), now, (end + shift, _end(now))):
            return Share([], UNCLEAR, _UNCLEAR)
        records = _between(now, begin, end + shift)
        dead = [it for it in now.dead if begin <= it.unit < max(end + shift, begin + 1)]
    if dead:
        return Share([], dead[0].code, dead[0].message)
    if not records:
        return Share([], now.filtered[0][0], "", True) if now.filtered else Share([], UNCLEAR, _UNCLEAR)
    return Share(records)


def _window(letter: DeadLetter, before: Examined) -> tuple[int, int] | None:
    """The units of the source record that the letter stands for."""
    begin, units = letter.unit, letter.tally.units
    if any(it.unit == begin for it in before.dead):
        return begin, begin + 1  # what the rules refuse takes one number
    if units and tally_of(_between(before, begin, begin + units)) == letter.tally:
        return begin, begin + units  # it was a record, and the target or the packing refused it
    if begin == 0 and len(before.records) + len(before.dead) <= 1:
        return 0, _end(before)  # rules or mapping were mended since
    return None


def _alone(begin: int, end: int, examined: Examined) -> bool:
    inside = all(begin <= it.unit and it.unit + it.units <= end for it in examined.records)
    return inside and all(begin <= it.unit < max(end, begin + 1) for it in examined.dead)


def _end(examined: Examined) -> int:
    ends = [it.unit + it.units for it in examined.records] + [it.unit + 1 for it in examined.dead]
    return max(ends, default=0)


def _between(examined: Examined, begin: int, end: int) -> list[Record]:
    source, offset, ordinal = examined.position.source, examined.position.offset, examined.position.ordinal
    if end <= begin:
        return []
    return select(examined, [Range(Place(source, offset, begin, ordinal), Place(source, offset, end, ordinal))])


def _same(one: Examined, here: tuple[int, int], other: Examined, there: tuple[int, int]) -> bool:
    bodies = [[record.body for record in _between(it, *units)] for it, units in ((one, here), (other, there))]
    dead = [
        [it.unit - low for it in each.dead if low <= it.unit < high]
        for each, (low, high) in ((one, here), (other, there))
    ]
    return bodies[0] == bodies[1] and dead[0] == dead[1]
