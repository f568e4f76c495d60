"""Best-fit search: finds the open bin for a number of units and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Row = tuple[int, int, int]  # units, bytes with a comma, and the caller's number for the row


class Bin:
    """The units in a bin, and the size of their body in bytes. `born`: the number of bins sealed before it."""

    __slots__ = ("born", "room", "size", "units")

    def __init__(self, envelope: int, born: int = 0) -> None:
        self.units = 0
        self.size = envelope
        self.born = born
        self.room = -1  # not in `Bins` yet


B = TypeVar("B", bound=Bin)


class Bins(Generic[B]):
    """The open bins. Each may hold `units` units and `size` bytes.

    The room of a bin is its room in units or in bytes, whichever is scarcer, on one scale for both. Bins are listed by
    room. Bit n of `_rooms` is set if a bin has room n, so the best fit is found without a search.
    """

    def __init__(self, units: int, size: int) -> None:
        # At least 1,000 steps, so that rounding bytes to a step wastes at most a thousandth of a body.
        self._grain = -(-1000 // units)
        self._units, self._size, self._scale = units, size, units * self._grain
        self._listed: list[dict[B, None]] = [{} for _ in range(self._scale + 1)]
        self._rooms = 0
        self._open: dict[B, None] = {}
        self.held = 0  # bytes in all of them

    def __len__(self) -> int:
        return len(self._open)

    def best(self, units: int, size: int) -> B | None:
        """The bin in which these leave the least room. Of equal bins, the one listed first."""
        need, bytes_ = units * self._grain, -(-size * self._scale // self._size)
        if bytes_ > need:
            need = bytes_
        if rooms := self._rooms >> need:
            return next(iter(self._listed[need + (rooms & -rooms).bit_length() - 1]))
        return None

    def put(self, bin_: B, grown: int) -> None:
        """List a bin again after it has grown by some bytes."""
        if bin_.room < 0:
            self._open[bin_] = None
            self.held += bin_.size
        else:
            self._unlist(bin_)
            self.held += grown
        room, bytes_ = (self._units - bin_.units) * self._grain, (self._size - bin_.size) * self._scale // self._size
        if bytes_ < room:
            room = bytes_
        bin_.room = room
        self._listed[room][bin_] = None
        self._rooms |= 1 << room

    def fill(self, rows: Iterable[Row], held: int) -> Iterator[Row | None]:
        """Call `best` and `put` for each row, inlined in one loop.

        Yields a row that fits into no bin. Yields None after a bin has become full, or if all bins together have more
        than `held` bytes.
        """
        grain, scale, most, size, listed = self._grain, self._scale, self._units, self._size, self._listed
        rooms, total = self._rooms, self.held
        for row in rows:
            units, grown, _ = row
            need, bytes_ = units * grain, -(-grown * scale // size)
            if bytes_ > need:
                need = bytes_
            told: Row | None = row
            if fitting := rooms >> need:
                room = need + (fitting & -fitting).bit_length() - 1
                there = listed[room]
                bin_ = next(iter(there))
                del there[bin_]
                if not there:
                    rooms ^= 1 << room
                bin_.units += units
                bin_.size += grown
                total += grown
                room, bytes_ = (most - bin_.units) * grain, (size - bin_.size) * scale // size
                if bytes_ < room:
                    room = bytes_
                bin_.room = room
                listed[room][bin_] = None
                rooms |= 1 << room
                if room and total <= held:
                    continue
                told = None
            self._rooms, self.held = rooms, total
            yield told
            rooms, total = self._rooms, self.held
        self._rooms, self.held = rooms, total

    def full(self) -> bool:
        """Whether one of them has no room left."""
        return bool(self._rooms & 1)

    def remove(self, bin_: B) -> None:
        self._unlist(bin_)
        del self._open[bin_]
        self.held -= bin_.size

    def fullest(self) -> B:
        return next(iter(self._listed[(self._rooms & -self._rooms).bit_length() - 1]))

    def oldest(self) -> B | None:
        """The bin that was opened first."""
        return next(iter(self._open), None)

    def _unlist(self, bin_: B) -> None:
        listed = self._listed[bin_.room]
        del listed[bin_]
        if not listed:
            self._rooms ^= 1 << bin_.room
