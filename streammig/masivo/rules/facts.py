"""Find facts of records beyond the needs of a batch: things of the account that they mention, keys, amounts.

Each record is decoded once. Compiled code reads most records instead, and leaves only those in an unusual spelling.
The records are checked before, so their form is proven.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import cached_property, lru_cache
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

import msgspec

from streammig.model import EXACT
from streammig.target import FRACTION_DIGITS

try:
    from streammig.masivo.rules import _facts
except ImportError:  # it was not compiled
    _facts = None  # type: ignore[assignment]

KINDS = ("rewards", "brands", "channels", "stores", "tiers", "event-types", "remarks")  # in the order of `_facts.c`
READABLE_FROM = "2020"  # older records can't be read back
UNSIGNED = "MIGRATION"  # transactions of this type repeat the balance, and are no part of its history
PURCHASE = "PURCHASE"  # only this type makes a purchase; other types may name one
METRICS, OLD = ("remarks", "metrics"), ("remarks", "old")

Mention = tuple[str, str]  # kind of thing, and its name
Key = tuple[int, int, str]  # row, number of the unit in it, key
Share = tuple[int, str, int]  # row, name of the sum, amount in units of the last fraction digit


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
    def mentioned(self) -> dict[Mention, int]:
        supplied = [it.metrics for it in self._rows if it.metrics]
        periods = [[it for it in metrics.values() if isinstance(it, _Period)] for metrics in supplied]
        return {
            **_of_lots([it.balance for it in self._rows]),
            **_counted("tiers", ({it.tier_id.lower() for it in row if it.tier_id} for row in periods)),
            **({METRICS: len(supplied)} if supplied else {}),
        }

    @cached_property
    def shares(self) -> Sequence[Share]:
        return _shares([it.balance for it in self._rows])


class OfEvents:
    """The facts of owners' events."""

    shares: Sequence[Share] = ()

    def __init__(self, bodies: Iterable[bytes]) -> None:
        self._rows = [it.events for it in map(_events, bodies)]

    @cached_property
    def mentioned(self) -> dict[Mention, int]:
        rows = self._rows
        orders = [[it.order for it in row] for row in rows]
        both = list(zip(rows, orders, strict=True))
        return {
            **_counted("event-types", ({it.type for it in row} for row in rows)),
            **_counted("brands", ({it.brand_id for it in row} for row in rows)),
            **_counted("channels", ({it.channel_id for it in row} | {it.channel_id for it in of} for row, of in both)),
            **_counted("stores", ({it.store_id for it in row} | {it.store_id for it in of} for row, of in both)),
            **_old(rows),
        }

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
    def mentioned(self) -> dict[Mention, int]:
        return _of_lots(self._rows) | _old(self._rows)

    @cached_property
    def shares(self) -> Sequence[Share]:
        return _shares([[it for it in row if it.type != UNSIGNED] for row in self._rows])


def _of_lots(rows: Sequence[Sequence[_Part]]) -> dict[Mention, int]:
    """Count the rows that mention each reward, brand, channel and store."""
    return {
        **_counted("rewards", ({it.reward_id.lower() for it in row if it.reward_id is not None} for row in rows)),
        **_counted("brands", ({it.brand_id for it in row} for row in rows)),
        **_counted("channels", ({it.channel_id for it in row} for row in rows)),
        **_counted("stores", ({it.store_id for it in row} for row in rows)),
    }


def _counted(kind: str, rows: Iterable[set[str] | set[str | None]]) -> dict[Mention, int]:
    counted = Counter(chain.from_iterable(rows))
    return {(kind, which): times for which, times in counted.items() if which is not None}


def _old(rows: Sequence[Sequence[_Event] | Sequence[_Transaction]]) -> dict[Mention, int]:
    """Count the rows with a unit that is too old to be read back. Mostly there are none."""
    if min([it.issued_at for row in rows for it in row], default=READABLE_FROM) >= READABLE_FROM:
        return {}
    return {OLD: sum([min([it.issued_at for it in row]) < READABLE_FROM for row in rows if row])}


def _shares(rows: Iterable[Sequence[_Lot]]) -> list[Share]:
    return [(at, _sum(it.reward_id, it.brand_id), int(it.amount.scaleb(FRACTION_DIGITS, EXACT)))
            for at, row in enumerate(rows) for it in row]  # fmt: skip


@lru_cache(maxsize=8192)
def _sum(reward: str | None, brand: str | None) -> str:
    return f"{(reward or '').lower()} {brand or ''}"


Decoded = OfCustomers | OfEvents | OfTransactions
STAGES = (OfCustomers, OfEvents, OfTransactions)  # in the order of `_facts.c`


class Told(NamedTuple):
    """The facts of rows, complete."""

    mentioned: dict[Mention, int]
    keys: Sequence[Key]
    shares: Sequence[Share]


def facts(
    stage: type[Decoded],
    data: bytes,
    starts: Sequence[int],
    ends: Sequence[int],
    edited: dict[int, bytes],
    *,
    compiled: bool,
) -> Decoded | Told:
    """Find the facts of rows, as in `TellsFacts`. `compiled`: decode only rows that compiled code is not sure of."""

    def body(row: int) -> bytes:
        return edited[row] if row in edited else data[starts[row] : ends[row]]

    if not compiled or _facts is None:
        return stage(map(body, range(len(starts))))
    places, changed = (list(starts), list(ends)), tuple(edited.items())
    mentioned, keys, shares, unsure = _facts.facts(STAGES.index(stage), KINDS, data, *places, changed)
    if unsure:
        rest = stage(map(body, unsure))
        mentioned = Counter(mentioned) + Counter(rest.mentioned)
        keys += [(unsure[at], number, text) for at, number, text in rest.keys]
        keys.sort(key=itemgetter(0))
        shares += [(unsure[at], name, amount) for at, name, amount in rest.shares]
    return Told(mentioned, keys, shares)
