"""What every packer shares: the open batch, the order of sealings, and going on beyond what was sealed before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from streammig.columns import Chunk, Rows
from streammig.packing.bodies import Part, are_strangers, assemble, cut, ends_within
from streammig.packing.ledger import Ledger, Span
from streammig.records import DeadLetter, Draft, Examined, Progress, Range, Record


class BatchLimits(msgspec.Struct, frozen=True):
    """What a request may hold, and how much a packer may keep open.

    `units` and `bytes` bound a request, `bytes` its encoded body. `bins` bounds the open batches of a once-only stage
    (32 miss the goal for records of 300 to 700 units by half a percent, 100 gain nothing over 64), `held` the bytes
    of their bodies. They hold bodies and not positions, since a body can't be fetched again from a compressed export
    without inflating it anew; `held` keeps that flat, and reaches its bound only with units of more than 500 bytes.
    A bin older than `age` batches is sealed, so that the frontier follows the head.
    `letters` dead letters waiting for the frontier seal whatever holds it back, so that a stretch of nothing
    else does not grow memory. After `stretch` source records without a batch, how far was read is committed alone.
    """

    units: int = 1000
    bytes: int = 4_000_000
    bins: int = 64
    held: int = 32_000_000
    age: int = 128
    letters: int = 10_000
    stretch: int = 100_000


class Sealing(msgspec.Struct, frozen=True):
    """What one commit puts into the checkpoint: a batch, or None, and the progress as of it."""

    draft: Draft | None
    progress: Progress


class OpenBatch:
    """A batch that is still being filled, and the exact size of the body that it would have now."""

    __slots__ = ("born", "owners", "records", "room", "size", "spans", "twins", "units")

    def __init__(self, envelope: int, born: int) -> None:
        self.records: list[Part] = []
        self.spans: list[Span] = []
        self.owners: dict[str, Part] = {}
        self.twins: dict[str, Part] = {}
        self.units = 0
        self.size = envelope
        self.born = born
        self.room = 0

    def rival(self, record: Record) -> Record | None:
        """The record of which this one, a customer, would be a duplicate in the same request."""
        found = self.owners.get(record.owner) or (self.twins.get(record.twin) if record.twin else None)
        return found.alike(record.owner, record.twin) if isinstance(found, Rows) else found

    def cost(self, record: Record) -> int:
        """Bytes that the record adds to the body: its own, or its inner slice where it is joined, and a comma."""
        if record.owner in self.owners and record.inner is not None:
            return 1 + record.inner[1] - record.inner[0]
        return len(record.body) + (1 if self.records else 0)

    def fits(self, record: Record, limits: BatchLimits) -> bool:
        return self.units + record.units <= limits.units and self.size + self.cost(record) <= limits.bytes

    def strange_to(self, rows: Rows) -> bool:
        """Whether these share no owner or twin with each other, or with what is in here."""
        return (
            are_strangers([rows])
            and self.owners.keys().isdisjoint(rows.owners)
            and self.twins.keys().isdisjoint(rows.uniques)
        )

    def put_all(self, rows: Rows) -> None:
        """Put in strangers."""
        sizes, counts = rows.chunk.sizes, rows.chunk.counts
        self.size += sizes[rows.end] - sizes[rows.begin] - (not self.records)
        self.units += counts[rows.end] - counts[rows.begin]
        self.records.append(rows)
        self.owners.update(dict.fromkeys(rows.owners, rows))
        self.twins.update(dict.fromkeys(filter(None, rows.uniques), rows))

    def put(self, record: Record) -> None:
        self.size += self.cost(record)
        self.units += record.units
        self.records.append(record)
        self.owners.setdefault(record.owner, record)
        if record.twin:
            self.twins.setdefault(record.twin, record)


class Packer(ABC):
    """Makes batches out of the examined records of one stage, given in reading order from the frontier on.

    Synchronous and without I/O. Every unit ends in exactly one draft, dead letter or filter count; together the
    sealings say so at each of them: `read` is what they have handed out so far. Raises ValueError for a
    record without units, or whose units are not what it says.
    """

    def __init__(
        self, head: bytes, tail: bytes, limits: BatchLimits, progress: Progress, ahead: Sequence[Range]
    ) -> None:
        self._head = head
        self._tail = tail
        self._limits = limits
        self._envelope = len(head) + len(tail)
        self._sealed = 0
        self._ledger = Ledger(progress)
        self._ahead = sorted(ahead)
        frontier = progress.frontier
        # The units of the first source record that are behind the frontier: already counted, so left out here.
        self._counted = [Range(frontier._replace(unit=0), frontier)] if frontier.unit else []

    def add(self, examined: Examined) -> list[Sealing]:
        """Take what became of the next source record; the batches that are full now, usually none."""
        out: list[Sealing] = []
        ledger = self._ledger
        for record in examined.records:
            if record.units < 1:
                # It would lie in no range, and so be lost when its batch is put together again.
                raise ValueError("a record without units can't be packed")
        if examined.dead:
            ledger.begin(examined)
        if not self._counted and not self._ahead:
            for record in examined.records:
                self._place(record, out)
            ledger.close(examined)
        elif self._resume(examined, out):
            ledger.pass_over(examined.position)
        else:
            ledger.close(examined)
        self._tidy(out)
        self._relieve(out)
        return out

    def take_chunk(self, chunk: Chunk) -> list[Sealing]:
        """As `take` for all source records of a chunk."""
        return self.take(chunk.all())

    def take(self, run: Sequence[Examined]) -> list[Sealing]:
        """As `add` for each of these in order."""
        return [sealing for examined in run for sealing in self.add(examined)]

    def finish(self) -> list[Sealing]:
        """Seal everything that is open: the stage ends here. The last progress stands behind the last source record."""
        out: list[Sealing] = []
        while (batch := self._oldest()) is not None:
            out.append(self._seal(batch))
        if self._ledger.unreported:
            out.append(Sealing(None, self._ledger.progress()))
        return out

    @abstractmethod
    def _place(self, record: Record, out: list[Sealing]) -> None:
        """Put the record into open batches, sealing what must go before it."""

    @abstractmethod
    def _tidy(self, out: list[Sealing]) -> None:
        """Seal what is full or too old, at the end of a source record."""

    @abstractmethod
    def _oldest(self) -> OpenBatch | None:
        """The open batch that was begun first, or None."""

    @abstractmethod
    def _forget(self, batch: OpenBatch) -> None:
        """The batch is being sealed: no more into it."""

    def _resume(self, examined: Examined, out: list[Sealing]) -> bool:
        """Place what is in no batch yet; whether the rest of the source record was counted when its end was sealed."""
        fresh = [record for record, counted in cut(examined.records, self._counted) if not counted]
        self._counted = []
        for record, ahead in cut(fresh, self._ahead):
            if ahead:
                self._ledger.pass_by(record)
            else:
                self._place(record, out)
        counted = ends_within(examined.position, self._ahead)
        source, offset = examined.position.source, examined.position.offset
        if self._ahead and self._ahead[-1].end[:2] <= (source, offset + examined.position.length):
            self._ahead = []
        return counted

    def _put(self, record: Record, batch: OpenBatch) -> None:
        batch.put(record)
        self._ledger.pack(record, batch, batch.spans)

    def _bury(self, record: Record, code: str, message: str) -> None:
        letter = DeadLetter(record.position, record.unit, code, message, record.tally)
        self._ledger.bury(record, letter)

    def _bury_too_large(self, record: Record) -> None:
        message = (
            f"{record.units} units in {self._envelope + len(record.body)} bytes that can't be split, "
            f"more than the {self._limits.units} units or {self._limits.bytes} bytes that one request may hold"
        )
        self._bury(record, "too-large", message)

    def _seal(self, batch: OpenBatch) -> Sealing:
        self._forget(batch)
        self._sealed += 1
        ranges = tuple([span.range for span in batch.spans])
        draft = assemble(batch.records, self._head, self._tail, ranges)
        self._ledger.seal(batch.spans, draft.tally)
        return Sealing(draft, self._ledger.progress())

    def _relieve(self, out: list[Sealing]) -> None:
        """Keep memory flat, and the frontier moving, where many source records make no batch."""
        ledger = self._ledger
        if ledger.letters < self._limits.letters and ledger.unreported < self._limits.stretch:
            return
        while ledger.letters >= self._limits.letters:
            blocker = ledger.blocker
            if not isinstance(blocker, OpenBatch):
                out.append(Sealing(None, ledger.progress()))
                return
            out.append(self._seal(blocker))
        # A batch that still has room is not sealed for this: reading a filtered stretch again costs less than a slot.
        if ledger.unreported >= self._limits.stretch and ledger.blocker is None:
            out.append(Sealing(None, ledger.progress()))
