"""The rules of customers: who they are, their opening balance, what of it has expired."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from streammig.masivo import models
from streammig.masivo.rules.base import Pair, StageRules, id_in
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, expected
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.values import decimal, good_email, good_id, strictly, text_of
from streammig.masivo.rules.walk import EXPECTED, Walk
from streammig.masivo.splice import Member, cuts
from streammig.records import Examined, Position, Record, Tally, total

_SHAPE = shape_of(models.Customer)
_METRICS = shape_of(models.Metrics)
_LOT = shape_of(models.Lot)
_decode = msgspec.json.Decoder(models.Customer).decode

STRUCTURAL = frozenset({"events", "transactions"})  # one file may carry all three stages
_ANONYMOUS = frozenset({"name", "email", "registration_date"})  # what live registration waives for such customers

Amounts = tuple[Pair, ...]


class CustomerRules(StageRules):
    """Customers: one unit each; sums of the lots that are sent, by reward."""

    _alone = 1

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None) -> None:
        super().__init__(options, mapping)
        self._beside = (self._filters.customer_fields - frozenset(_SHAPE.fields)) | STRUCTURAL
        self._marked = not self._filters.customer_fields.isdisjoint(_SHAPE.fields)

    def clean(self, data: bytes, position: Position, unit: int) -> Record | None:
        customer: models.Customer | None = strictly(_decode, data)
        if customer is None or len(data) > self._room or not (good_id(customer.id) and good_email(customer.email)):
            return None
        now, keys = self._options.now, []
        for lot in customer.balance:
            key, expires = self._keys[lot.reward_id], lot.expiration_date
            if not key or (expires is not None and expires <= now):
                return None
            keys.append(key)
        numbers = [lot.amount for lot in customer.balance]
        if not self._numbers.positive(numbers):
            return None
        if customer.metrics and not self._values.clean((customer.metrics,), _METRICS):
            return None
        amounts = tuple(zip(keys, map(decimal, numbers), strict=True))
        return Record(position, unit, customer.id, data, 1, amounts, None, customer.email.casefold())

    def judge(self, data: bytes, position: Position, unit: int) -> Examined:
        walk = self._walk(data)
        try:
            found = walk.open(0, len(data), "$", "not-an-object")
        except Refusal as refusal:
            return self._dead(position, unit, refusal, Tally(1, 1))
        owner = id_in(data, found.get("id"))
        if reason := self._filters.customer(data, found):
            tally = Tally(1, 1, self._salvage(data, found.get("balance"))[1])
            return Examined(position, filtered=((reason, tally),), absent=((owner, reason),) if owner else ())
        try:
            trimmed = self._trimmed(walk, found, self._beside, _SHAPE, position, unit)
            return trimmed or self._sent(walk, found, position, unit, owner)
        except Refusal as refusal:
            return self._dead(position, unit, refusal, Tally(1, 1, self._salvage(data, found.get("balance"))[1]), owner)

    def _sent(self, walk: Walk, found: dict[str, Member], position: Position, unit: int, owner: str) -> Examined:
        cut = self._beside
        apart, waived, put = {"balance"}, frozenset[str](), []
        if text_of(walk.data, found.get("email")).strip() in ("", "null"):
            if not self._options.send_anonymous:
                raise expected("missing-field", "$.email", EXPECTED["email"], "none (see send_anonymous)")
            cut, apart = cut | {"email"}, apart | {"is_anonymous"}
            waived = _ANONYMOUS
            if "is_anonymous" not in found:
                put.append(b'"is_anonymous":true')
            else:
                walk.replace(found["is_anonymous"], b"true")
        values = walk.fields(0, found, _SHAPE, "$", cut=cut, apart=apart, waived=waived, put=put)
        if "balance" not in found:
            raise expected("missing-field", "$.balance", "a list", "nothing")
        sent, expired = self._lots(walk, found["balance"])
        body = walk.rest()
        if len(body) > self._room:
            raise Refusal("too-large", f"$: one request holds at most {self._room} bytes of customers, this has more")
        record = Record(position, unit, owner, body, 1, sent, None, values.get("email", "").casefold())
        filtered = (("expired-lots", Tally(0, 0, total(expired))),) if expired else ()
        return Examined(position, (record,), filtered, dropped=tuple(walk.dropped))

    def _lots(self, walk: Walk, balance: Member) -> tuple[Amounts, Amounts]:
        """The amounts of the lots that are sent, and of those that have expired, which are cut."""
        spans = walk.spans(balance, "$.balance")
        sent: list[Pair] = []
        expired: list[Pair] = []
        keep: list[bool] = []
        for index, (begin, end) in enumerate(spans):
            where = f"$.balance[{index}]"
            edits, dropped = len(walk.edits), len(walk.dropped)
            lot = walk.fields(begin, walk.open(begin, end, where), _LOT, where)
            if lot["amount"] < 0:
                raise expected("bad-amount", f"{where}.amount", "zero or more", "a negative number")
            gone = lot["expiration_date"] is not None and lot["expiration_date"] <= self._options.now
            if gone:
                del walk.edits[edits:]
                walk.dropped[dropped:] = ["$.balance[] (expired)"]
            (expired if gone else sent).append((lot["reward_id"].lower(), lot["amount"]))
            keep.append(not gone)
        walk.edits += cuts(spans, keep)
        return tuple(sent), tuple(expired)
