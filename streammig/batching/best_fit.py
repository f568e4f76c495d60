"""Bin packing, for a stage in which each owner is sent once only and so whole."""

from __future__ import annotations

from collections.abc import Sequence

from streammig.batching.base import Batcher, BatchLimits, Buried, OpenBatch, Sealing
from streammig.columns import Chunk
from streammig.model import Progress, Range, Record


class BestFit(Batcher):
    """Bin packing, best fit: a record goes whole into the open batch that it leaves the least room in.

    Room is measured in one scale for units and bytes, the scarcer of the two, and open batches are listed by it. A
    number whose bits are the rooms that are listed finds the best fit without a search.
    """

    def __init__(
        self, head: bytes, tail: bytes, limits: BatchLimits, progress: Progress, ahead: Sequence[Range], buried: Buried
    ) -> None:
        super().__init__(head, tail, limits, progress, ahead, buried)
        # At least 1,000 steps, so that rounding bytes to a step wastes no more than a thousandth of a body.
        self._grain = -(-1000 // limits.units)
        self._scale = limits.units * self._grain
        self._listed: list[dict[OpenBatch, None]] = [{} for _ in range(self._scale + 1)]
        self._rooms = 0
        self._open: dict[OpenBatch, None] = {}
        self._homes: dict[str, OpenBatch] = {}
        self._held = 0

    def _take(self, chunk: Chunk) -> list[Sealing]:
        if not self.only_sizes:
            return self._one_by_one(chunk)
        out: list[Sealing] = []
        for record in chunk.records():
            self._place(record, out)
            self._tidy(out)
        return out

    def _place(self, record: Record, out: list[Sealing]) -> None:
        if record.inner is None:
            raise ValueError("a record of a once-only stage must have units that can be joined with its owner's")
        limits = self._limits
        if record.units > limits.units or self._envelope + len(record.body) > limits.bytes:
            self._bury_too_large(record)
            return
        batch = self._homes.get(record.owner)
        if batch is None or not batch.fits(record, limits):
            batch = self._best(record)
        if batch is None:
            if len(self._open) >= limits.bins:
                out.append(self._seal(self._fullest()))
            batch = OpenBatch(self._envelope, self._sealed)
            self._open[batch] = None
            self._held += batch.size
        else:
            self._unlist(batch)
        self._held -= batch.size
        self._put(record, batch)
        self._held += batch.size
        self._homes[record.owner] = batch
        self._list(batch)

    def _best(self, record: Record) -> OpenBatch | None:
        size = len(record.body) + 1
        need = max(record.units * self._grain, -(-size * self._scale // self._limits.bytes))
        rooms = self._rooms >> need
        return next(iter(self._listed[need + _lowest(rooms)])) if rooms else None

    def _fullest(self) -> OpenBatch:
        return next(iter(self._listed[_lowest(self._rooms)]))

    def _list(self, batch: OpenBatch) -> None:
        limits = self._limits
        room = (limits.bytes - batch.size) * self._scale // limits.bytes
        batch.room = min((limits.units - batch.units) * self._grain, room)
        self._listed[batch.room][batch] = None
        self._rooms |= 1 << batch.room

    def _unlist(self, batch: OpenBatch) -> None:
        listed = self._listed[batch.room]
        del listed[batch]
        if not listed:
            self._rooms &= ~(1 << batch.room)

    def _tidy(self, out: list[Sealing]) -> None:
        while self._listed[0] or self._held > self._limits.held:
            out.append(self._seal(self._fullest()))
        while (oldest := self._oldest()) is not None and self._sealed - oldest.born >= self._limits.age:
            out.append(self._seal(oldest))

    def _oldest(self) -> OpenBatch | None:
        return next(iter(self._open), None)

    def _forget(self, batch: OpenBatch) -> None:
        self._unlist(batch)
        del self._open[batch]
        self._held -= batch.size
        for owner in batch.owners:
            if self._homes.get(owner) is batch:
                del self._homes[owner]


def _lowest(bits: int) -> int:
    """The number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1
