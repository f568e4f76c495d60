"""Check one stage: take notes of each span, then find the problems that only the whole stage shows."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, product
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from streammig.batching import BatchLimits, part_of, tally_of
from streammig.check.kinds import Kinds, named_field
from streammig.check.outline import Outline, RowKey
from streammig.check.purchases import CODE as TWICE
from streammig.check.purchases import Purchases
from streammig.check.requests import Planning, Unsendable, planned
from streammig.columns import Chunk, Columns, Rows
from streammig.dedup import KeyIndex, absent, rows_of_units
from streammig.disk import create, disk_fault, own_folder
from streammig.fields import AtFault
from streammig.model import ZERO, DeadLetter, Place, Position, Record, Span, Tally, add_by_reason, add_up, spoken_place
from streammig.scan import OUTLINES, Halted, Task, Tasks
from streammig.selection import Why, WithOwners
from streammig.sources.source import Source
from streammig.target import Rules, tells_facts

NEAR = 1 << 20  # bytes; a smaller gap between two records is read through, for a seek costs more
MOST_MENTIONED = 5_000  # names of one kind (brands, say): more than any account has


class Line(msgspec.Struct):
    """A problem of a record: one line of the file that lists all problems.

    `unit` tells apart the parts that a mapping made of one record. `column` is as in `AtFault`. `id` is the customer's.
    """

    stage: str
    file: str
    line: int
    column: str | None
    offset: int
    unit: int
    code: str
    field: str
    message: str
    id: str


@dataclass(slots=True)
class Checked:
    """The result for a stage: what would be sent, in how many requests and bytes, what is left out, and problems."""

    name: str
    files: Sequence[str]
    fault: AtFault
    source_records: int = 0
    sent: Tally = field(default_factory=Tally)
    refused: Tally = field(default_factory=Tally)
    requests: int = 0
    bytes: int = 0
    filtered: dict[str, Tally] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    kinds: Kinds = field(default_factory=Kinds)
    dead: int = 0
    repeated: int = 0  # units that are sent, although an earlier one of their owner has the same key
    mentioned: dict[str, Counter[str]] = field(default_factory=dict)  # by kind, how often each name occurs

    def add(self, note: Note, counted: int) -> None:
        """Add the note of a piece, without its dead letters. Call it in reading order."""
        self.source_records += note.records
        self.sent += note.sent
        add_by_reason(self.filtered, note.filtered.items())
        self.dropped += note.dropped
        for (kind, name), times in sorted(note.mentioned.items()):
            found = self.mentioned.setdefault(kind, Counter())
            if name in found or len(found) < MOST_MENTIONED:
                found[name] += times

    def refuse(self, letter: DeadLetter, owner: str) -> Line:
        """Add a dead letter, with the id of its owner."""
        self.dead += 1
        self.refused += letter.tally
        return self.add_problem(letter, owner)

    def add_problem(self, letter: DeadLetter, owner: str) -> Line:
        """Add a problem of a record, sent or not, and return it as a line."""
        at, column = letter.position, self.fault.column(letter.code, letter.message)
        self.kinds.add(letter, owner, column)
        return Line(
            stage=self.name, file=self.files[at.source], line=at.ordinal, column=column, offset=at.offset,
            unit=letter.unit, code=letter.code, field=named_field(letter.message), message=letter.message, id=owner,
        )  # fmt: skip

    def unsend(self, record: Record, rules: Rules) -> None:
        """Subtract a record that turned out not to be sent."""
        self.sent -= record.tally
        body, telling = record.body, tells_facts(rules)
        for kind, name in telling.facts(body, [0], [len(body)], {}).mentioned if telling is not None else ():
            found = self.mentioned[kind]
            found[name] -= 1
            if not found[name]:
                del found[name]

    def document(self, full: int, ids: bool) -> dict[str, Any]:
        """Return the result as JSON. `full` is the number of units in a full request; `ids` adds customers' ids."""
        parts = {"sent": self.sent, "filtered": add_up(self.filtered.values()), "dead": self.refused}
        keys = sorted({key for it in parts.values() for key in it.sums})
        return {
            "source_records": self.source_records, "records": self.sent.records, "units": self.sent.units,
            "requests": self.requests, "bytes": self.bytes,
            "fill": round(self.sent.units / (self.requests * full), 4) if self.requests else None,
            "sums": {key: str(value) for key, value in sorted(self.sent.sums.items())},
            "in_units": {part: it.units for part, it in parts.items()},
            "amounts": {
                key: {part: f"{it.sums.get(key, ZERO):f}" for part, it in parts.items()} for key in keys
            },
            "dead": self.dead, "repeated": self.repeated, "problems": self.kinds.document(self.files, ids),
            "filtered": {reason: it.records for reason, it in self.filtered.items()},
            "dropped": dict(self.dropped), "mentioned": {kind: len(it) for kind, it in sorted(self.mentioned.items())},
        }  # fmt: skip


