"""What every batcher shares: the open batch, the order of sealings, and going on beyond what was sealed before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import msgspec

from streammig.batching.bins import Bin
from streammig.batching.body import Part, assemble
from streammig.batching.progress import Frontier, Stretch
from streammig.batching.ranges import cut, ends_within, holds
from streammig.checkpoint import Checkpoint
from streammig.columns import Chunk, Rows
from streammig.model import Batch, DeadLetter, Draft, Examined, Place, Progress, Range, Record, Span, Tally


class BatchLimits(msgspec.Struct, frozen=True):
    """What a request may hold, and how much a batcher may keep open.

    `units` and `bytes` bound a request, `bytes` its encoded body. `bins` bounds the open batches of a once-only stage
    (32 miss the goal for records of 300 to 700 units by half a percent, 100 gain nothing over 64), `held` the bytes of
    their bodies, which keeps memory flat where units have more than 500 bytes. A bin older than `age` batches is
    sealed, so that the frontier follows the head. `letters` dead letters waiting for the frontier seal whatever holds
    it back, so that a stretch of nothing else does not grow memory. After `stretch` source records without a batch, how
    far was read is committed alone.
    """

    units: int = 1000
    bytes: int = 4_000_000
    bins: int = 64
    held: int = 32_000_000
    age: int = 128
    letters: int = 10_000
    stretch: int = 100_000


Buried = Callable[[tuple[int, int, int]], bool]
"""Whether the unit at a spot (source, offset, unit) is or was a dead letter."""


def nothing(spot: tuple[int, int, int]) -> bool:
    return False


class Sealing(msgspec.Struct, frozen=True):
    """What one commit puts into the checkpoint: a batch, or None, and the progress as of it."""

    draft: Draft | None
    progress: Progress

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        """Within a transaction; the batch that it seals, at `at` (seconds since the epoch)."""
        if self.draft is None:
            file.advance(stage, self.progress)
            return []
        return [file.seal(stage, self.draft, self.progress, at, mapping)]


class OpenBatch(Bin):
    """A batch that is still being filled, and the exact size of the body that it would have now."""

    __slots__ = ("owners", "parts", "stretches", "uniques")

    def __init__(self, envelope: int, born: int) -> None:
        super().__init__(envelope, born)
        self.parts: list[Part] = []
        self.stretches: list[Stretch] = []
        self.owners: dict[str, Part] = {}
        self.uniques: dict[str, Part] = {}

    def rival(self, record: Record) -> Record | None:
        """The record of which this one, a customer, would be a duplicate in the same request."""
        found = self.owners.get(record.owner) or (self.uniques.get(record.unique) if record.unique else None)
        return found.alike(record.owner, record.unique) if isinstance(found, Rows) else found

    def cost(self, record: Record) -> int:
        """Bytes that the record adds to the body: its own, or its inner slice where it is joined, and a comma."""
        if record.owner in self.owners and record.inner is not None:
            return 1 + record.inner[1] - record.inner[0]
        return len(record.body) + (1 if self.units else 0)

    def fits(self, record: Record, limits: BatchLimits) -> bool:
        return self.units + record.units <= limits.units and self.size + self.cost(record) <= limits.bytes

    def put(self, record: Record) -> None:
        self.size += self.cost(record)
        self.units += record.units
        self.parts.append(record)
        self.owners.setdefault(record.owner, record)
        if record.unique:
            self.uniques.setdefault(record.unique, record)

    def put_rows(self, rows: Rows) -> bool:
        """Put these in, unless they share an owner or a unique value with each other, or with what is in here."""
        owners, uniques = rows.owners, rows.uniques
        mine: dict[str, Part] = dict.fromkeys(owners, rows)
        others: dict[str, Part] = dict.fromkeys(uniques, rows)
        if others.pop("", None) is not None:  # these have none
            uniques = list(filter(None, uniques))
        if len(mine) < len(owners) or len(others) < len(uniques):
            return False
        if not (self.owners.keys().isdisjoint(mine) and self.uniques.keys().isdisjoint(others)):
            return False
        self.size += rows.size - (not self.parts)
        self.units += rows.units
        if self.parts:
            self.owners.update(mine)
            self.uniques.update(others)
        else:
            self.owners, self.uniques = mine, others
        self.parts.append(rows)
        return True


class Batcher(ABC):
    """Makes batches of one stage, given in reading order from the frontier on.

    Synchronous and without I/O. Every unit ends in exactly one draft, dead letter or filter count; together the
    sealings say so at each of them: `read` is what they have handed out so far. Raises ValueError for a record without
    units, or whose units are not what it says.
    """

    def __init__(
        self, head: bytes, tail: bytes, limits: BatchLimits, progress: Progress, ahead: Sequence[Range], buried: Buried
    ) -> None:
        self._head = head
        self._tail = tail
        self._limits = limits
        self._envelope = len(head) + len(tail)
        self._sealed = 0
        self._frontier = Frontier(progress)
        self._ahead = sorted(ahead)
        self._buried = buried
        self._begun = progress.begun  # left out here
        self.only_sizes = False  # whether drafts have sizes and nothing else

    def take(self, chunk: Chunk) -> list[Sealing]:
        """Take the next source records; the batches that are full now."""
        if 0 in chunk.columns.units:
            raise ValueError("a record without units can't be packed")  # no range would hold it
        if self._begun or self._ahead:
            return self._one_by_one(chunk)
        return self._take(chunk)

    def _take(self, chunk: Chunk) -> list[Sealing]:
        """As `take`, where nothing of it was sealed before."""
        return self._one_by_one(chunk)

    def _one_by_one(self, chunk: Chunk) -> list[Sealing]:
        return [sealing for examined in chunk.all() for sealing in self._add(examined)]

    @property
    def ahead(self) -> Sequence[Range]:
        """What was sealed beyond the head before this reading began."""
        return self._ahead

    def pass_over(self, span: Span) -> list[Sealing]:
        """Take source records of which all is in batches that were sealed before this reading began."""
        out: list[Sealing] = []
        for at in range(len(span)):
            self._frontier.pass_over(span.position(at))
        self._passed(span.end)
        self._relieve(out)
        return out

    def leave(self, span: Span) -> list[Sealing]:
        """Leave source records for a later reading, which begins with the first of them."""
        frontier = self._frontier
        frontier.leave(span.position(0).begin, span.end, len(span))
        self._passed(span.end)
        return [Sealing(None, frontier.progress())] if frontier.unreported >= self._limits.stretch else []

    def _add(self, examined: Examined) -> list[Sealing]:
        """As `take`, of what became of one source record."""
        out: list[Sealing] = []
        self._frontier.begin(examined.dead)
        if not self._begun and not self._ahead:
            for record in examined.records:
                self._place(record, out)
            self._frontier.close(examined)
        elif self._resume(examined, out):
            self._frontier.pass_over(examined.position)
        else:
            self._frontier.close(examined)
        self._tidy(out)
        self._relieve(out)
        return out

    def finish(self) -> list[Sealing]:
        """Seal everything that is open: the stage ends here. The last progress is behind the last source record."""
        out: list[Sealing] = []
        while (batch := self._oldest()) is not None:
            out.append(self._seal(batch))
        if self._frontier.unreported:
            out.append(Sealing(None, self._frontier.progress()))
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
        """Place what is in no batch yet; whether the rest of the source record was counted when its end was sealed.

        Where it was, its letters of then are known. Owners may have come or gone since: what was a letter stays one,
        and a letter that is new takes the place of what was in an open batch.
        """
        counted = ends_within(examined.position, self._ahead)
        fresh = [record for record, begun in cut(examined.records, self._begun) if not begun]
        for record, ahead in cut(fresh, self._ahead):
            if ahead or (counted and self._buried(record.begin[:3])):
                self._frontier.pass_by(record.end)
            else:
                self._place(record, out)
        for letter in examined.dead if counted else ():
            begin = letter.position.begin._replace(unit=letter.unit)
            if not (holds(begin, self._ahead) or self._buried(begin[:3])):
                self._frontier.bury(letter, begin)
        self._passed(examined.position.end)
        return counted

    def _passed(self, place: Place) -> None:
        self._begun = ()
        if self._ahead and self._ahead[-1].end[:2] <= place[:2]:
            self._ahead = []

    def _put(self, record: Record, batch: OpenBatch) -> None:
        batch.put(record)
        self._frontier.put(batch, batch.stretches, record.begin, record.end)

    def _bury(self, record: Record, code: str, message: str) -> None:
        letter = DeadLetter(record.position, record.unit, code, message, record.tally)
        self._frontier.bury(letter, record.end)

    def _bury_too_large(self, record: Record) -> None:
        message = (
            f"{record.units} units in {self._envelope + len(record.body)} bytes that can't be split, "
            f"more than the {self._limits.units} units or {self._limits.bytes} bytes that one request may hold"
        )
        self._bury(record, "too-large", message)

    def _seal(self, batch: OpenBatch) -> Sealing:
        self._forget(batch)
        self._sealed += 1
        if self.only_sizes:
            draft = Draft((), Tally(), b"", b"", size=batch.size)
        else:
            ranges = tuple([it.range for it in batch.stretches])
            draft = assemble(batch.parts, self._head, self._tail, ranges, len(batch.owners))
        self._frontier.seal(batch.stretches, draft.tally)
        return Sealing(draft, self._frontier.progress())

    def _relieve(self, out: list[Sealing]) -> None:
        """Keep memory flat, and the frontier moving, where many source records make no batch."""
        frontier, limits = self._frontier, self._limits
        while frontier.letters >= limits.letters and isinstance(blocker := frontier.blocker, OpenBatch):
            out.append(self._seal(blocker))
        # A batch that still has room is not sealed for this: reading a filtered stretch again costs less than a slot.
        if frontier.letters >= limits.letters or (frontier.unreported >= limits.stretch and frontier.blocker is None):
            out.append(Sealing(None, frontier.progress()))
