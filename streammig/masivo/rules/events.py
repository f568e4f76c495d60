"""The rules of events: purchases and what else happened, in a list below their owner or one to a record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streammig.masivo import models
from streammig.masivo.rules.base import Pair
from streammig.masivo.rules.grouped import GroupedRules
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, expected
from streammig.masivo.rules.values import decimals, text_of, texts_of
from streammig.masivo.rules.walk import Walk
from streammig.masivo.splice import Duplicate, Member, members
from streammig.records import ZERO, Examined, Position, Record, Tally

PURCHASES = "purchases"


class EventRules(GroupedRules):
    """Events: one unit each; the sum of the purchases' values."""

    name = "events"
    model = models.OwnerOfEvents
    unit_model = models.Event

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None) -> None:
        super().__init__(options, mapping)
        self._alone = int(options.owner is not None)
        self._marks = self._filters.event_fields - frozenset(self._unit_shape.fields)
        # A single event always needs its owner put around it.
        self._marked |= options.owner is not None or not self._filters.event_fields.isdisjoint(self._unit_shape.fields)

    def _amounts(self, units: Sequence[models.Event]) -> tuple[Pair, ...]:
        if not all(event.fulfilled for event in units):
            return ()
        values = decimals([event.order.value for event in units])
        return tuple(
            [
                (PURCHASES, value if event.type == "PURCHASE" else ZERO)
                for event, value in zip(units, values, strict=True)
            ]
        )

    def judge(self, data: bytes, position: Position, unit: int) -> Examined:
        if self._options.owner is None:
            return super().judge(data, position, unit)
        walk = self._walk(data)
        tally = Tally(1, 1)
        try:
            found = walk.open(0, len(data), "$", "not-an-object")
            tally = Tally(1, 1, self._sums(data, found))
            return self._row(walk, found, self._options.owner, position, unit, tally)
        except Refusal as refusal:
            return self._dead(position, unit, refusal, tally)

    def _row(
        self, walk: Walk, found: Mapping[str, Member], name: str, position: Position, unit: int, tally: Tally
    ) -> Examined:
        """A single event that names its owner."""
        data = walk.data
        if name not in found:
            raise expected("missing-field", f"$.{name}", "the customer's id", "nothing")
        begin, end, where = found[name].begin, found[name].end, f"$.{name}"
        owner = self._values.id(self._values.text(data, begin, end, where), where)
        amount = self._unit(walk, 0, len(data), found, "$", data[begin:end])
        if isinstance(amount, str):
            return Examined(position, filtered=((amount, tally),))
        head, event, tail = b'{"id":%b,"events":[' % data[begin:end], walk.rest(), b"]}"
        inner = (len(head), len(head) + len(event))
        body = head + event + tail
        if len(body) > self._room:
            raise Refusal("too-large", f"$: one request has room for {self._room} bytes, this needs more")
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
        kind = fields.get("type")
        purchase = kind is not None and text_of(data, kind) == "PURCHASE"
        if not purchase and kind is not None and data[kind.begin] == 0x22 and not _there(data, fields.get("order")):
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
        if order is None or data[order.begin] != 0x7B or text_of(data, kind) != "PURCHASE":
            return None
        try:
            value = self._readable(data, members(data, order.begin, order.end).get("value"))
        except Duplicate:
            return None
        return None if value is None else (PURCHASES, value)


def _there(data: bytes, member: Member | None) -> bool:
    return member is not None and data[member.begin] != ord("n")


def _zero_order(seed: bytes) -> bytes:
    """An order for an event that has none: its id is the same at every reading, and another for every event."""
    name = hashlib.blake2b(seed, digest_size=16).hexdigest().encode()
    return (
        b'"order":{"purchase_id":"none-%b","value":0,"discounted_value":0,"products":[],"payment_method":"OTHER"}'
        % name
    )
