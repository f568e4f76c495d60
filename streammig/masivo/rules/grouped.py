"""The rules of events and transactions: lists of units below their owner, or one event to a record."""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any, ClassVar

import msgspec

from streammig.columns import Columns
from streammig.masivo import models
from streammig.masivo.edit import NOT_JSON, Duplicate, Member, cuts, elements, members, shifted
from streammig.masivo.rules.base import Pair, StageRules
from streammig.masivo.rules.compiled import AMOUNT, COUNTS_IF, IS_TRUE, KEY, OWNER, UNITS, Roles
from streammig.masivo.rules.customers import STRUCTURAL
from streammig.masivo.rules.cutting import Block
from streammig.masivo.rules.explain import Walk
from streammig.masivo.rules.facts import PURCHASE, OfEvents, OfTransactions
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, Refusals, expected
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.values import bad_ids, decimals, strictly, text_of, texts_of
from streammig.model import ZERO, Examined, Position, Record, Tally, total

PURCHASES = "purchases"
_CUSTOMER = frozenset(shape_of(models.Customer).fields)
_fulfilled = attrgetter("fulfilled")


class GroupedRules(StageRules):
    """The rules of elements like `{"id": …, "<name>": [unit, …]}`. Other fields of the customer are cut."""

    name: ClassVar[str]
    unit_model: ClassVar[type[msgspec.Struct]]

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None, judge: str = "auto") -> None:
        super().__init__(options, mapping, judge)
        self._decode_unit = msgspec.json.Decoder(self.unit_model).decode
        self._unit_shape = shape_of(self.unit_model)
        self._marked = not self._filters.customer_fields.isdisjoint(self._shape.fields)
        blank = rb"[ \t\n\r]*"
        parts = (rb"\{", rb'"id"', b":", rb'"[^"\\]*"', b",", b'"%b"' % self.name.encode(), b":", rb"\[")
        self._begins = re.compile(blank.join(parts)).match
        self._beside = (_CUSTOMER | self._filters.customer_fields | STRUCTURAL) - {"id", self.name}

    def _check(self, block: Block) -> None:
        odd = block.odd
        block.owners = [each.id for each in block.models]
        odd.update(bad_ids(block.owners))
        lists = list(map(attrgetter(self.name), block.models))
        counts = list(map(len, lists))
        most = self._options.max_units if self.once else max(counts)
        if not min(counts) or max(counts) > most:
            odd.update([at for at, count in enumerate(counts) if not 0 < count <= most])
        if not self._sendable(list(chain.from_iterable(lists))):
            odd.update([at for at, each in enumerate(lists) if not self._sendable(each)])

    def _fill(self, rows: Columns, block: Block) -> None:
        lists = list(map(attrgetter(self.name), block.models))
        rows.units = list(map(len, lists))
        rows.keys, rows.amounts = self._amounts(list(chain.from_iterable(lists)))
        rows.upto = list(accumulate(rows.units, initial=0))
        # A list right behind the id is the last field, because every other one was cut.
        rows.inner = [(begin.end(), body.rindex(b"]")) if begin else self._listed(body)
                      for begin, body in zip(map(self._begins, block.bodies), block.bodies, strict=True)]  # fmt: skip

    def _listed(self, body: bytes) -> tuple[int, int]:
        found = members(body, 0, len(body))[self.name]
        return found.begin + 1, found.end - 1

    def _spare(self, names: Collection[str]) -> Collection[str]:
        # Fields of a customer are sent by the stage of the customers, so "send" does not keep them here.
        return {*names} - {"id", self.name} if self._options.unknown_fields == "send" else self._beside

    @abstractmethod
    def _amounts(self, units: Sequence[Any]) -> tuple[list[str], list[Decimal]]:
        """The keys and amounts that these units, whose values are good, add to the sums."""

    def _sendable(self, units: Sequence[Any]) -> bool:
        """Whether these units can be sent as they stand, if their values are good."""
        return True

    @abstractmethod
    def _unit(
        self, walk: Walk, begin: int, end: int, fields: Mapping[str, Member], where: str, salt: bytes
    ) -> Pair | str:
        """The key and amount that this unit adds to the sums, or the reason why it is filtered.

        Its faults go to the walk. `salt` differs for each unit, even for units of the same bytes.
        """

    def _tally(self, walk: Walk, found: Mapping[str, Member]) -> Tally:
        return Tally(1, *self._salvage(walk, found.get(self.name)))

    def _explained(self, walk: Walk, found: dict[str, Member], position: Position, unit: int) -> Examined:
        data, listed = walk.data, found.get(self.name)
        reason = self._filters.customer(texts_of(data, found, self._filters.customer_fields))
        if not reason and (listed is None or data[listed.begin] == ord("n")):
            if "id" not in found:
                # Without an owner it is no customer without units, but a part of a record, or a single unit.
                neither = "neither (of a file of lines the name should end in .ndjson)"
                raise Refusals([expected("missing-field", "$", f"a customer's id and {self.name}", neither)])
            reason = f"no-{self.name}"
        if reason or listed is None:
            return Examined(position, filtered=((reason, self._tally(walk, found)),))
        return self._sent(walk, found, listed, position, unit)

    def _sent(self, walk: Walk, found: Mapping[str, Member], listed: Member, position: Position, unit: int) -> Examined:
        values = walk.fields(0, found, self._shape, "$", cut=self._spare(found), apart={self.name})
        owner = values.get("id") or text_of(walk.data, found.get("id"))
        amounts, left_out = self._units(walk, listed, found.get("id"))
        walk.check()
        if not amounts:
            return Examined(position, filtered=left_out or ((f"no-{self.name}", Tally(1)),))
        if self.once and len(amounts) > self._options.max_units:
            what = f"one request holds at most {self._options.max_units}, and they must not be split"
            raise Refusals([Refusal(f"too-many-{self.name}", f"$.{self.name}", what)])
        body = walk.rest()
        inner = (shifted(listed.begin + 1, walk.edits), shifted(listed.end - 1, walk.edits))
        self._fits(body, inner)
        record = Record(position, unit, owner, body, len(amounts), amounts, inner)
        # The record counts as sent, so of its filtered parts only the units count.
        left_out = tuple((reason, Tally(0, tally.units, tally.sums)) for reason, tally in left_out)
        return Examined(position, (record,), left_out, dropped=tuple(walk.dropped))

    def _units(
        self, walk: Walk, listed: Member, owner: Member | None
    ) -> tuple[tuple[Pair, ...], tuple[tuple[str, Tally], ...]]:
        """The amounts of the units to be sent, and the tallies of filtered units by reason. These count the record,
        too, as if no unit were sent."""
        try:
            parts = walk.listed(listed, f"$.{self.name}")
        except Refusal as refusal:
            walk.fault(refusal)
            return (), ()
        whose = walk.data[owner.begin : owner.end] if owner else b""
        amounts: list[Pair] = []
        left_out: dict[str, Tally] = {}
        keep: list[bool] = []
        for index, part in enumerate(parts):
            begin, end = part
            keep.append(True)
            if pair := walk.pairs.get(begin) or (None if walk.looked else self._clean_unit(walk.data[begin:end])):
                amounts.append(pair)
                walk.pairs[begin] = pair
                continue
            where = f"$.{self.name}[{index}]"
            try:
                fields = walk.open(begin, end, where)
            except Refusal as refusal:
                walk.fault(refusal)
                continue
            amount = self._unit(walk, begin, end, fields, where, b"%b %d" % (whose, index))
            if isinstance(amount, tuple):
                amounts.append(amount)
                if amount[0]:  # both could be read
                    walk.pairs[begin] = amount
            else:
                keep[-1] = False
                tally = Tally(0 if left_out else 1, 1, self._sums(walk.data, fields))
                left_out[amount] = left_out.get(amount, Tally()) + tally
        if False in keep:
            walk.edits += cuts(parts, keep)
        return tuple(amounts), tuple(left_out.items())

    def _clean_unit(self, data: bytes) -> Pair | None:
        """The key and amount of a unit that can be sent as it stands, found in a tenth of a walk's time; else None."""
        unit = None if self._marked else strictly(self._decode_unit, data)
        if unit is None or not self._values.clean((unit,), self._unit_shape) or not self._sendable((unit,)):
            return None
        keys, amounts = self._amounts((unit,))
        return keys[0], amounts[0]

    def _sums(self, data: bytes, fields: Mapping[str, Member]) -> Mapping[str, Any]:
        pair = self._pair(data, fields)
        return total((pair,)) if pair else {}

    def _fits(self, body: bytes, inner: tuple[int, int]) -> None:
        """Raise `Refusals` if the record, or a unit of one that may be split, is too large for any request."""
        if len(body) <= self._room:
            return
        where = f"$.{self.name}"
        if not self.once:
            shell = len(body) - (inner[1] - inner[0])
            sizes = [end - begin for begin, end in elements(body, inner[0] - 1, inner[1] + 1)]
            if shell + max(sizes) <= self._room:
                return
            where = f"{where}[{sizes.index(max(sizes))}]"
        raise Refusals([Refusal("too-large", where, f"one request has room for {self._room} bytes, this needs more")])


