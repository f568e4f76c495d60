"""What the rules of all stages share: a row for each record that can be sent, a closer look at each that is odd."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from itertools import compress
from typing import Any, ClassVar, NamedTuple

import msgspec

from streammig.columns import Columns
from streammig.masivo.edit import (
    NOT_JSON,
    Duplicate,
    Member,
    Nulls,
    Outermost,
    Plan,
    commas,
    elements,
    kept_commas,
    members,
    nulls,
)
from streammig.masivo.models import tolerant
from streammig.masivo.rules.explain import Walk
from streammig.masivo.rules.filters import Filters
from streammig.masivo.rules.mapping import Mapped
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, told
from streammig.masivo.rules.shape import objects_in, shape_of
from streammig.masivo.rules.values import Path, Values, allowed_nulls, along, good_id, paths_to, text_in, text_of
from streammig.model import FILTERED, DeadLetter, Examined, Position, Span, Sums, Tally, total

BLOCK = 128  # records whose values are checked in one go: their models stay in a processor's cache

_MEMO = 4096  # kinds of records that are remembered

Pair = tuple[str, Decimal]
Decode = Callable[[bytes], Any]


class _Known(NamedTuple):
    """What is to be known of the outermost fields of records that have just these names: the paths of unknown ones that
    are cut, the names of those that may mark what is left out, and the reason that their values are, or ""."""

    dropped: tuple[str, ...]
    marks: list[str]
    reasons: dict[tuple[bytes, ...], str]


class _Work(NamedTuple):
    """Records to be judged, each with the index in the span of the source record that it is or was made of; `known` is
    what has become of some of them already."""

    data: list[bytes]
    homes: Any
    known: dict[int, Examined]


class Block:
    """Records that are judged together. `rows` are the indices of those that can be sent, `bodies` and `models` theirs.

    `odd` are indices into these three of records that take a closer look, `nulled` of those that may have an optional
    field that is null. `dropped` and `reasons`, of those that are to be left out, are by index in all.
    """

    __slots__ = ("bodies", "dropped", "models", "nulled", "odd", "reasons", "rows")

    def __init__(self, data: Sequence[bytes], decode: Decode, otherwise: Decode) -> None:
        """Decoded by the first of these, and where that fails by the other one."""
        models: list[Any] = []
        second: list[int] = []
        decoded = map(decode, data)
        while len(models) < len(data):
            try:
                models.extend(decoded)  # up to one that can't be decoded, then on behind it
            except NOT_JSON:
                second.append(len(models))
                models.append(_decoded(otherwise, data[len(models)]))
        self.rows = list(range(len(data)))
        self.models = models
        self.nulled = [at for at in second if models[at] is not None]
        if len(self.nulled) < len(second):
            self.rows = [at for at, model in enumerate(models) if model is not None]
            self.models = [models[at] for at in self.rows]
            self.nulled = [bisect_left(self.rows, at) for at in self.nulled]
        self.bodies = [data[at] for at in self.rows]
        self.dropped: dict[int, tuple[str, ...]] = {}
        self.reasons: dict[int, str] = {}
        self.odd: set[int] = set()

    def sift(self) -> None:
        """Go on without the odd ones."""
        if self.odd:
            keep = [at not in self.odd for at in range(len(self.rows))]
            self.rows = list(compress(self.rows, keep))
            self.bodies = list(compress(self.bodies, keep))
            self.models = list(compress(self.models, keep))
            self.odd = set()


def _decoded(decode: Decode, data: bytes) -> Any:
    try:
        return decode(data)
    except NOT_JSON:
        return None


class StageRules(ABC):
    """The `Rules` of one stage.

    Each record is decoded by itself, strictly, into the model of its stage. What its type can't say is checked of many
    records at once, an attribute at a time. A record whose bytes can be sent, as they stand or with fields cut, is a
    row of columns and no object. Every other one goes alone to `explain`, which edits it or tells all its faults; of a
    record that has a row it would find the same, in ten times the time.
    """

    head: bytes = b'{"customers":['
    tail: bytes = b"]}"
    once: ClassVar[bool] = False
    model: ClassVar[type[msgspec.Struct]]
    _alone: int = 0  # units of a record that could not be looked into
    _misses: bool = False  # whether a customer that is left out will not be in the target
    _marked: bool = False  # a field that is sent may mark what is left out: only `explain` sees that

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None) -> None:
        """Raises `Unusable` for options that make no sense."""
        options.check()
        self._options = options
        self._values = Values(options)
        self._keys = self._values.keys
        self._filters = Filters(options)
        self._mapping = mapping
        self._mapped = Mapped(mapping) if mapping is not None else None
        self._strict = msgspec.json.Decoder(self.model).decode
        self._tolerant = msgspec.json.Decoder(tolerant(self.model)).decode
        self._expects_nulls = False  # as the last records had; it decides only which way is tried first
        self._shape = shape_of(self.model)
        self._room = options.max_bytes - len(self.head) - len(self.tail)
        self._outermost = Outermost(self._plan)
        fields = [field for each in objects_in(self._shape) for field in each.fields.values()]
        needed = {field.name for field in fields if field.required or field.policy}
        self._nulls = Nulls({field.name for field in fields} - needed)
        self._nullable: list[Path] = list(paths_to(("nullable", "nullable number"), self._shape))
        self._free: list[Path] = list(paths_to(("free",), self._shape))

    def __reduce__(self) -> tuple[type[StageRules], tuple[RuleOptions, Callable[[Any], Any] | None]]:
        return type(self), (self._options, self._mapping)  # in another process they are made again

    def columns(self, span: Span) -> Columns:
        """What becomes of a span's records. Never raises for what a record holds."""
        out = Columns()
        blocks = -(-len(span) // BLOCK)
        for at in range(blocks):  # of about the same size
            self._add(span, at * len(span) // blocks, (at + 1) * len(span) // blocks, out)
        return out

    @abstractmethod
    def explain(self, data: bytes, position: Position, unit: int) -> Examined:
        """What becomes of these bytes, numbered from `unit` on. Never raises."""

    @abstractmethod
    def _fill(self, rows: Columns, block: Block) -> None:
        """Fill in what the columns hold beside `index` and `unit`; some records may turn out to be odd."""

    @abstractmethod
    def _spare(self, names: Collection[str]) -> Collection[str]:
        """Which of these fields, of a record's outermost object, are left out without a word."""

    # -- many records at once

    def _add(self, span: Span, begin: int, end: int, out: Columns) -> None:
        """Add what becomes of the records from index `begin` to `end`."""
        work = _Work(span.cut(begin, end), range(begin, end), {})
        for at in span.faults.keys() & work.homes if span.faults else ():
            _, code, fault = span.faults[at]
            work.known[at - begin] = self._dead(span.position(at), 0, [Refusal(code, "", fault)], Tally(1, self._alone))
            work.data[at - begin] = b""
        if self._mapped is not None:
            work = self._made(self._mapped, span, work)
        block = self._judged(work.data)
        rows = Columns()
        if block.rows:
            self._fill(rows, block)
        if block.odd:
            block.sift()
            rows = Columns()
            if block.rows:
                self._fill(rows, block)
        rows.index = [work.homes[at] for at in block.rows]
        rows.unit = [0] * len(rows.index)
        for row, (at, body) in enumerate(zip(block.rows, block.bodies, strict=True)):
            if self._mapped is not None or body is not work.data[at]:
                rows.edited[row] = body
        if block.dropped:
            sent = {*block.rows}
            out.dropped += [(work.homes[at], paths) for at, paths in block.dropped.items() if at in sent]
        self._put(span, work, block, rows, out)

    def _put(self, span: Span, work: _Work, block: Block, rows: Columns, out: Columns) -> None:
        """Add the rows, and between them what is left out, known already or has to be explained."""
        taken, units, sent = 0, dict[int, int](), block.rows  # a mapping makes several parts of one, with units each
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
        """A row that could be sent, and is not."""
        amounts = slice(rows.upto[row], rows.upto[row + 1])
        sums = total(zip(rows.keys[amounts], rows.amounts[amounts], strict=True))
        absent = ((rows.owners[row], FILTERED),) if self._misses else ()
        return Examined(position, filtered=((reason, Tally(1, rows.units[row], sums)),), absent=absent)

    def _made(self, mapped: Mapped, span: Span, work: _Work) -> _Work:
        """What the mapping makes of the records."""
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
        """Those of these records that can be sent, as far as their values say."""
        ways = (self._tolerant, self._strict) if self._expects_nulls else (self._strict, self._tolerant)
        block = Block([] if self._marked else data, *ways)
        if block.rows:
            if self._expects_nulls:
                block.nulled = list(range(len(block.rows)))
            self._unrepeated(block)
            failing: list[Path] = []
            self._values.survey(block.models, self._shape, failing)
            for path in failing:
                bad = {*self._values.bad(block.models, path)}
                if path[-1].kind == "optional number":
                    null = {at for at in bad if self._values.good("nullable number", along(path, (block.models[at],)))}
                    block.nulled += null
                    bad -= null
                block.odd |= bad
            self._expects_nulls = 2 * self._without_nulls(block) > len(block.rows)
            if max(map(len, block.bodies)) > self._room:
                block.odd.update([at for at, body in enumerate(block.bodies) if len(body) > self._room])
            block.sift()
        return block

    def _unrepeated(self, block: Block) -> None:
        """Prove that no field of these is repeated, and cut unknown ones from the outermost object."""
        there, kept = list(map(commas, block.bodies)), kept_commas(block.models)
        if there != kept:
            for at, body in enumerate(block.bodies):
                if there[at] != kept[at]:
                    cut = self._cut(body)
                    if cut is None or there[at] - cut[1] != kept[at]:
                        block.odd.add(at)
                    else:
                        block.bodies[at], _, known, reason = cut
                        if reason:
                            block.reasons[block.rows[at]] = reason
                        elif known.dropped:
                            block.dropped[block.rows[at]] = known.dropped
        for at, body in enumerate(block.bodies):
            if b"\\" in body and b"\\u002" in body:  # as `hides_commas`, without a call
                block.odd.add(at)

    def _cut(self, data: bytes) -> tuple[bytes, int, _Known, str] | None:
        """The record without the outermost fields that it must not have, how many commas were cut, what is known of the
        fields, and the reason if it is to be left out; None if it takes a closer look."""
        try:
            found = self._outermost.cut(data)
        except (Refusal, *NOT_JSON):
            return None
        if found is None:
            return None
        left, count, values, known = found
        marks = tuple([bytes(values[name]) for name in known.marks])
        reason = known.reasons.get(marks)
        if reason is None:
            reason = self._filters.customer(dict(zip(known.marks, map(text_in, marks), strict=True)))
            if len(known.reasons) < _MEMO:
                known.reasons[marks] = reason
        return left, count, known, reason

    def _plan(self, names: tuple[str, ...]) -> Plan:
        walk, spare = self._walk(b""), self._spare(names)
        keep = [name in self._shape.fields or (name not in spare and walk.keeps(name, "$")) for name in names]
        marks = [name for name in names if name in self._filters.customer_fields]
        return Plan(keep, _Known(tuple(walk.dropped), marks, {}))

    def _without_nulls(self, block: Block) -> int:
        """Cut the optional fields that are null, which are as many as there are nulls in excess of those that may be
        there; how many records had some.

        What is cut is a null each, and never one that may be there. So if the numbers agree over all these records,
        they agree in each.
        """
        ats = sorted({*block.nulled})
        models = [block.models[at] for at in ats]
        there = [nulls(block.bodies[at]) for at in ats]
        cut = [self._nulls.cut(block.bodies[at]) for at in ats]
        if sum(there) - sum([count for _, count in cut]) != allowed_nulls(models, self._nullable):
            for number, (at, model) in enumerate(zip(ats, models, strict=True)):
                surplus = there[number] - allowed_nulls((model,), self._nullable)
                left, count = cut[number]
                if count != surplus:
                    self._nulls.learn(left)
                    left, more = self._nulls.cut(left)
                    cut[number] = left, count + more
                    if count + more != surplus:  # the word in a text, or it is spelt oddly
                        block.odd.add(at)
        for at, (left, _) in zip(ats, cut, strict=True):
            block.bodies[at] = left
        # A free object may hold a field of such a name.
        free = any(any(along(path, models)) for path in self._free)
        for at, model, (_, count) in zip(ats, models, cut, strict=True) if free else ():
            if count and any(any(along(path, (model,))) for path in self._free):
                block.odd.add(at)
        return sum([count > 0 for _, count in cut])

    # -- what `explain` is made of

    def _walk(self, data: bytes) -> Walk:
        return Walk(data, self._values, self._options)

    def _dead(
        self, position: Position, unit: int, faults: Sequence[Refusal], tally: Tally, absent: str = ""
    ) -> Examined:
        code = faults[0].code
        letter = DeadLetter(position, unit, code, told(faults), tally)
        return Examined(position, dead=(letter,), absent=((absent, code),) if absent else ())

    def _salvage(self, data: bytes, member: Member | None) -> tuple[int, Sums]:
        """How many units a list holds that is not sent, and their sums as far as they can be read."""
        if member is None or data[member.begin] != 0x5B:
            return 0, {}
        parts = elements(data, member.begin, member.end)
        pairs = []
        for part in parts:
            try:
                pairs.append(self._pair(data, members(data, *part)))
            except (Duplicate, *NOT_JSON):
                continue
        return len(parts), total(pair for pair in pairs if pair)

    def _pair(self, data: bytes, fields: Mapping[str, Member]) -> Pair | None:
        """What this unit adds to the sums, if that can be read and is a number that could be sent."""
        reward = fields.get("reward_id")
        key = self._keys[text_of(data, reward)]
        amount = self._readable(data, fields.get("amount"))
        return (key, amount) if key and amount is not None else None

    def _readable(self, data: bytes, member: Member | None) -> Decimal | None:
        return None if member is None else self._values.numbers.exact(data[member.begin : member.end])


def id_in(data: bytes, member: Member | None) -> str:
    """The id that stands there, or "" if it is no good one."""
    if member is None or data[member.begin] != 0x22:
        return ""
    text = text_of(data, member)
    return text if good_id(text) else ""