@dataclass(slots=True)
class Note:
    """The share of one piece in the result. Its ordinals are those of `Part`."""

    records: int = 0
    sent: Tally = field(default_factory=Tally)
    filtered: dict[str, Tally] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    letters: list[tuple[DeadLetter, str]] = field(default_factory=list)  # each with the id of its owner
    mentioned: Counter[tuple[str, str]] = field(default_factory=Counter)
    outlines: list[Outline] = field(default_factory=list)
    purchases: bytearray = field(default_factory=bytearray)  # rows for `Purchases`; appending to it copies nothing


@dataclass(frozen=True, slots=True)
class NoteMaker:
    """Takes notes of a stage by its `rules`. `owners` is the index of the customers, if these are another stage.

    `shared`: two rows may share an owner or another unique key; their hashes are made with `key`.
    """

    rules: Rules
    owners: KeyIndex | None
    shared: bool
    key: bytes
    limits: BatchLimits

    def begin(self) -> Note:
        return Note()

    def around(self, rules: Rules) -> Rules:
        """Wrap rules so that they leave out records of customers that will not be at the target."""
        return rules if self.owners is None else WithOwners(rules, partial(absent, self.owners, _NoNotes()))

    def take(self, note: Note, chunk: Chunk) -> None:
        span, columns = chunk.span, self.around(_Known(self.rules, chunk.columns)).columns(chunk.span)
        if columns is not chunk.columns:
            chunk = Chunk(span, columns)
        note.records += len(span)
        for left in columns.left_out:
            add_by_reason(note.filtered, left.filtered)
            if left.dead:
                owner = left.absent[0][0] if left.absent else _id_of(span, left.at)
                note.letters += [(letter, owner) for letter in left.dead]
        note.dropped.update(path for _, paths in columns.dropped for path in paths)
        if not len(columns):
            return
        note.sent += tally_of([Rows(chunk, 0, len(columns))])
        if not note.outlines or note.outlines[-1].source != span.source:
            mean = inf if self.rules.once else self.limits.bytes / self.limits.units / 2
            note.outlines.append(Outline(span.source, mean))
        note.outlines[-1].add(chunk, self.key, shared=self.shared)
        if (telling := tells_facts(self.rules)) is not None:
            facts = chunk.facts(telling.facts)
            note.mentioned.update(facts.mentioned)
            note.purchases += rows_of_units(chunk, self.key, facts.keys)


