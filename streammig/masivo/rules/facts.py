"""What records hold beside what a batch needs: the account's own world, keys of units, and what must add up.

Each record is decoded once for all of it, and only if it is asked for. Records are as they are sent, so their form is
proven.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cached_property
from itertools import chain

import msgspec

from streammig.model import EXACT
from streammig.target import FRACTION_DIGITS

READABLE_FROM = "2020"  # what is older can't be read back
UNSIGNED = "MIGRATION"  # transactions of this type tell of the balance, and are no part of its history
PURCHASE = "PURCHASE"  # another type of event may well name the purchase that it is about
METRICS, OLD = ("remarks", "metrics"), ("remarks", "old")

Mention = tuple[str, str]  # the kind of thing, and which one
Key = tuple[int, int, str]  # the row, the number of the unit in it, and its key
Share = tuple[int, str, int]  # the row, the name of the sum, and the amount in units of the last fraction digit


class _Part(msgspec.Struct, frozen=True, gc=False):
    reward_id: str | None = None
    brand_id: str | None = None
    channel_id: str | None = None
    store_id: str | None = None


class _Lot(_Part, frozen=True, gc=False):
    amount: Decimal = Decimal()


class _Order(_Part, frozen=True, gc=False):
    purchase_id: str = ""


class _Event(_Part, frozen=True, gc=False):
    type: str = ""
    issued_at: str = READABLE_FROM
    order: _Order = _Order()


class _Transaction(_Lot, frozen=True, gc=False):
    type: str = ""
    issued_at: str = READABLE_FROM


class _Period(msgspec.Struct):
    tier_id: str | None = None


class _Customer(msgspec.Struct):
    balance: list[_Lot] = []
    metrics: dict[str, _Period | str | None] | None = None


class _OwnerOfEvents(msgspec.Struct):
    events: list[_Event]


class _OwnerOfTransactions(msgspec.Struct):
    transactions: list[_Transaction]


_customer = msgspec.json.Decoder(_Customer).decode
_events = msgspec.json.Decoder(_OwnerOfEvents).decode
_transactions = msgspec.json.Decoder(_OwnerOfTransactions).decode


class OfCustomers:
    """The facts of customers."""

    keys: Sequence[Key] = ()

    def __init__(self, bodies: Iterable[bytes]) -> None:
        self._rows = list(map(_customer, bodies))

    @cached_property
    def mentioned(self) -> Counter[Mention]:
        found = _of_parts([it.balance for it in self._rows])
        supplied = [it.metrics for it in self._rows if it.metrics]
        found.update([METRICS] * len(supplied))
        for metrics in supplied:
            periods = [it for it in metrics.values() if isinstance(it, _Period)]
            found.update({("tiers", it.tier_id.lower()) for it in periods if it.tier_id})
        return found

    @cached_property
    def shares(self) -> Sequence[Share]:
        return _shares([it.balance for it in self._rows])


class OfEvents:
    """The facts of owners' events."""

    shares: Sequence[Share] = ()

    def __init__(self, bodies: Iterable[bytes]) -> None:
        self._rows = [it.events for it in map(_events, bodies)]

    @cached_property
    def mentioned(self) -> Counter[Mention]:
        found = _of_parts([[*chain.from_iterable((it, it.order) for it in row)] for row in self._rows])
        found.update(_named("event-types", ({it.type for it in row} for row in self._rows)))
        found.update(_old(self._rows))
        return found

    @cached_property
    def keys(self) -> Sequence[Key]:
        return [(at, number, it.order.purchase_id) for at, row in enumerate(self._rows)
                for number, it in enumerate(row) if it.type == PURCHASE]  # fmt: skip


class OfTransactions:
    """The facts of owners' transactions."""

    keys: Sequence[Key] = ()

    def __init__(self, bodies: Iterable[bytes]) -> None:
        self._rows = [it.transactions for it in map(_transactions, bodies)]

    @cached_property
    def mentioned(self) -> Counter[Mention]:
        found = _of_parts(self._rows)
        found.update(_old(self._rows))
        return found

    @cached_property
    def shares(self) -> Sequence[Share]:
        return _shares([[it for it in row if it.type != UNSIGNED] for row in self._rows])


def _of_parts(rows: Sequence[Sequence[_Part]]) -> Counter[Mention]:
    """How many of these rows mention each reward, brand, channel and store."""
    found = _named("rewards", ({it.reward_id.lower() for it in row if it.reward_id is not None} for row in rows))
    found.update(_named("brands", ({it.brand_id for it in row} for row in rows)))
    found.update(_named("channels", ({it.channel_id for it in row} for row in rows)))
    found.update(_named("stores", ({it.store_id for it in row} for row in rows)))
    return found


def _named(kind: str, rows: Iterable[set[str] | set[str | None]]) -> Counter[Mention]:
    counted = Counter(chain.from_iterable(rows))
    return Counter({(kind, which): times for which, times in counted.items() if which is not None})


def _old(rows: Sequence[Sequence[_Event] | Sequence[_Transaction]]) -> Iterator[Mention]:
    return (OLD for row in rows if min([it.issued_at for it in row], default=READABLE_FROM) < READABLE_FROM)


def _shares(rows: Iterable[Sequence[_Lot]]) -> list[Share]:
    return [
        (at, f"{(it.reward_id or '').lower()} {it.brand_id or ''}", int(it.amount.scaleb(FRACTION_DIGITS, EXACT)))
        for at, row in enumerate(rows)
        for it in row
    ]


Facts = OfCustomers | OfEvents | OfTransactions
