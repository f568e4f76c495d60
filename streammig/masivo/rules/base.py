"""The rules that all stages share: rows for records that can be sent, and a closer look at odd records."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import msgspec
from msgspec import Raw

from streammig.columns import Columns, merged
from streammig.fields import FieldMapping
from streammig.masivo.edit import (
    NOT_JSON,
    NULL,
    Duplicate,
    Member,
    fields_of,
)
from streammig.masivo.rules.compiled import Judge, Roles, wanted
from streammig.masivo.rules.cutting import Block, Cutting
from streammig.masivo.rules.explain import Walk
from streammig.masivo.rules.facts import Decoded, Told, facts
from streammig.masivo.rules.filters import Filters
from streammig.masivo.rules.mapping import Mapped
from streammig.masivo.rules.options import RuleOptions, matches
from streammig.masivo.rules.reasons import Refusal, Refusals, message_of
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.values import (
    Path,
    Values,
    along,
    good_id,
    text_of,
)
from streammig.model import FILTERED, DeadLetter, Examined, Position, Span, Sums, Tally, total

FEW = 16  # records; fewer are judged one by one
BLOCK = 128  # records whose values are checked together, for their models stay in a processor's cache

Pair = tuple[str, Decimal]


class _Work(NamedTuple):
    """Records to be judged. `homes` has the index of each one's source record in the span.

    `known` has, by index in `data`, the results of records that are judged already.
    """

    data: list[bytes]
    homes: Any
    known: dict[int, Examined]


class StageRules(ABC):
    """The `Rules` of one stage.

    Each record is decoded by itself, strictly, into the model of its stage. Rules that a type can't express are checked
    over many records at once, one attribute at a time. A record that can be sent, as it stands or with fields cut,
    becomes a row of columns, not an object. Every other record goes alone to `explain`, which edits it or tells all its
    faults. For a record with a row `explain` would find the same, in ten times the time.

    The compiled `judge`, if there is one, comes first, and leaves the records that it is not sure of to these rules.
    """

    head: bytes = b'{"customers":['
    tail: bytes = b"]}"
    once: ClassVar[bool] = False
    model: ClassVar[type[msgspec.Struct]]
    roles: ClassVar[Roles]
    adds_up: ClassVar[bool] = False
    has_keys: ClassVar[bool] = False
    _facts: ClassVar[type[Decoded]]
    _alone: int = 0  # units that an unreadable record counts as
    _misses: bool = False  # whether the owner of a record that is left out is absent from the target
    _marked: bool = False  # whether a field that is sent may mark a deleted customer, which only `explain` sees

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None, judge: str = "auto") -> None:
        """Raises `Unusable` for invalid options."""
        options.check()
        self._wanted = judge
        self._options = options
        self._values = Values(options)
        self._keys = self._values.keys
        self._filters = Filters(options)
        self._mapping = mapping
        deleted = matches(options.deleted, "deleted") if self._misses else ()
        self._mapped = Mapped(mapping, deleted) if mapping is not None else None
        self._read = {match.field for match in deleted}
        self._read |= mapping.reads if isinstance(mapping, FieldMapping) else set()
        self._shape = shape_of(self.model)
        self._room = options.max_bytes - len(self.head) - len(self.tail)
        self._cutting = Cutting(self.model, self._shape, self._filters, dropped_paths=self._dropped_paths)

    def __reduce__(self) -> tuple[type[StageRules], tuple[RuleOptions, Callable[[Any], Any] | None, str]]:
        return type(self), (self._options, self._mapping, self._wanted)  # another process makes them again

    @cached_property
    def judge(self) -> Judge | None:
        """The compiled judge of this stage; None if it is not wanted, not there, or of no use.

        It is of no use with a mapping, and if fields are sent that mark a deleted customer. Raises as `wanted`.
        """
        if not wanted(self._wanted) or self._mapping is not None or self._marked:
            return None
        return Judge(
            type(self).__name__, self._shape, self._options, self.roles, rules=self, filters=self._filters,
            room=self._room, most_units=self._options.max_units if self.once else sys.maxsize,
            dropped_paths=self._dropped_paths,
        )  # fmt: skip

    @property
    def hides(self) -> bool:
        return self._misses and (self._mapped is not None or self._options.unknown_fields == "send")

    def unread(self, data: bytes) -> dict[str, Raw]:
        try:
            return {name: raw for name, raw in fields_of(data).items() if name not in self._read}
        except NOT_JSON:
            return {}

    def made(self, data: bytes) -> list[bytes]:
        try:
            return self._mapped(data) if self._mapped is not None else [data]
        except Refusal:
            return []

    def columns(self, span: Span) -> Columns:
        """Judge the records of a span. Never raises for the content of a record."""
        if self.judge is None:
            return self._looked(span, range(len(span)))
        found = self.judge.judged(span.judged) or self.judge.framed(span.data, span.starts, span.ends, span.faults)
        if not found.unsure:
            return found.columns
        few = len(found.unsure) < FEW
        return merged(found.columns, (self._singly if few else self._looked)(span, found.unsure))

    def facts(
        self, data: bytes, starts: Sequence[int], ends: Sequence[int], edited: dict[int, bytes]
    ) -> Decoded | Told:
        return facts(self._facts, data, starts, ends, edited, compiled=wanted(self._wanted))

    def _singly(self, span: Span, ats: Sequence[int]) -> Columns:
        """As `_looked`, one by one: most of a few records that the judge is not sure of are odd."""
        out = Columns()
        for at in ats:
            out.add(at, self._fault(span, at) or self.explain(span.records([at])[0], span.position(at), 0))
        return out

    def _fault(self, span: Span, at: int) -> Examined | None:
        """Return the result of a fault of the span; None for a record without one."""
        if at not in span.faults:
            return None
        _, code, fault = span.faults[at]
        return self._dead(span.position(at), 0, [Refusal(code, "", fault)], Tally(1, self._alone))

    def _looked(self, span: Span, ats: Sequence[int]) -> Columns:
        """Judge the records at these indices, by the rules in Python."""
        out = Columns()
        blocks = -(-len(ats) // BLOCK)
        for at in range(blocks):  # of about the same size
            self._add(span, ats[at * len(ats) // blocks : (at + 1) * len(ats) // blocks], out)
        return out

    def explain(self, data: bytes, position: Position, unit: int) -> Examined:
        """Judge one record by itself, and number its units from `unit` on. Never raises."""
        walk = Walk(data, self._values, self._options, self.judge)
        try:
            found = walk.open(0, len(data), "$", "not-an-object")
        except Refusal as refusal:
            return self._dead(position, unit, [refusal], Tally(1, self._alone))
        try:
            return self._explained(walk, found, position, unit)
        except Refusals as all_:
            owner = id_in(data, found.get("id")) if self._misses else ""
            return self._dead(position, unit, all_.faults, self._tally(walk, found), owner)

    @abstractmethod
    def _check(self, block: Block) -> None:
        """Check this stage's own rules: fill in `owners` and `uniques`, and add to `odd`."""

    @abstractmethod
    def _fill(self, rows: Columns, block: Block) -> None:
        """Fill in units, amounts, and the other columns."""

    @abstractmethod
    def _spare(self, names: Collection[str]) -> Collection[str]:
        """Return the outermost fields that are cut without counting as dropped."""

    @abstractmethod
    def _explained(self, walk: Walk, found: dict[str, Member], position: Position, unit: int) -> Examined:
        """Judge a record with these fields. Raises `Refusals`."""

    @abstractmethod
    def _tally(self, walk: Walk, found: Mapping[str, Member]) -> Tally:
        """Count a record with these fields, as far as it can be read."""

    # -- many records at once

    def _add(self, span: Span, ats: Sequence[int], out: Columns) -> None:
        """Judge the records at these indices, and add them to `out`."""
        work = _Work(span.records(ats), ats, {})
        for at, home in enumerate(ats) if span.faults else ():
            if (dead := self._fault(span, home)) is not None:
                work.known[at] = dead
                work.data[at] = b""
        if self._mapped is not None:
            work = self._made(self._mapped, span, work)
        block = self._judged(work.data)
        rows = Columns()
        rows.index = [work.homes[at] for at in block.rows]
        rows.unit = [0] * len(rows.index)
        rows.owners, rows.uniques = block.owners, block.uniques
        if block.rows:
            self._fill(rows, block)
        if block.cut or self._mapped is not None:
            for row, (at, body) in enumerate(zip(block.rows, block.bodies, strict=True)):
                if self._mapped is not None or body is not work.data[at]:
                    rows.edited[row] = body
        if block.dropped:
            sent = {*block.rows}
            out.dropped += [(work.homes[at], paths) for at, paths in block.dropped.items() if at in sent]
        self._put(span, work, block, rows, out)

    def _put(self, span: Span, work: _Work, block: Block, rows: Columns, out: Columns) -> None:
        """Add the rows, and the records without a row, in reading order."""
        taken, units, sent = 0, dict[int, int](), block.rows  # `units`: of a record's parts so far, if it is mapped
        odd = {*range(len(work.data))}.difference(sent) if len(sent) < len(work.data) else set()
        for at in [*sorted(odd.union(block.reasons)), len(work.data)]:
            upto = bisect_left(sent, at)
            for row in range(taken, upto) if self._mapped is not None else ():
                index = rows.index[row]
                rows.unit[row] = units.get(index, 0)
                units[index] = rows.unit[row] + rows.units[row]
            out.extend(rows, taken, upto)
            taken = upto
            if at < len(work.data):
                index = work.homes[at]
                unit = units.get(index, 0)
                if at in odd:
                    found = work.known.get(at) or self.explain(work.data[at], span.position(index), unit)
                else:
                    found = self._left_out(span.position(index), block.reasons[at], rows, upto)
                    taken += 1
                units[index] = unit + (sum([record.units for record in found.records]) or 1)
                out.add(index, found)

    def _left_out(self, position: Position, reason: str, rows: Columns, row: int) -> Examined:
        """Return the result of a valid row that is filtered for a reason."""
        amounts = slice(rows.upto[row], rows.upto[row + 1])
        sums = total(zip(rows.keys[amounts], rows.amounts[amounts], strict=True))
        absent = ((rows.owners[row], FILTERED),) if self._misses else ()
        return Examined(position, filtered=((reason, Tally(1, rows.units[row], sums)),), absent=absent)

    def _made(self, mapped: Mapped, span: Span, work: _Work) -> _Work:
        """Map these records."""
        made = _Work([], [], {})
        for at, (each, home) in enumerate(zip(work.data, work.homes, strict=True)):
            found = work.known.get(at)
            parts: list[bytes] = []
            if found is None:
                tally = Tally(1, self._alone)
                try:
                    parts = mapped(each)
                    if not parts:
                        found = Examined(span.position(home), filtered=(("mapping", tally),))
                except Refusal as refusal:
                    found = self._dead(span.position(home), 0, [refusal], tally)
            if found is not None:
                made.known[len(made.data)] = found
            made.data.extend(parts or [b""])
            made.homes.extend([home] * (len(parts) or 1))
        return made

    def _judged(self, data: list[bytes]) -> Block:
        """Find the records that can be sent."""
        block = self._cutting.block([] if self._marked else data)
        if block.rows:
            self._check_values(block)
            block.sift()
        if block.rows:
            self._cutting.cut(block)
            if max(map(len, block.bodies)) > self._room:
                block.odd.update([at for at, body in enumerate(block.bodies) if len(body) > self._room])
            self._check(block)
            block.sift()
        return block

    def _check_values(self, block: Block) -> None:
        """Check the values of models, and count the optional numbers that are null."""
        failing: list[Path] = []
        self._values.survey(block.models, self._shape, failing)
        for path in failing:
            for at in self._values.bad(block.models, path):
                values = along(path, (block.models[at],))
                if path[-1].kind == "optional number" and self._values.good("nullable number", values):
                    block.nulls = block.nulls or [0] * len(block.rows)
                    block.nulls[at] += [bytes(each) for each in values if each].count(NULL)
                else:
                    block.odd.add(at)

    def _dropped_paths(self, unknown: Collection[str]) -> tuple[str, ...]:
        """Return the paths of these fields that count as dropped. Raises `Refusal` if one must not be cut."""
        walk, spare = Walk(b"", self._values, self._options), self._spare(unknown)
        if True in [walk.keeps(name, "$") for name in unknown if name not in spare]:
            raise Refusal("unknown-field", "$", "sent as it stands")
        return tuple(walk.dropped)

    # -- the parts of `explain`

    def _dead(
        self, position: Position, unit: int, faults: Sequence[Refusal], tally: Tally, absent: str = ""
    ) -> Examined:
        code = faults[0].code
        letter = DeadLetter(position, unit, code, message_of(faults), tally)
        return Examined(position, dead=(letter,), absent=((absent, code),) if absent else ())

    def _salvage(self, walk: Walk, member: Member | None) -> tuple[int, Sums]:
        """Count the units in a list that is not sent, and their sums as far as they can be read."""
        data = walk.data
        if member is None or data[member.begin] != 0x5B:
            return 0, {}
        parts = walk.listed(member, "")
        pairs = []
        for part in parts:
            try:
                pairs.append(walk.pairs.get(part.begin) or self._pair(data, walk.open(*part, "")))
            except (Refusal, Duplicate, *NOT_JSON):
                continue
        return len(parts), total(pair for pair in pairs if pair)

    def _pair(self, data: bytes, fields: Mapping[str, Member]) -> Pair | None:
        """Return a unit's key and amount for the sums; None if they are unreadable or invalid."""
        reward = fields.get("reward_id")
        key = self._keys[text_of(data, reward)]
        amount = self._readable(data, fields.get("amount"))
        return (key, amount) if key and amount is not None else None

    def _readable(self, data: bytes, member: Member | None) -> Decimal | None:
        return None if member is None else self._values.numbers.exact(data[member.begin : member.end])


def id_in(data: bytes, member: Member | None) -> str:
    """Return the id in a member; "" if it is not valid."""
    if member is None or data[member.begin] != 0x22:
        return ""
    text = text_of(data, member)
    return text if good_id(text) else ""
