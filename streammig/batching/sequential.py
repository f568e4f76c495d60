"""The batcher of all other stages: fills one batch after the other, and splits records at the limit."""

from __future__ import annotations

from bisect import bisect_right

from streammig.batching.base import Batcher, OpenBatch, Sealing
from streammig.batching.body import Bounds, part_of
from streammig.columns import Chunk, Rows
from streammig.model import Record


class Sequential(Batcher):
    """Fills one open batch to the last unit. Records with `inner` are split where it is full."""

    def _open(self) -> None:
        self._batch = OpenBatch(self._envelope, 0)

    def _take(self, chunk: Chunk) -> list[Sealing]:
        out: list[Sealing] = []
        row = 0
        for at, low, high in chunk.unusual():
            self._take_rows(chunk, row, low, out)
            out += self._add(chunk.examined(at))
            row = high
        self._take_rows(chunk, row, len(chunk.columns), out)
        return out

    def _take_rows(self, chunk: Chunk, at: int, last: int, out: list[Sealing]) -> None:
        """Pack rows, each of which is a whole source record."""
        sizes, units, limits = chunk.sizes, chunk.counts, self._limits
        while at < last:
            batch = self._batch
            room = limits.bytes - batch.size + (not batch.parts)
            most = bisect_right(units, units[at] + limits.units - batch.units, at, last + 1)
            end = bisect_right(sizes, sizes[at] + room, at, most) - 1
            rows = Rows(chunk, at, min(end, at + limits.stretch - self._frontier.unreported))
            at = max(rows.end, at + 1)
            if rows.end > rows.begin and batch.put_rows(rows):
                self._frontier.put_rows(batch, batch.stretches, rows)
                self._tidy(out)
                self._relieve(out)
            else:
                for row in range(rows.begin, at):
                    out += self._add(chunk.examined(chunk.columns.index[row]))

    def _place(self, record: Record, out: list[Sealing]) -> None:
        rival = self._batch.rival(record) if record.inner is None else None
        if rival is not None:
            self._bury(record, "duplicate-customer", _duplicate(record, rival))
        elif self._batch.fits(record, self._limits):
            self._put(record, self._batch)
        elif record.inner is not None:
            self._split(record, out)
        elif self._envelope + len(record.body) > self._limits.bytes or record.units > self._limits.units:
            self._bury_too_large(record)
        else:
            out.append(self._seal(self._batch))
            self._put(record, self._batch)

    def _split(self, record: Record, out: list[Sealing]) -> None:
        bounds = Bounds(record)
        at = 0
        while at < record.units:
            fitting = self._fitting(record, bounds, at)
            if fitting:
                self._put(part_of(record, at, at + fitting, bounds), self._batch)
                at += fitting
            if at == record.units:
                return
            # Never put a second part into the same batch. Joined, the two would lose the white space between them. Then
            # the bytes would differ from those that the batch's range gives when it is read again.
            unit = part_of(record, at, at + 1, bounds)
            if self._envelope + len(unit.body) > self._limits.bytes:
                self._bury_too_large(unit)
                at += 1
            else:
                out.append(self._seal(self._batch))

    def _fitting(self, record: Record, bounds: Bounds, at: int) -> int:
        """The number of the record's units, from `at` on, for which the open batch has room."""
        batch, limits = self._batch, self._limits
        most = min(record.units, at + limits.units - batch.units)
        # `bounds.ends[-1]` is the length of the inner slice, so this is the room for parts of that slice.
        room = limits.bytes - batch.size - (batch.cost(record) - bounds.ends[-1])
        return bisect_right(bounds.ends, bounds.starts[at] + room, at, most) - at

    def _tidy(self, out: list[Sealing]) -> None:
        if self._batch.units == self._limits.units:
            out.append(self._seal(self._batch))

    def _oldest(self) -> OpenBatch | None:
        return self._batch if self._batch.parts else None

    def _forget(self, batch: OpenBatch) -> None:
        self._open()


def _duplicate(record: Record, rival: Record) -> str:
    shared = "the customer's id" if rival.owner == record.owner else "a value that must be unique, such as the e-mail,"
    place = f"record {rival.position.ordinal}"
    if rival.position.source != record.position.source:
        place += f" of file {rival.position.source + 1}"
    return f"{shared} is that of {place} already, which is sent"
