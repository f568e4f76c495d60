"""The rules of customers: who they are, their opening balance, what of it has expired."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from itertools import accumulate
from typing import Any

from streammig.columns import Columns
from streammig.masivo import models
from streammig.masivo.edit import Member, cuts
from streammig.masivo.rules.base import Block, Pair, StageRules, id_in
from streammig.masivo.rules.explain import EXPECTED, Walk
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, Refusals, expected
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.values import decimals, folded_emails, good_email, good_id, good_ids, text_of, texts_of
from streammig.model import FILTERED, Examined, Position, Record, Tally, total

_LOT = shape_of(models.Lot)

STRUCTURAL = frozenset({"events", "transactions"})  # one file may carry all three stages
_ANONYMOUS = frozenset({"name", "email", "registration_date"})  # what live registration waives for such customers

Amounts = tuple[Pair, ...]


class CustomerRules(StageRules):
    """Customers: one unit each; sums of the lots that are sent, by reward."""

    model = models.Customer
    _alone = 1
    _misses = True

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None) -> None:
        super().__init__(options, mapping)
        self._beside = (self._filters.customer_fields - frozenset(self._shape.fields)) | STRUCTURAL
        self._marked = not self._filters.customer_fields.isdisjoint(self._shape.fields)

    def _fill(self, rows: Columns, block: Block) -> None:
        models, odd, now = block.models, block.odd, self._options.now
        rows.owners = [each.id for each in models]
        if not good_ids(rows.owners):
            odd.update([at for at, each in enumerate(rows.owners) if not good_id(each)])
        emails = [each.email for each in models]
        folded = folded_emails(emails)
        if folded is None:
            odd.update([at for at, each in enumerate(emails) if not good_email(each)])
            folded = list(map(str.casefold, emails))
        rows.uniques = folded
        lots = [lot for each in models for lot in each.balance]
        expire = [lot.expiration_date for lot in lots if lot.expiration_date is not None]
        if expire and min(expire) <= now:
            odd.update([at for at, each in enumerate(models) if any(_expired(lot, now) for lot in each.balance)])
        rows.amounts = decimals([lot.amount for lot in lots])
        if rows.amounts and min(rows.amounts) < 0:
            odd.update([at for at, each in enumerate(models) if any(b"-" in bytes(lot.amount) for lot in each.balance)])
        rows.keys = [self._keys[lot.reward_id] for lot in lots]
        rows.upto = list(accumulate([len(each.balance) for each in models], initial=0))
        rows.units = [1] * len(models)

    def _spare(self, names: Collection[str]) -> Collection[str]:
        return self._beside

    def explain(self, data: bytes, position: Position, unit: int) -> Examined:
        walk = self._walk(data)
        try:
            found = walk.open(0, len(data), "$", "not-an-object")
        except Refusal as refusal:
            return self._dead(position, unit, [refusal], Tally(1, 1))
        owner = id_in(data, found.get("id"))
        if reason := self._filters.customer(texts_of(data, found, self._filters.customer_fields)):
            tally = Tally(1, 1, self._salvage(data, found.get("balance"))[1])
            return Examined(position, filtered=((reason, tally),), absent=((owner, FILTERED),) if owner else ())
        try:
            return self._sent(walk, found, position, unit, owner)
        except Refusals as all_:
            tally = Tally(1, 1, self._salvage(data, found.get("balance"))[1])
            return self._dead(position, unit, all_.faults, tally, owner)

    def _sent(self, walk: Walk, found: dict[str, Member], position: Position, unit: int, owner: str) -> Examined:
        cut = self._beside
        apart, waived, put = {"balance"}, frozenset[str](), []
        if text_of(walk.data, found.get("email")).strip() in ("", "null"):
            cut, waived = cut | {"email"}, _ANONYMOUS
            if not self._options.send_anonymous:
                what = "none (see send_anonymous)"
                walk.faults.append(expected("missing-field", "$.email", EXPECTED["email"], what))
                waived = frozenset({"email"})
            elif "is_anonymous" not in found:
                put.append(b'"is_anonymous":true')
            else:
                apart.add("is_anonymous")
                walk.replace(found["is_anonymous"], b"true")
        values = walk.fields(0, found, self._shape, "$", cut=cut, apart=apart, waived=waived, put=put)
        sent, expired = self._lots(walk, found.get("balance"))
        walk.check()
        body = walk.rest()
        if len(body) > self._room:
            what = f"one request holds at most {self._room} bytes of customers, this has more"
            raise Refusals([Refusal("too-large", "$", what)])
        unique = values.get("email", "").casefold()
        record = Record(position, unit, owner, body, units=1, amounts=sent, unique=unique)
        filtered = (("expired-lots", Tally(0, 0, total(expired))),) if expired else ()
        return Examined(position, (record,), filtered, dropped=tuple(walk.dropped))

    def _lots(self, walk: Walk, balance: Member | None) -> tuple[Amounts, Amounts]:
        """The amounts of the lots that are sent, and of those that have expired, which are cut."""
        try:
            parts = walk.listed(balance, "$.balance")
        except Refusal as refusal:
            walk.faults.append(refusal)
            return (), ()
        sent: list[Pair] = []
        expired: list[Pair] = []
        keep: list[bool] = []
        for index, part in enumerate(parts):
            where = f"$.balance[{index}]"
            edits, dropped, faults = len(walk.edits), len(walk.dropped), len(walk.faults)
            lot = walk.element(part, _LOT, where)
            keep.append(True)
            if "amount" in lot and lot["amount"] < 0:
                walk.faults.append(expected("bad-amount", f"{where}.amount", "zero or more", "a negative number"))
            if len(walk.faults) > faults:
                continue
            gone = lot["expiration_date"] is not None and lot["expiration_date"] <= self._options.now
            if gone:
                del walk.edits[edits:]
                walk.dropped[dropped:] = ["$.balance[] (expired)"]
                keep[-1] = False
            (expired if gone else sent).append((lot["reward_id"].lower(), lot["amount"]))
        walk.edits += cuts(parts, keep)
        return tuple(sent), tuple(expired)


def _expired(lot: models.Lot, now: datetime) -> bool:
    return lot.expiration_date is not None and lot.expiration_date <= now
