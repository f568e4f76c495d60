"""Columns: the judged records of a span, as arrays. Objects of single records are made only on demand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from functools import cached_property
from itertools import accumulate, pairwise, repeat
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from streammig.model import DeadLetter, Examined, Record, Span, Tally, add_by_reason

Facts = TypeVar("Facts")


class LeftOut(NamedTuple):
    """The parts of one source record that are not sent; fields as in `Examined`."""

    at: int  # index of the source record in the span
    filtered: tuple[tuple[str, Tally], ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()


class Columns:
    """The judged records of a span, in columns: one row for each element of a request, in reading order.

    A source record makes one row, no row, or several through a mapping.

    - `index`: index of the row's source record in the span
    - `unit`: number of the row's first unit in its source record, as in `Examined`
    - `edited`: bytes of each row that differs from the bytes in the span
    - `amounts[upto[i]:upto[i + 1]]`: the amounts of row i; `keys` has the key of each
    - `inner`, `uniques`: as `Record.inner` and `Record.unique`; empty if the stage has none
    - `left_out`: what is filtered or dead
    - `dropped`: paths of unknown fields that were cut, with the index in the span
    """

    __slots__ = (
        "amounts", "dropped", "edited", "index", "inner", "keys", "left_out", "owners", "uniques", "unit", "units",
        "upto",
    )  # fmt: skip

    def __init__(self) -> None:
        self.index: list[int] = []
        self.unit: list[int] = []
        self.owners: list[str] = []
        self.uniques: list[str] = []
        self.units: list[int] = []
        self.inner: list[tuple[int, int]] = []
        self.keys: list[str] = []
        self.amounts: list[Decimal] = []
        self.upto: list[int] = [0]
        self.edited: dict[int, bytes] = {}
        self.left_out: list[LeftOut] = []
        self.dropped: list[tuple[int, tuple[str, ...]]] = []

    def __len__(self) -> int:
        return len(self.index)

    def extend(self, other: Columns, begin: int, end: int) -> None:
        """Add the rows `begin` to `end` of other columns, without `left_out` and `dropped`."""
        low, high = other.upto[begin], other.upto[end]
        shift, rows = self.upto[-1] - low, len(self)
        if other.edited:
            self.edited.update([(rows + row - begin, body) for row, body in other.edited.items() if begin <= row < end])
        self.index += other.index[begin:end]
        self.unit += other.unit[begin:end]
        self.owners += other.owners[begin:end]
        self.uniques += other.uniques[begin:end]
        self.units += other.units[begin:end]
        self.inner += other.inner[begin:end]
        self.keys += other.keys[low:high]
        self.amounts += other.amounts[low:high]
        self.upto += [each + shift for each in other.upto[begin + 1 : end + 1]]

    def add(self, index: int, found: Examined) -> None:
        """Add one judged source record."""
        for record in found.records:
            self.edited[len(self)] = record.body
            self.index.append(index)
            self.unit.append(record.unit)
            self.owners.append(record.owner)
            self.units.append(record.units)
            self.keys += [key for key, _ in record.amounts]
            self.amounts += [amount for _, amount in record.amounts]
            self.upto.append(len(self.amounts))
            if record.inner is None:
                self.uniques.append(record.unique)
            else:
                self.inner.append(record.inner)
        if found.filtered or found.dead or found.absent:
            self.left_out.append(LeftOut(index, found.filtered, found.dead, found.absent))
        if found.dropped:
            self.dropped.append((index, found.dropped))


class Judged(NamedTuple):
    """The verdict of a compiled judge on a block of records: their edges, and columns for the clean ones.

    `unsure`: indices of the other records, which the rules must judge in Python.
    """

    by: object  # the judge; only its own rules can use the verdict
    starts: list[int]
    ends: list[int]
    columns: Columns
    unsure: list[int]


def merged(clean: Columns, others: Columns) -> Columns:
    """Merge columns of different records of one span, in reading order."""
    out, taken, row = Columns(), 0, 0
    if not len(others):  # no row comes between, so the lists are shared, not copied
        for name in Columns.__slots__:
            setattr(out, name, getattr(clean, name))
        taken = len(clean)
    while row < len(others):
        at = others.index[row]
        upto = bisect_left(clean.index, at, taken)
        behind = bisect_left(others.index, clean.index[upto], row) if upto < len(clean) else len(others)
        out.extend(clean, taken, upto)
        out.extend(others, row, behind)
        taken, row = upto, behind
    out.extend(clean, taken, len(clean))
    out.left_out = others.left_out
    out.dropped = sorted(clean.dropped + others.dropped, key=itemgetter(0))
    return out


class Chunk:
    """A span and the columns of its records."""

    def __init__(self, span: Span, columns: Columns) -> None:
        self.span = span
        self.columns = columns
        self._facts: Any = None
        self._left_out: dict[int, list[LeftOut]] = {}
        for it in columns.left_out:
            self._left_out.setdefault(it.at, []).append(it)
        self.dropped: dict[int, tuple[str, ...]] = {}
        for at, paths in columns.dropped:
            self.dropped[at] = self.dropped.get(at, ()) + paths

    @property
    def is_plain(self) -> bool:
        """Whether each source record makes exactly one row."""
        return len(self.columns) == len(self.span) and not any(self.columns.unit)

    @cached_property
    def edges(self) -> tuple[Sequence[int], Sequence[int]]:
        """The begin and the end of each row's source record, as offsets into the bytes of the span."""
        starts, ends, index = self.span.starts, self.span.ends, self.columns.index
        return (starts, ends) if self.is_plain else ([starts[at] for at in index], [ends[at] for at in index])

    @cached_property
    def widths(self) -> list[int]:
        """The size of each row in bytes, with a comma."""
        found = [end - start + 1 for start, end in zip(*self.edges, strict=True)]
        for row, body in self.columns.edited.items():
            found[row] = len(body) + 1
        return found

    @cached_property
    def sizes(self) -> list[int]:
        """Running total of `widths`: item i is the size of all rows before row i."""
        return list(accumulate(self.widths, initial=0))

    @cached_property
    def counts(self) -> list[int]:
        """Running total of units: item i is the units of all rows before row i."""
        return list(accumulate(self.columns.units, initial=0))

    def unusual(self) -> list[tuple[int, int, int]]:
        """Source records that are not exactly one row: (index, first row, row after the last)."""
        index = self.columns.index
        found = {*self._left_out}
        if not self.is_plain:
            found.update({*range(len(self.span))}.difference(index))
            found.update([at for at, unit in zip(index, self.columns.unit, strict=True) if unit])
        return [(at, *self.rows(at)) for at in sorted(found)]

    def rows(self, at: int) -> tuple[int, int]:
        """The first row of a source record, and the row after its last."""
        return bisect_left(self.columns.index, at), bisect_left(self.columns.index, at + 1)

    def _bodies(self, begin: int, end: int) -> list[bytes]:
        it = self.columns
        index = it.index[begin:end]
        if index and index[-1] - index[0] == len(index) - 1:
            bodies = self.span.cut(index[0], index[-1] + 1)
        else:
            bodies = [self.span.cut(at, at + 1)[0] for at in index]
        for row in it.edited.keys() & range(begin, end):
            bodies[row - begin] = it.edited[row]
        return bodies

    def facts(self, look: Callable[[bytes, Sequence[int], Sequence[int], dict[int, bytes]], Facts]) -> Facts:
        """Call `look` on the bodies of all rows, once; later calls return the same result."""
        if self._facts is None:
            self._facts = look(self.span.data, *self.edges, self.columns.edited)
        found: Facts = self._facts
        return found

    def records(self, begin: int = 0, end: int | None = None) -> list[Record]:
        """The rows from `begin` to `end` as `Record` objects."""
        end = len(self.columns) if end is None else end
        it, rows = self.columns, slice(begin, end)
        positions, bodies = list(map(self.span.position, it.index[rows])), self._bodies(begin, end)
        low, high = it.upto[begin], it.upto[end]
        pairs = list(zip(it.keys[low:high], it.amounts[low:high], strict=True))
        amounts = [tuple(pairs[first - low : last - low]) for first, last in pairwise(it.upto[begin : end + 1])]
        inner = it.inner[rows] if it.inner else repeat(None)
        uniques = it.uniques[rows] if it.uniques else repeat("")
        # In the order of the fields of `Record`.
        fields = (positions, it.unit[rows], it.owners[rows], bodies, it.units[rows], amounts, inner, uniques)
        return list(map(Record, *fields))

    def examined(self, at: int) -> Examined:
        """One source record as an `Examined` object."""
        filtered: dict[str, Tally] = {}
        dead: tuple[DeadLetter, ...] = ()
        absent: tuple[tuple[str, str], ...] = ()
        for it in self._left_out.get(at, ()):
            add_by_reason(filtered, it.filtered)
            dead, absent = dead + it.dead, absent + it.absent
        records = tuple(self.records(*self.rows(at)))
        left_out = tuple(filtered.items())
        return Examined(self.span.position(at), records, left_out, dead, absent, self.dropped.get(at, ()))

    def all(self) -> list[Examined]:
        """Every source record as an `Examined` object, in order."""
        found: list[Examined] = []
        row = 0
        for at, low, high in [*self.unusual(), (len(self.span), len(self.columns), 0)]:
            for record in self.records(row, low):
                found.append(Examined(record.position, (record,), dropped=self.dropped.get(len(found), ())))
            if at < len(self.span):
                found.append(self.examined(at))
            row = high
        return found

    def changed(self, ats: Collection[int], change: Callable[[Examined], Examined]) -> Columns:
        """A copy of the columns in which `change` has replaced these source records."""
        out, taken = Columns(), 0
        for at in sorted(ats):
            low, high = self.rows(at)
            out.extend(self.columns, taken, low)
            out.add(at, change(self.examined(at)))
            taken = high
        out.extend(self.columns, taken, len(self.columns))
        by_index = itemgetter(0)
        out.left_out = sorted([it for it in self.columns.left_out if it.at not in ats] + out.left_out, key=by_index)
        out.dropped = sorted([it for it in self.columns.dropped if it[0] not in ats] + out.dropped, key=by_index)
        return out


