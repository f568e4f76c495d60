"""What must add up: the lots of a customer's balance against the customer's transactions, by reward and brand."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import msgspec

Share = tuple[str, Decimal]
UNSIGNED = "MIGRATION"  # transactions of this type tell of the balance, and are no part of its history


class _Lot(msgspec.Struct):
    reward_id: str
    amount: Decimal
    brand_id: str | None = None
    type: str = ""


class _Customer(msgspec.Struct):
    balance: list[_Lot] = []


class _History(msgspec.Struct):
    transactions: list[_Lot] = []


_customer = msgspec.json.Decoder(_Customer).decode
_history = msgspec.json.Decoder(_History).decode


def of_customer(body: bytes) -> Iterator[Share]:
    """The lots of a customer as it is sent."""
    return map(_share, _customer(body).balance)


def of_history(body: bytes) -> Iterator[Share]:
    """The transactions of an owner as they are sent, with their signs."""
    return (_share(it) for it in _history(body).transactions if it.type != UNSIGNED)


def _share(it: _Lot) -> Share:
    return f"{it.reward_id.lower()} {it.brand_id or ''}", it.amount
