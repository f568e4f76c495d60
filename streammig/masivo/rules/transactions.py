"""The rules of transactions: a customer's whole history of points, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from streammig.masivo import models
from streammig.masivo.edit import Member
from streammig.masivo.rules.base import Pair
from streammig.masivo.rules.compiled import AMOUNT, KEY, OWNER, UNITS, Roles
from streammig.masivo.rules.explain import Walk
from streammig.masivo.rules.facts import OfTransactions
from streammig.masivo.rules.grouped import GroupedRules
from streammig.masivo.rules.values import decimals
from streammig.model import ZERO


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