class EventRules(GroupedRules):
    """Events: one unit each; the sum of the purchases' values."""

    name = "events"
    model = models.OwnerOfEvents
    roles = Roles(
        {
            ("id",): OWNER,
            ("events",): UNITS,
            ("events", "type"): COUNTS_IF,
            ("events", "fulfilled"): IS_TRUE,
            ("events", "order", "value"): AMOUNT,
        },
        adds=("events",),
        key=PURCHASES,
        words=(PURCHASE,),
    )
    unit_model = models.Event
    has_keys = True
    _facts = OfEvents

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None, judge: str = "auto") -> None:
        super().__init__(options, mapping, judge)
        self._alone = int(options.owner is not None)
        self._marks = self._filters.event_fields - frozenset(self._unit_shape.fields)
        # A single event always needs its owner put around it.
        self._marked |= options.owner is not None or not self._filters.event_fields.isdisjoint(self._unit_shape.fields)

    def _sendable(self, units: Sequence[models.Event]) -> bool:
        return all(map(_fulfilled, units))

    def _amounts(self, units: Sequence[models.Event]) -> tuple[list[str], list[Decimal]]:
        values = decimals([event.order.value for event in units])
        amounts = [value if event.type == PURCHASE else ZERO for event, value in zip(units, values, strict=True)]
        return [PURCHASES] * len(amounts), amounts

    def _tally(self, walk: Walk, found: Mapping[str, Member]) -> Tally:
        if self._options.owner is None:
            return super()._tally(walk, found)
        return Tally(1, 1, self._sums(walk.data, found))

    def _explained(self, walk: Walk, found: dict[str, Member], position: Position, unit: int) -> Examined:
        if self._options.owner is None:
            return super()._explained(walk, found, position, unit)
        return self._row(walk, found, self._options.owner, position, unit)

    def _row(self, walk: Walk, found: Mapping[str, Member], name: str, position: Position, unit: int) -> Examined:
        """A single event that names its owner."""
        data, where, owner, at = walk.data, f"$.{name}", "", found.get(name)
        try:
            if at is None:
                raise expected("missing-field", where, "the customer's id", "nothing")
            owner = walk.text(at, self._shape.fields["id"], where)
        except Refusal as refusal:
            walk.fault(refusal)
        whose = data[at.begin : at.end] if at else b""
        amount = self._unit(walk, 0, len(data), found, "$", whose)
        walk.check()
        if isinstance(amount, str):
            return Examined(position, filtered=((amount, self._tally(walk, found)),))
        head, event, tail = b'{"id":%b,"events":[' % whose, walk.rest(), b"]}"
        inner = (len(head), len(head) + len(event))
        body = head + event + tail
        if len(body) > self._room:
            what = f"one request has room for {self._room} bytes, this needs more"
            raise Refusals([Refusal("too-large", "$", what)])
        record = Record(position, unit, owner, body, 1, (amount,), inner)
        return Examined(position, (record,), dropped=tuple(walk.dropped))

    def _unit(
        self, walk: Walk, begin: int, end: int, fields: Mapping[str, Member], where: str, salt: bytes
    ) -> Pair | str:
        data, options = walk.data, self._options
        if reason := self._filters.event(texts_of(data, fields, self._filters.event_fields)):
            return reason
        cut = {*self._marks, options.owner} if options.owner is not None else self._marks
        waived, put = frozenset[str](), []
        kind, order = fields.get("type"), fields.get("order")
        purchase = kind is not None and text_of(data, kind) == PURCHASE
        without = order is None or data[order.begin] == ord("n")
        if not purchase and kind is not None and data[kind.begin] == 0x22 and without:
            if not options.zero_orders:
                return "not-a-purchase"
            waived = frozenset({"order"})
            put.append(_zero_order(data[begin:end] + salt))
        values = walk.fields(begin, fields, self._unit_shape, where, cut=cut, waived=waived, put=put)
        if values.get("fulfilled") is False:
            walk.replace(fields["fulfilled"], b"true")  # migrated events count as fulfilled, whatever was said
        return (purchase and self._pair(data, fields)) or (PURCHASES, ZERO)

    def _pair(self, data: bytes, fields: Mapping[str, Member]) -> Pair | None:
        order, kind = fields.get("order"), fields.get("type")
        if order is None or data[order.begin] != 0x7B or text_of(data, kind) != PURCHASE:
            return None
        try:
            value = self._readable(data, members(data, order.begin, order.end).get("value"))
        except (Duplicate, *NOT_JSON):
            return None
        return None if value is None else (PURCHASES, value)