class Stage:
    """The check of a stage: `take` each note in reading order, then `begin_plan`, then `settle`.

    All raise `MachineFault` for an error of the disk. The outlines are in a file in `folder` until `close`. `write`
    gets every problem.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        folder: Path,
        write: Callable[[Line], None],
        purchases: Purchases | None = None,
        table: Mapping[str, Any] | None = None,
    ) -> None:
        """`table` is as in `AtFault`."""
        fault = AtFault(name, source.header, table)
        self._marks = source.fingerprints()
        self.checked = Checked(name, [mark["file"] for mark in self._marks], fault)
        self._source, self._write, self._purchases = source, write, purchases
        self._folder, self._path = folder, folder / f"{name}{OUTLINES}"
        with self._on_disk():
            own_folder(folder)
            self._path.unlink(missing_ok=True)  # a check that was killed left it
            self._outlines = create(self._path)

    def take(self, note: Note, counted: int) -> None:
        self.checked.add(note, counted)
        for letter, owner in note.letters:
            behind = msgspec.structs.replace(letter, position=letter.position.behind(counted))
            self._write(self.checked.refuse(behind, owner))
        if self._purchases is not None:
            self._purchases.add(bytes(note.purchases), counted)
        with self._on_disk():
            for outline in note.outlines:
                outline.counted = counted
                pickle.dump(outline, self._outlines)

    def begin_plan(self, note_maker: NoteMaker, index: KeyIndex | None, tasks: Tasks) -> None:
        """Begin to plan the requests, in a worker if one of this machine is there.

        `note_maker` is the one that made the notes; `index` holds the keys of the stage.
        """
        with self._on_disk():
            self._outlines.flush()
        it = self._note_maker = note_maker
        rules = it.rules
        planning = Planning(
            self._path, rules.head, rules.tail, rules.once, it.limits, index, it.owners, marks=self._marks
        )
        self._planning, self._tasks = planning, tasks
        self._plan = Task(planned, (planning,), partial(planned, planning, tasks.halt))
        if tasks.workers is None or not tasks.workers.remote:  # a remote worker does not see this disk
            tasks.begin(self._plan)

    def settle(self) -> Checked:
        """Wait for the plan, and refuse the records that the rest of the stage keeps back. Raises `Halted`."""
        found = self.checked
        with self._on_disk():
            plan = self._tasks.result(self._plan)
        found.requests, found.bytes = plan.number, plan.size
        if plan.any_unsendable:
            unsendable = Unsendable(self._planning, self._tasks.halt)
            for outline in self._stored():
                if whys := unsendable.of(outline):
                    self._refuse(outline, whys)
        if plan.letters:
            self._refuse_too_large(plan.letters)
        if self._purchases is not None:
            self._add_repeated(self._purchases)
        return found

    def _records_at(self, places: Iterable[Place]) -> Iterator[tuple[Place, list[Record]]]:
        return records_at(self._source, self._note_maker.around(self._note_maker.rules), places)

    def _add_repeated(self, purchases: Purchases) -> None:
        """Add a problem for each purchase that occurs again. It is sent nevertheless: only its key is the same."""
        for place, twins in groupby(purchases.repeated(self._tasks), lambda it: it.place._replace(unit=0)):
            if self._tasks.halt.is_set():
                raise Halted
            ((_, records),) = self._records_at([place])
            for it in twins:
                record = next((r for r in records if r.unit <= it.place.unit < r.unit + r.units), None)
                owner = record.owner if record is not None else ""
                at = record.position if record is not None else Position(place.source, place.offset, 0, place.ordinal)
                said = (
                    f"the same purchase of this customer is in {spoken_place(it.first, self._marks)}, which comes first"
                )
                letter = DeadLetter(at, it.place.unit, TWICE, said, Tally())
                self.checked.repeated += 1
                self._write(self.checked.add_problem(letter, owner))

    def _stored(self) -> Iterator[Outline]:
        with self._on_disk():
            yield from self._planning.stored(self._tasks.halt)

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Turn an error of the disk into a `MachineFault`."""
        try:
            yield
        except OSError as error:
            what = f"{self._folder}: the notes of the check can't be kept there"
            raise disk_fault("check-io", what, "Check the disk, then run the same command.", error) from None

    def _refuse(self, outline: Outline, whys: Mapping[RowKey, Why]) -> None:
        rows = {key: row for row, key in enumerate(outline.row_keys()) if key in whys}
        places = {offset: outline.place(row) for (offset, _), row in rows.items()}
        for place, records in self._records_at(places.values()):
            for record in records:
                if (why := whys.get((place.offset, record.unit))) is not None:
                    self._leave_out(record, why)

    def _refuse_too_large(self, letters: Sequence[DeadLetter]) -> None:
        found = {(it.position.source, it.position.offset): list[DeadLetter]() for it in letters}
        for it in letters:
            found[it.position.source, it.position.offset].append(it)
        for outline in self._stored():
            rows = {offset: row for row, offset in enumerate(outline.offsets) if (outline.source, offset) in found}
            for place, records in self._records_at(map(outline.place, rows.values())):
                for letter, record in product(found[place[:2]], records):
                    if 0 <= (at := letter.unit - record.unit) < record.units:
                        part = part_of(record, at, at + letter.tally.units)
                        self._leave_out(part, (letter.code, letter.message))

    def _leave_out(self, record: Record, why: Why) -> None:
        self.checked.unsend(record, self._note_maker.rules)
        letter = DeadLetter(record.position, record.unit, *why, record.tally)
        self._write(self.checked.refuse(letter, record.owner))

    def close(self) -> None:
        with suppress(OSError):  # a full disk can't take the buffer, which is of no use any more
            self._outlines.close()
        with suppress(OSError):
            self._path.unlink()


def records_at(source: Source, rules: Rules, places: Iterable[Place]) -> Iterator[tuple[Place, list[Record]]]:
    """Read source records again, and give what is sent of each. `places` are in reading order."""
    packed = [bool(mark["compression"]) for mark in source.fingerprints()]
    spans: Iterator[Span] = iter(())
    span: Span | None = None
    try:
        for place in places:
            far = span is not None and place.offset - span.end.offset > NEAR and not packed[place.source]
            if span is None or span.source != place.source or far:
                getattr(spans, "close", int)()
                spans = source.spans(place, lambda broken: None)
                span = next(spans)
            while span.end[:2] <= place[:2]:
                span = next(spans)
            at = span.before(place)
            one = span.part(at, at + 1)
            yield place, Chunk(one, rules.columns(one)).records()
    finally:
        getattr(spans, "close", int)()


class _NoNotes:
    """`dedup.Notes` of a run that has not begun."""

    def seen_again(self, owners: Iterable[str]) -> set[str]:
        return set()

    def absent_reasons(self, owners: Iterable[str]) -> dict[str, str]:
        return {}


class _Known:
    """Rules that return columns made earlier."""

    def __init__(self, rules: Rules, columns: Columns) -> None:
        self.head, self.tail, self.once, self._columns = rules.head, rules.tail, rules.once, columns

    def columns(self, span: Span) -> Columns:
        return self._columns


class _WithId(msgspec.Struct):
    id: str | int = ""


_with_id = msgspec.json.Decoder(_WithId).decode


def _id_of(span: Span, at: int) -> str:
    try:
        return str(_with_id(span.cut(at, at + 1)[0]).id)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
