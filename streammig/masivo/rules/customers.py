"""The rules of customers: who they are, their opening balance, what of it has expired."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice, repeat
from typing import Any

from streammig.masivo import models
from streammig.masivo.rules.base import Pair, StageRules, id_in
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, expected
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.values import decimals, folded_emails, good_email, good_id, good_ids, text_of, texts_of
from streammig.masivo.rules.walk import EXPECTED, Walk
from streammig.masivo.splice import Member, cuts
from streammig.records import Examined, Position, Record, Tally, total

_LOT = shape_of(models.Lot)

STRUCTURAL = frozenset({"events", "transactions"})  # one file may carry all three stages
_ANONYMOUS = frozenset({"name", "email", "registration_date"})  # what live registration waives for such customers

Amounts = tuple[Pair, ...]


class CustomerRules(StageRules):
    """Customers: one unit each; sums of the lots that are sent, by reward."""

    model = models.Customer
    _alone = 1

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None) -> None:
        super().__init__(options, mapping)
        self._beside = (self._filters.customer_fields - frozenset(self._shape.fields)) | STRUCTURAL
        self._marked = not self._filters.customer_fields.isdisjoint(self._shape.fields)

    def as_they_stand(
        self, models: list[models.Customer], data: list[bytes], positions: list[Position], unit: int
    ) -> list[Record] | None:
        owners, emails = [each.id for each in models], [each.email for each in models]
        twins = folded_emails(emails)
        if twins is None:
            if not all(map(good_email, emails)):
                return None
            twins = list(map(str.casefold, emails))
        if not (good_ids(owners) or all(map(good_id, owners))):
            return None
        lots = [lot for each in models for lot in each.balance]
        expire = [lot.expiration_date for lot in lots if lot.expiration_date is not None]
        if expire and min(expire) <= self._options.now:
            return None
        numbers = decimals([lot.amount for lot in lots])
        if numbers and min(numbers) < 0:
            return None
        pairs = zip([self._keys[lot.reward_id] for lot in lots], numbers, strict=True)
        amounts = [tuple(islice(pairs, len(each.balance))) for each in models]
        return list(map(Record, positions, repeat(unit), owners, data, repeat(1), amounts, repeat(None), twins))

    def _spare(self, names: Collection[str]) -> Collection[str]:
        return self._beside

    def judge(self, data: bytes, position: Position, unit: int) -> Examined:
        walk = self._walk(data)
        try:
            found = walk.open(0, len(data), "$", "not-an-object")
        except Refusal as refusal:
            return self._dead(position, unit, refusal, Tally(1, 1))
        owner = id_in(data, found.get("id"))
        if reason := self._filters.customer(texts_of(data, found, self._filters.customer_fields)):
            tally = Tally(1, 1, self._salvage(data, found.get("balance"))[1])
            return Examined(position, filtered=((reason, tally),), absent=((owner, reason),) if owner else ())
        try:
            trimmed = self._trimmed(walk, found, position, unit)
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
        values = walk.fields(0, found, self._shape, "$", cut=cut, apart=apart, waived=waived, put=put)
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
