"""The batcher of once-only stages: bin packing, with each owner in one batch."""

from __future__ import annotations

from itertools import count

from streammig.batching.base import Batcher, OpenBatch, Sealing
from streammig.batching.bins import Bins
from streammig.columns import Chunk
from streammig.model import Record


class BestFit(Batcher):
    """Best-fit bin packing: a record goes into the open batch in which it leaves the least room."""

    def _open(self) -> None:
        self._bins: Bins[OpenBatch] = Bins(self._limits.units, self._limits.bytes)
        self._homes: dict[str, OpenBatch] = {}

    def _take(self, chunk: Chunk) -> list[Sealing]:
        if not self.only_sizes or chunk.columns.owners or not chunk.is_plain:
            return self._one_by_one(chunk)
        out: list[Sealing] = []
        self._take_sizes(chunk, out)
        return out

    def _take_sizes(self, chunk: Chunk, out: list[Sealing]) -> None:
        """Pack rows of different owners, by size only."""
        limits = self._limits
        for row in self._bins.fill(zip(chunk.columns.units, chunk.widths, count()), limits.held):
            if row is not None:
                units, size, at = row
                if units > limits.units or self._envelope + size - 1 > limits.bytes:
                    self._bury_too_large(chunk.records(at, at + 1)[0])
                    continue
                batch = self._best(units, size, out)
                batch.units += units
                batch.size += size - 1
                self._bins.put(batch, size - 1)
            self._tidy(out)
        if self._frontier.letters:
            out.append(Sealing(None, self._frontier.progress()))

    def _place(self, record: Record, out: list[Sealing]) -> None:
        if record.inner is None:
            raise ValueError("a record of a once-only stage must have units that can be joined with its owner's")
        limits = self._limits
        if record.units > limits.units or self._envelope + len(record.body) > limits.bytes:
            self._bury_too_large(record)
            return
        batch = self._homes.get(record.owner)
        if batch is None or not batch.fits(record, limits):
            batch = self._best(record.units, len(record.body) + 1, out)
        before = batch.size
        self._put(record, batch)
        self._bins.put(batch, batch.size - before)
        self._homes[record.owner] = batch

    def _best(self, units: int, size: int, out: list[Sealing]) -> OpenBatch:
        """The open batch in which these units fit best, or a new one. `size`: bytes with a comma."""
        batch = self._bins.best(units, size)
        if batch is not None:
            return batch
        if len(self._bins) >= self._limits.bins:
            out.append(self._seal(self._bins.fullest()))
        return OpenBatch(self._envelope, self._sealed)

    def _tidy(self, out: list[Sealing]) -> None:
        bins = self._bins
        while bins.full() or bins.held > self._limits.held:
            out.append(self._seal(bins.fullest()))
        while (oldest := bins.oldest()) is not None and self._sealed - oldest.born >= self._limits.age:
            out.append(self._seal(oldest))

    def _oldest(self) -> OpenBatch | None:
        return self._bins.oldest()

    def _forget(self, batch: OpenBatch) -> None:
        self._bins.remove(batch)
        for owner in batch.owners:
            if self._homes.get(owner) is batch:
                del self._homes[owner]
