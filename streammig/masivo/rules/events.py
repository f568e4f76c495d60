"""The rules of events: purchases and what else happened, in a list below their owner or one to a record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any

from streammig.masivo import models
from streammig.masivo.edit import NOT_JSON, Duplicate, Member, members
from streammig.masivo.rules.base import Pair
from streammig.masivo.rules.compiled import AMOUNT, COUNTS_IF, IS_TRUE, OWNER, UNITS, Roles
from streammig.masivo.rules.explain import Walk
from streammig.masivo.rules.facts import PURCHASE, OfEvents
from streammig.masivo.rules.grouped import GroupedRules
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, Refusals, expected
from streammig.masivo.rules.values import decimals, text_of, texts_of
from streammig.model import ZERO, Examined, Position, Record, Tally

PURCHASES = "purchases"

_fulfilled = attrgetter("fulfilled")


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
        kind = fields.get("type")
        purchase = kind is not None and text_of(data, kind) == PURCHASE
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
        if order is None or data[order.begin] != 0x7B or text_of(data, kind) != PURCHASE:
            return None
        try:
            value = self._readable(data, members(data, order.begin, order.end).get("value"))
        except (Duplicate, *NOT_JSON):
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