def _zero_order(seed: bytes) -> bytes:
    """An order for an event that has none: its id is the same at every reading, and another for every event."""
    name = hashlib.blake2b(seed, digest_size=16).hexdigest().encode()
    return (
        b'"order":{"purchase_id":"none-%b","value":0,"discounted_value":0,"products":[],"payment_method":"OTHER"}'
        % name
    )


class TransactionRules(GroupedRules):
    """Transactions: one unit each; signed sums by reward."""

    name = "transactions"
    once = True
    model = models.OwnerOfTransactions
    roles = Roles(
        {
            ("id",): OWNER,
            ("transactions",): UNITS,
            ("transactions", "reward_id"): KEY,
            ("transactions", "amount"): AMOUNT,
        },
        adds=("transactions",),
    )
    unit_model = models.Transaction
    adds_up = True
    _facts = OfTransactions

    def _amounts(self, units: Sequence[models.Transaction]) -> tuple[list[str], list[Decimal]]:
        return [self._keys[each.reward_id] for each in units], decimals([each.amount for each in units])

    def _unit(
        self, walk: Walk, begin: int, end: int, fields: Mapping[str, Member], where: str, salt: bytes
    ) -> Pair | str:
        values = walk.fields(begin, fields, self._unit_shape, where, wanted=("reward_id", "amount"))
        return values.get("reward_id", "").lower(), values.get("amount", ZERO)
