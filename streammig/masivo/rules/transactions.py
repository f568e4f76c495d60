"""The rules of transactions: a customer's whole history of points, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from streammig.errors import Unusable
from streammig.masivo import models
from streammig.masivo.rules.base import Pair
from streammig.masivo.rules.events import clean_order
from streammig.masivo.rules.grouped import GroupedRules
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.shape import shape_of
from streammig.masivo.rules.walk import Walk
from streammig.masivo.splice import Member

_SHAPE = shape_of(models.Transaction)


class TransactionRules(GroupedRules):
    """Transactions: one unit each; signed sums by reward."""

    name = "transactions"
    once = True
    model = models.OwnerOfTransactions

    def __init__(self, options: RuleOptions, mapping: Callable[[Any], Any] | None = None) -> None:
        """Raises `Unusable` for options that make no sense, and for single transactions."""
        if options.owner is not None:
            raise Unusable(
                "transactions: records that are single transactions can't be sent. The target takes a customer's "
                "transactions once, so all of them must be in one record.",
                'Group them by customer first, as {"id": …, "transactions": […]}, and leave out `owner`.',
            )
        super().__init__(options, mapping)

    def _clean_units(self, units: list[models.Transaction]) -> tuple[Pair, ...] | None:
        amounts: list[Pair] = []
        numbers, keys = self._numbers, self._keys
        for each in units:
            key, amount, cost = keys[each.reward_id], numbers[bytes(each.amount)], bytes(each.cost)
            if not key or amount is None or (cost != b"null" and numbers[cost] is None):
                return None
            if each.event is not None and each.event.order and not clean_order(each.event.order, numbers):
                return None
            amounts.append((key, amount))
        return tuple(amounts)

    def _unit(
        self, walk: Walk, begin: int, end: int, fields: Mapping[str, Member], where: str, salt: bytes
    ) -> Pair | str:
        values = walk.fields(begin, fields, _SHAPE, where)
        return values["reward_id"].lower(), values["amount"]
