"""What the rules of events and transactions share: an owner's id, and a list of units below it."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, islice, repeat
from operator import attrgetter
from typing import Any, ClassVar

import msgspec

from streammig.masivo import models
from streammig.masivo.rules.base import Pair, StageRules
from streammig.masivo.rules.customers import STRUCTURAL
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, expected
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.values import good_id, good_ids, texts_of
from streammig.masivo.rules.walk import Walk
from streammig.masivo.splice import Member, cuts, elements, shifted, strictly
from streammig.records import Examined, Position, Record, Tally, total

_CUSTOMER = frozenset(shape_of(models.Customer).fields)


class GroupedRules(StageRules):
    """Elements like `{"id": …, "<name>": [unit, …]}`; the customer's own fields beside them are cut."""

    name: ClassVar[str]
    unit_model: ClassVar[type[msgspec.Struct]]

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None) -> None:
        super().__init__(options, mapping)
        self._decode_unit = msgspec.json.Decoder(self.unit_model).decode
        self._unit_shape = shape_of(self.unit_model)
        self._marked = not self._filters.customer_fields.isdisjoint(self._shape.fields)
        blank = rb"[ \t\n\r]*"
        parts = (rb"\{", rb'"id"', b":", rb'"[^"\\]*"', b",", b'"%b"' % self.name.encode(), b":", rb"\[")
        self._begins = re.compile(blank.join(parts)).match
        self._beside = (_CUSTOMER | self._filters.customer_fields | STRUCTURAL) - {"id", self.name}

    def as_they_stand(
        self, models: list[Any], data: list[bytes], positions: list[Position], unit: int
    ) -> list[Record] | None:
        owners, lists = [each.id for each in models], list(map(attrgetter(self.name), models))
        counts = list(map(len, lists))
        begins = list(map(self._begins, data))
        if None in begins or not min(counts) or (self.once and max(counts) > self._options.max_units):
            return None
        found = self._amounts(list(chain.from_iterable(lists)))
        if not found or not (good_ids(owners) or all(map(good_id, owners))):
            return None
        pairs = iter(found)
        amounts = [tuple(islice(pairs, count)) for count in counts]
        # Nothing stands behind the list, it is the last field there is.
        inner = [(each.end(), body.rindex(b"]")) for each, body in zip(begins, data, strict=True) if each]
        return list(map(Record, positions, repeat(unit), owners, data, counts, amounts, inner))

    def _spare(self, names: Collection[str]) -> Collection[str]:
        # An unknown field of a customer is the customers stage's to send, so "send" means nothing here.
        return {*names} - {"id", self.name} if self._options.unknown_fields == "send" else self._beside

    @abstractmethod
    def _amounts(self, units: Sequence[Any]) -> tuple[Pair, ...]:
        """The amounts of these proven units; none if one of them can't be sent as it stands."""

    @abstractmethod
    def _unit(
        self, walk: Walk, begin: int, end: int, fields: Mapping[str, Member], where: str, salt: bytes
    ) -> Pair | str:
        """What this unit adds to the sums, or the reason why it is left out; raises `Refusal`.

        `salt` is something that no other unit of the same bytes has.
        """

    def judge(self, data: bytes, position: Position, unit: int) -> Examined:
        walk = self._walk(data)
        try:
            found = walk.open(0, len(data), "$", "not-an-object")
        except Refusal as refusal:
            return self._dead(position, unit, refusal, Tally(1, self._alone))
        listed = found.get(self.name)
        reason = self._filters.customer(texts_of(data, found, self._filters.customer_fields))
        if not reason and (listed is None or data[listed.begin] == ord("n")):
            if "id" not in found:
                # Nobody's, and so no customer's who has none: a part of some record, taken for one, or a single unit.
                neither = "neither (of a file of lines the name should end in .ndjson)"
                nobodys = expected("missing-field", "$", f"a customer's id and {self.name}", neither)
                return self._dead(position, unit, nobodys, Tally(1, self._alone))
            reason = f"no-{self.name}"
        if reason:
            return Examined(position, filtered=((reason, Tally(1, *self._salvage(data, listed))),))
        assert listed is not None
        try:
            return self._sent(walk, found, listed, position, unit)
        except Refusal as refusal:
            return self._dead(position, unit, refusal, Tally(1, *self._salvage(data, listed)))

    def _sent(self, walk: Walk, found: Mapping[str, Member], listed: Member, position: Position, unit: int) -> Examined:
        data = walk.data
        if trimmed := self._trimmed(walk, found, position, unit):
            return trimmed
        owner: str = walk.fields(0, found, self._shape, "$", cut=self._spare(found), apart={self.name})["id"]
        amounts, left_out = self._units(walk, listed, data[found["id"].begin : found["id"].end])
        if not amounts:
            return Examined(position, filtered=left_out or ((f"no-{self.name}", Tally(1)),))
        if self.once and len(amounts) > self._options.max_units:
            raise Refusal(
                f"too-many-{self.name}",
                f"$.{self.name}: one request holds at most {self._options.max_units}, and they must not be split",
            )
        body = walk.rest()
        inner = (shifted(listed.begin + 1, walk.edits), shifted(listed.end - 1, walk.edits))
        self._fits(body, inner)
        record = Record(position, unit, owner, body, len(amounts), amounts, inner)
        # What is sent is the record; of what is left out of it only the units count.
        left_out = tuple((reason, Tally(0, tally.units, tally.sums)) for reason, tally in left_out)
        return Examined(position, (record,), left_out, dropped=tuple(walk.dropped))

    def _units(
        self, walk: Walk, listed: Member, owner: bytes
    ) -> tuple[tuple[Pair, ...], tuple[tuple[str, Tally], ...]]:
        """The amounts of the units that are sent, and what is left out by reason, as if nothing else were there."""
        amounts: list[Pair] = []
        left_out: dict[str, Tally] = {}
        spans = walk.spans(listed, f"$.{self.name}")
        keep: list[bool] = []
        for index, (begin, end) in enumerate(spans):
            if pairs := self._clean_unit(walk.data[begin:end]):
                amounts += pairs
                keep.append(True)
                continue
            where = f"$.{self.name}[{index}]"
            fields = walk.open(begin, end, where)
            amount = self._unit(walk, begin, end, fields, where, b"%b %d" % (owner, index))
            keep.append(isinstance(amount, tuple))
            if isinstance(amount, tuple):
                amounts.append(amount)
            else:
                tally = Tally(0 if left_out else 1, 1, self._sums(walk.data, fields))
                left_out[amount] = left_out.get(amount, Tally()) + tally
        walk.edits += cuts(spans, keep)
        return tuple(amounts), tuple(left_out.items())

    def _clean_unit(self, data: bytes) -> tuple[Pair, ...]:
        unit = None if self._marked else strictly(self._decode_unit, data)
        return self._amounts((unit,)) if unit is not None and self._values.clean((unit,), self._unit_shape) else ()

    def _sums(self, data: bytes, fields: Mapping[str, Member]) -> Mapping[str, Any]:
        pair = self._pair(data, fields)
        return total((pair,)) if pair else {}

    def _fits(self, body: bytes, inner: tuple[int, int]) -> None:
        """Raises `Refusal` if the record, or where it may be split a unit of it, is too large for any request."""
        if len(body) <= self._room:
            return
        where = f"$.{self.name}"
        if not self.once:
            shell = len(body) - (inner[1] - inner[0])
            sizes = [end - begin for begin, end in elements(body, inner[0] - 1, inner[1] + 1)]
            if shell + max(sizes) <= self._room:
                return
            where = f"{where}[{sizes.index(max(sizes))}]"
        raise Refusal("too-large", f"{where}: one request has room for {self._room} bytes, this needs more")
