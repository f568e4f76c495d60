"""What the rules of all stages share: one result for each slice, whatever it holds and a mapping makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from itertools import repeat
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

import msgspec

from streammig.masivo.rules.filters import Filters
from streammig.masivo.rules.mapping import Mapped
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.values import Values, good_id, text_in, text_of
from streammig.masivo.rules.walk import Walk
from streammig.masivo.splice import (
    NOT_JSON,
    Duplicate,
    Member,
    Spelling,
    Uneven,
    apply,
    cuts,
    elements,
    faithful,
    members,
    spelling,
    without,
)
from streammig.records import DeadLetter, Examined, Position, Record, Run, Slice, Sums, Tally, total

# Records proven in one go. One that needs a closer look after all costs each of them a second look, so not too many.
_TOGETHER = 64

Pair = tuple[str, Decimal]

_fault = attrgetter("fault")
_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


class _Plan(NamedTuple):
    """What becomes of the outermost fields of records that have just these: the keys as they are spelt, which are
    kept, the paths of unknown ones that are not, the names of those that may mark what is left out, and with which
    values they do not."""

    keys: list[bytes]
    keep: list[bool]
    dropped: tuple[str, ...]
    marks: list[str]
    passed: set[tuple[bytes, ...]]


class StageRules(ABC):
    """The `Rules` of one stage.

    A record is first decoded strictly, into the model of its stage: if it is as the target wants it, it goes as it
    stands (`clean`). Everything else is walked over field by field (`judge`), which edits or explains; of a clean
    record it would find the same, in twenty times the time.
    """

    head: bytes = b'{"customers":['
    tail: bytes = b"]}"
    once: ClassVar[bool] = False
    model: ClassVar[type[msgspec.Struct]]
    _alone: int = 0  # units of a record that could not be looked into
    _marked: bool = False  # a field that is sent may mark what is left out: only `judge` sees that

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None) -> None:
        """Raises `Unusable` for options that make no sense."""
        options.check()
        self._options = options
        self._values = Values(options)
        self._numbers = self._values.numbers
        self._keys = self._values.keys
        self._filters = Filters(options)
        self._mapping = mapping
        self._mapped = Mapped(mapping) if mapping is not None else None
        self._decode = msgspec.json.Decoder(list[self.model]).decode  # type: ignore[name-defined]
        self._shape = shape_of(self.model)
        self._room = options.max_bytes - len(self.head) - len(self.tail)

    def __reduce__(self) -> tuple[type[StageRules], tuple[RuleOptions, Callable[[Any], Any] | None]]:
        return type(self), (self._options, self._mapping)  # in another process they are made anew

    def examine(self, run: Run) -> list[Examined]:
        if self._mapped is not None or self._marked:
            return [self._examine(each) for each in run]
        results: list[Examined] = []
        for at in range(0, len(run), _TOGETHER):
            results += self._together(run[at : at + _TOGETHER])
        return results

    @abstractmethod
    def as_they_stand(
        self, models: list[Any], data: list[bytes], positions: list[Position], unit: int
    ) -> list[Record] | None:
        """The records of proven models, if all these bytes can be sent as they stand; None if one takes a closer look.

        It looks at one attribute of all of them at a time: a fourth of the time.
        """

    def clean(self, data: bytes, position: Position, unit: int) -> Record | None:
        """The record, if these bytes can be sent as they stand; None if that takes a closer look."""
        records = self._clean([data], [position], unit)
        return records[0] if records else None

    def _together(self, run: Run) -> list[Examined]:
        """What `clean` and `judge` find of each, with one proof for as many as can be decoded together."""
        if not any(map(_fault, run)):
            data, positions = [each.data for each in run], [each.position for each in run]
            dropped: Iterable[tuple[str, ...]] = repeat(())
            records = self._clean(data, positions, 0)
            if records is None and (cut := self._cut(data)) is not None:
                bodies, dropped = cut
                records = self._clean(bodies, positions, 0)
            if records is not None and all(records):
                # `zip` of one makes tuples of one.
                return list(map(Examined, positions, zip(records), repeat(()), repeat(()), repeat(()), dropped))
            if records is not None:
                return [
                    Examined(each.position, (record,), dropped=paths)
                    if record
                    else self.judge(each.data, each.position, 0)
                    for each, record, paths in zip(run, records, dropped, strict=False)
                ]
        if len(run) == 1:
            each = run[0]
            return [self._examine(each) if each.fault else self.judge(each.data, each.position, 0)]
        half = len(run) // 2
        return self._together(run[:half]) + self._together(run[half:])

    def _clean(self, data: list[bytes], positions: list[Position], unit: int) -> list[Record | None] | None:
        """The records, with None for those that take a closer look; None for all if not even that can be told."""
        if max(map(len, data)) > self._room:
            return None
        joined = b"[%b]" % b",".join(data)
        try:
            models = self._decode(joined)
        except NOT_JSON:
            return None
        if len(models) != len(data) or not faithful(joined, models):
            return None
        return self._sifted(models, data, positions, unit)

    def _sifted(
        self, models: list[Any], data: list[bytes], positions: list[Position], unit: int
    ) -> list[Record | None]:
        if self._values.clean(models, self._shape):
            records = self.as_they_stand(models, data, positions, unit)
            if records is not None:
                return [*records]
        if len(models) == 1:
            return [None]
        half = len(models) // 2
        first = self._sifted(models[:half], data[:half], positions[:half], unit)
        return first + self._sifted(models[half:], data[half:], positions[half:], unit)

    def _cut(self, data: list[bytes]) -> tuple[list[bytes], list[tuple[str, ...]]] | None:
        """Each without the outermost fields that it must not have, and the unknown ones of these; None if one of them
        takes a closer look. For most records that need a change this is the only one."""
        try:
            objects = _objects(b"[%b]" % b",".join(data))
            spelt = spelling(data[0], objects[0])
            plans: dict[tuple[str, ...], _Plan] = {}
            bodies: list[bytes] = []
            dropped: list[tuple[str, ...]] = []
            for each, values in zip(data, objects, strict=True):
                names = tuple(values)
                plan = plans[names] if names in plans else plans.setdefault(names, self._plan(names, spelt))
                marks = tuple([bytes(values[name]) for name in plan.marks])
                if marks not in plan.passed:
                    if self._filters.customer(dict(zip(plan.marks, map(text_in, marks), strict=True))):
                        return None
                    plan.passed.add(marks)
                bodies.append(without(each, values.values(), plan.keys, plan.keep, spelt))
                dropped.append(plan.dropped)
        except (Refusal, Uneven, IndexError, *NOT_JSON):
            return None
        return bodies, dropped

    def _plan(self, names: tuple[str, ...], spelt: Spelling) -> _Plan:
        walk = self._walk(b"")
        keep = walk.outermost(names, self._shape, self._spare(names))
        keys = [b'"%b"%b' % (name.encode(), spelt.colon) for name in names]
        marks = [name for name in names if name in self._filters.customer_fields]
        return _Plan(keys, keep, tuple(walk.dropped), marks, {()})

    @abstractmethod
    def _spare(self, names: Collection[str]) -> Collection[str]:
        """Which of these fields, of a record's outermost object, are left out without a word."""

    @abstractmethod
    def judge(self, data: bytes, position: Position, unit: int) -> Examined:
        """What becomes of these bytes, numbered from `unit` on. Never raises."""

    def _examine(self, each: Slice) -> Examined:
        position = each.position
        if each.fault:
            return self._dead(position, 0, Refusal(each.code, each.fault), Tally(1, self._alone))
        if self._mapped is not None:
            return self._examine_mapped(self._mapped, each.data, position)
        return self._one(each.data, position, 0)

    def _one(self, data: bytes, position: Position, unit: int) -> Examined:
        record = None if self._marked else self.clean(data, position, unit)
        return self.judge(data, position, unit) if record is None else Examined(position, (record,))

    def _examine_mapped(self, mapped: Mapped, data: bytes, position: Position) -> Examined:
        try:
            made = mapped(data)
        except Refusal as refusal:
            return self._dead(position, 0, refusal, Tally(1, self._alone))
        if not made:
            return Examined(position, filtered=(("mapping", Tally(1, self._alone)),))
        parts: list[Examined] = []
        unit = 0
        for each in made:
            part = self._one(each, position, unit)
            unit += sum(record.units for record in part.records) or 1
            parts.append(part)
        return parts[0] if len(parts) == 1 else _joined(position, parts)

    def _dead(self, position: Position, unit: int, refusal: Refusal, tally: Tally, absent: str = "") -> Examined:
        letter = DeadLetter(position, unit, refusal.code, refusal.message, tally)
        return Examined(position, dead=(letter,), absent=((absent, refusal.code),) if absent else ())

    def _trimmed(self, walk: Walk, found: Mapping[str, Member], position: Position, unit: int) -> Examined | None:
        """The record, if it can be sent once the fields that it must not have are cut from its outermost object.

        Most records that need a change need only this one; walking through all of one costs ten times as much.
        """
        keep = walk.outermost(found, self._shape, self._spare(found.keys()))
        if self._marked or all(keep):
            return None
        spans = [member.span for member in found.values()]
        record = self.clean(apply(walk.data, cuts(spans, keep)), position, unit)
        if record is None:
            walk.dropped.clear()
            return None
        return Examined(position, (record,), dropped=tuple(walk.dropped))

    def _walk(self, data: bytes) -> Walk:
        return Walk(data, self._values, self._options)

    def _salvage(self, data: bytes, member: Member | None) -> tuple[int, Sums]:
        """How many units a list holds that is not sent, and their sums as far as they can be read."""
        if member is None or data[member.begin] != 0x5B:
            return 0, {}
        spans = elements(data, member.begin, member.end)
        pairs = []
        for span in spans:
            try:
                pairs.append(self._pair(data, members(data, *span)))
            except (Duplicate, *NOT_JSON):
                continue
        return len(spans), total(pair for pair in pairs if pair)

    def _pair(self, data: bytes, fields: Mapping[str, Member]) -> Pair | None:
        """What this unit adds to the sums, if that can be read and is a number that could be sent."""
        reward = fields.get("reward_id")
        key = self._keys[text_of(data, reward)]
        amount = self._readable(data, fields.get("amount"))
        return (key, amount) if key and amount is not None else None

    def _readable(self, data: bytes, member: Member | None) -> Decimal | None:
        return None if member is None else self._numbers.exact(data[member.begin : member.end])


def id_in(data: bytes, member: Member | None) -> str:
    """The id that stands there, or "" if it is no good one."""
    if member is None or data[member.begin] != 0x22:
        return ""
    text = text_of(data, member)
    return text if good_id(text) else ""


def _joined(position: Position, parts: Iterable[Examined]) -> Examined:
    records: list[Record] = []
    dead: list[DeadLetter] = []
    absent: list[tuple[str, str]] = []
    dropped: list[str] = []
    filtered: dict[str, Tally] = {}
    for part in parts:
        records += part.records
        dead += part.dead
        absent += part.absent
        dropped += part.dropped
        for reason, tally in part.filtered:
            filtered[reason] = filtered.get(reason, Tally()) + tally
    return Examined(position, tuple(records), tuple(filtered.items()), tuple(dead), tuple(absent), tuple(dropped))