class Rows(NamedTuple):
    """Consecutive rows of a chunk. Each is its whole source record, and no source record between them is left out."""

    chunk: Chunk
    begin: int
    end: int

    @property
    def owners(self) -> list[str]:
        return self.chunk.columns.owners[self.begin : self.end]

    @property
    def size(self) -> int:
        """Size in bytes, with a comma after each row."""
        return self.chunk.sizes[self.end] - self.chunk.sizes[self.begin]

    @property
    def units(self) -> int:
        return self.chunk.counts[self.end] - self.chunk.counts[self.begin]

    @property
    def keys(self) -> list[str]:
        """The key of each item of `amounts`."""
        it = self.chunk.columns
        return it.keys[it.upto[self.begin] : it.upto[self.end]]

    @property
    def amounts(self) -> list[Decimal]:
        it = self.chunk.columns
        return it.amounts[it.upto[self.begin] : it.upto[self.end]]

    @property
    def uniques(self) -> list[str]:
        return self.chunk.columns.uniques[self.begin : self.end]

    @property
    def body(self) -> bytes:
        """The rows joined with commas: one slice of the span if the bytes are there in exactly this form."""
        span, first, last = (
            self.chunk.span,
            self.chunk.columns.index[self.begin],
            self.chunk.columns.index[self.end - 1],
        )
        edited = self.chunk.columns.edited.keys() & range(self.begin, self.end)
        begin, end = span.starts[first], span.ends[last]
        size = self.size - 1
        # Equal sizes mean gaps of one byte each. In an array that byte is the comma, between lines it is a newline.
        if not edited and size == end - begin and (first == last or span.data[span.ends[first]] == 0x2C):
            return span.data[begin:end]
        found = span.cut(first, last + 1)
        for row in edited:
            found[row - self.begin] = self.chunk.columns.edited[row]
        return b",".join(found)

    def records(self) -> list[Record]:
        return self.chunk.records(self.begin, self.end)

    def alike(self, owner: str, unique: str) -> Record:
        """The first record with this owner, or else with this `unique` value."""
        owners, uniques = self.owners, self.uniques
        row = self.begin + (owners.index(owner) if owner in owners else uniques.index(unique))
        return self.chunk.records(row, row + 1)[0]
