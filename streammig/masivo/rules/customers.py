"""The rules of customers: profile, opening balance, and expired lots."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from itertools import accumulate
from typing import Any

import msgspec

from streammig.columns import Columns
from streammig.masivo import models
from streammig.masivo.edit import Member, Part, cuts
from streammig.masivo.rules.base import Pair, StageRules, id_in
from streammig.masivo.rules.compiled import AMOUNT, KEY, LATER, NOT_NEGATIVE, OWNER, UNIQUE, Roles
from streammig.masivo.rules.cutting import Block
from streammig.masivo.rules.explain import KINDS, Walk
from streammig.masivo.rules.facts import OfCustomers
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, Refusals, expected
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.values import bad_ids, decimals, good_email, lower_emails, strictly, text_of, texts_of
from streammig.model import FILTERED, Examined, Position, Record, Tally, total

_LOT = shape_of(models.Lot)
_OF_LOT = ("reward_id", "amount", "expiration_date")
_decode_lot = msgspec.json.Decoder(models.Lot).decode

STRUCTURAL = frozenset({"events", "transactions"})  # one file may carry all three stages
_ANONYMOUS = frozenset({"name", "email", "registration_date"})  # optional for anonymous customers

Amounts = tuple[Pair, ...]


class CustomerRules(StageRules):
    """Customers: one unit each; sums of the lots that are sent, by reward."""

    model = models.Customer
    roles = Roles(
        {
            ("id",): OWNER,
            ("email",): UNIQUE,
            ("balance", "reward_id"): KEY,
            ("balance", "amount"): AMOUNT | NOT_NEGATIVE,
            ("balance", "expiration_date"): LATER,
        },
        adds=("balance",),
    )
    adds_up = True
    _facts = OfCustomers
    _alone = 1
    _misses = True

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None, judge: str = "auto") -> None:
        super().__init__(options, mapping, judge)
        self._beside = (self._filters.customer_fields - frozenset(self._shape.fields)) | STRUCTURAL
        self._marked = not self._filters.customer_fields.isdisjoint(self._shape.fields)

    def _check(self, block: Block) -> None:
        models, odd, now = block.models, block.odd, self._options.now
        block.owners = [each.id for each in models]
        odd.update(bad_ids(block.owners))
        emails = [each.email for each in models]
        lower = lower_emails(emails)
        if lower is None:
            odd.update([at for at, each in enumerate(emails) if not good_email(each)])
            lower = list(map(str.lower, emails))
        block.uniques = lower
        lots = [lot for each in models for lot in each.balance]
        expire = [lot.expiration_date for lot in lots if lot.expiration_date is not None]
        if expire and min(expire) <= now:
            odd.update([at for at, each in enumerate(models) if any(_expired(lot, now) for lot in each.balance)])
        if b"-" in b",".join([lot.amount for lot in lots]):
            odd.update([at for at, each in enumerate(models) if any(b"-" in bytes(lot.amount) for lot in each.balance)])

    def _fill(self, rows: Columns, block: Block) -> None:
        lots = [lot for each in block.models for lot in each.balance]
        rows.amounts = decimals([lot.amount for lot in lots])
        rows.keys = [self._keys[lot.reward_id] for lot in lots]
        rows.upto = list(accumulate([len(each.balance) for each in block.models], initial=0))
        rows.units = [1] * len(block.models)

    def _spare(self, names: Collection[str]) -> Collection[str]:
        return self._beside

    def _tally(self, walk: Walk, found: Mapping[str, Member]) -> Tally:
        return Tally(1, 1, self._salvage(walk, found.get("balance"))[1])

    def _explained(self, walk: Walk, found: dict[str, Member], position: Position, unit: int) -> Examined:
        owner = id_in(walk.data, found.get("id"))
        if reason := self._filters.customer(texts_of(walk.data, found, self._filters.customer_fields)):
            filtered = ((reason, self._tally(walk, found)),)
            return Examined(position, filtered=filtered, absent=((owner, FILTERED),) if owner else ())
        return self._sent(walk, found, position, unit, owner)

    def _sent(self, walk: Walk, found: dict[str, Member], position: Position, unit: int, owner: str) -> Examined:
        cut = self._beside
        apart, waived, put = {"balance"}, frozenset[str](), []
        email = text_of(walk.data, found.get("email"))
        if email.strip() in ("", "null"):
            cut, waived = cut | {"email"}, _ANONYMOUS
            if not self._options.send_anonymous:
                what = "none (see send_anonymous)"
                walk.fault(expected("missing-field", "$.email", KINDS["email"].expected, what))
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
        unique = values.get("email", email if "email" in found and found["email"].clean else "").lower()
        record = Record(position, unit, owner, body, units=1, amounts=sent, unique=unique)
        filtered = (("expired-lots", Tally(0, 0, total(expired))),) if expired else ()
        return Examined(position, (record,), filtered, dropped=tuple(walk.dropped))

    def _lots(self, walk: Walk, balance: Member | None) -> tuple[Amounts, Amounts]:
        """Return the amounts of the lots that are sent, and of expired lots, which are cut."""
        try:
            parts = walk.listed(balance, "$.balance")
        except Refusal as refusal:
            walk.fault(refusal)
            return (), ()
        sent: list[Pair] = []
        expired: list[Pair] = []
        keep: list[bool] = []
        for index, part in enumerate(parts):
            keep.append(True)
            if pair := walk.pairs.get(part.begin):  # clean for the judge, so not expired
                sent.append(pair)
                continue
            where = f"$.balance[{index}]"
            edits, dropped, faults = len(walk.edits), len(walk.dropped), len(walk.faults)
            lot = self._clean_lot(walk, part) or walk.element(part, _LOT, where, _OF_LOT)
            if "amount" in lot and lot["amount"] < 0:
                walk.fault(expected("bad-amount", f"{where}.amount", "zero or more", "a negative number"))
            if len(walk.faults) > faults:
                continue
            gone = lot["expiration_date"] is not None and lot["expiration_date"] <= self._options.now
            if gone:
                del walk.edits[edits:]
                walk.dropped[dropped:] = ["$.balance[] (expired)"]
                keep[-1] = False
            (expired if gone else sent).append((lot["reward_id"].lower(), lot["amount"]))
        if False in keep:
            walk.edits += cuts(parts, keep)
        return tuple(sent), tuple(expired)

    def _clean_lot(self, walk: Walk, part: Part) -> dict[str, Any] | None:
        """Return the wanted fields of a lot that can be sent unchanged, in a fourth of a walk's time; else None."""
        lot = None if walk.looked else strictly(_decode_lot, walk.data[part.begin : part.end])
        if lot is None or not self._values.clean((lot,), _LOT):
            return None
        pair = walk.pairs[part.begin] = self._keys[lot.reward_id], decimals((lot.amount,))[0]
        return {"reward_id": pair[0], "amount": pair[1], "expiration_date": lot.expiration_date}


def _expired(lot: models.Lot, now: datetime) -> bool:
    return lot.expiration_date is not None and lot.expiration_date <= now
