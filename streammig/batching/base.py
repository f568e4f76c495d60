"""The base class of both batchers: open batches, sealing, and resuming after batches that are sealed already."""

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
    """The limits of a request, and of what a batcher keeps in memory."""

    units: int = 1000  # of a request
    bytes: int = 4_000_000  # of a request's encoded body
    # Open batches of a once-only stage. For records of 300 to 700 units, 32 fill batches half a percent worse than 64,
    # and 100 no better.
    bins: int = 64
    held: int = 32_000_000  # bytes of the bodies of all open batches; matters if units have more than 500 bytes
    age: int = 128  # an open batch is sealed after this many later ones, so that the frontier keeps moving
    letters: int = 10_000  # dead letters that may wait for the frontier; beyond that, the batch before them is sealed
    stretch: int = 100_000  # source records without a batch after which the progress is committed alone


Buried = Callable[[tuple[int, int, int]], bool]
"""Takes a spot (source, offset, unit). Tells whether its unit is or was a dead letter."""


def nothing(spot: tuple[int, int, int]) -> bool:
    return False


class Sealing(msgspec.Struct, frozen=True):
    """One commit of a batcher: a batch or None, and the progress after it."""

    draft: Draft | None
    progress: Progress

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        """As `Step.commit` of `streammig.stage`."""
        if self.draft is None:
            file.advance(stage, self.progress)
            return []
        return [file.seal(stage, self.draft, self.progress, at, mapping)]


class OpenBatch(Bin):
    """A batch that is still being filled. `size` is the exact size of its body, in bytes."""

    __slots__ = ("owners", "parts", "stretches", "uniques")

    def __init__(self, envelope: int, born: int) -> None:
        super().__init__(envelope, born)
        self.parts: list[Part] = []
        self.stretches: list[Stretch] = []
        self.owners: dict[str, Part] = {}
        self.uniques: dict[str, Part] = {}

    def rival(self, record: Record) -> Record | None:
        """The record inside with the same owner or the same unique value, or None."""
        found = self.owners.get(record.owner) or (self.uniques.get(record.unique) if record.unique else None)
        return found.alike(record.owner, record.unique) if isinstance(found, Rows) else found

    def cost(self, record: Record) -> int:
        """Bytes that the record would add to the body, with a comma: all, or only `inner` if its owner is inside."""
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
        """Add rows. False if any shares an owner or a unique value with another one, or with a record inside."""
        owners, uniques = rows.owners, rows.uniques
        mine: dict[str, Part] = dict.fromkeys(owners, rows)
        others: dict[str, Part] = dict.fromkeys(uniques, rows)
        if others.pop("", None) is not None:  # "": the row has no unique value
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
    """Packs the records of one stage, given in reading order from the frontier on.

    Synchronous and without I/O. Every unit ends in exactly one draft, dead letter or filter count. At each sealing,
    `Progress.read` is the sum of all these so far. Raises ValueError for a record without units, or with another
    number of units than `Record.units`.
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
        self._begun = progress.begun  # units to leave out of the first source record
        self.only_sizes = False  # make drafts without bodies, which have only a size
        self._open()

    def take(self, chunk: Chunk) -> list[Sealing]:
        """Pack the next source records. Returns the batches that are full now."""
        if 0 in chunk.columns.units:
            raise ValueError("a record without units can't be packed")  # no range could hold it
        if self._begun or self._ahead:
            return self._one_by_one(chunk)
        return self._take(chunk)

    def _one_by_one(self, chunk: Chunk) -> list[Sealing]:
        return [sealing for examined in chunk.all() for sealing in self._add(examined)]

    @property
    def ahead(self) -> Sequence[Range]:
        """Ranges beyond the head that an earlier reading has sealed."""
        return self._ahead

    def pass_over(self, span: Span) -> list[Sealing]:
        """Pass source records that an earlier reading has sealed completely."""
        out: list[Sealing] = []
        for at in range(len(span)):
            self._frontier.pass_over(span.position(at))
        self._passed(span.end)
        self._relieve(out)
        return out

    def leave(self, span: Span) -> list[Sealing]:
        """Leave source records for a later reading. The frontier stays before them."""
        frontier = self._frontier
        frontier.leave(span.position(0).begin, span.end, len(span))
        self._passed(span.end)
        return [Sealing(None, frontier.progress())] if frontier.unreported >= self._limits.stretch else []

    def _add(self, examined: Examined) -> list[Sealing]:
        """As `take`, for one source record."""
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
        """Seal all open batches at the end of the stage. The last progress is after the last source record."""
        out: list[Sealing] = []
        while (batch := self._oldest()) is not None:
            out.append(self._seal(batch))
        if self._frontier.unreported:
            out.append(Sealing(None, self._frontier.progress()))
        return out

    @abstractmethod
    def _open(self) -> None:
        """Begin without open batches."""

    @abstractmethod
    def _take(self, chunk: Chunk) -> list[Sealing]:
        """As `take`, for records of which nothing is sealed yet."""

    @abstractmethod
    def _place(self, record: Record, out: list[Sealing]) -> None:
        """Put the record into an open batch. Seal batches that must go before it."""

    @abstractmethod
    def _tidy(self, out: list[Sealing]) -> None:
        """Seal batches that are full or too old. Called at the end of a source record."""

    @abstractmethod
    def _oldest(self) -> OpenBatch | None:
        """The open batch that was begun first, or None."""

    @abstractmethod
    def _forget(self, batch: OpenBatch) -> None:
        """Close an open batch, because it is being sealed."""

    def _resume(self, examined: Examined, out: list[Sealing]) -> bool:
        """Place the units of a source record that are in no batch yet. Returns whether it was counted already.

        A source record counts once its end is sealed. Then its dead letters of that time are known. An owner may have
        become absent or present since. A dead letter stays one. A unit that was in an open batch may become one.
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
        """Keep memory flat and the frontier moving while many source records make no batch."""
        frontier, limits = self._frontier, self._limits
        while frontier.letters >= limits.letters and isinstance(blocker := frontier.blocker, OpenBatch):
            out.append(self._seal(blocker))
        # A batch with room is not sealed for this: to read filtered records again costs less than a request.
        if frontier.letters >= limits.letters or (frontier.unreported >= limits.stretch and frontier.blocker is None):
            out.append(Sealing(None, frontier.progress()))
