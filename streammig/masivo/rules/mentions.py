"""What a record mentions of the account's own world: rewards, tiers, stores, channels, brands, kinds of events."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

Mention = tuple[str, str]  # the kind of thing, and which one
READABLE_FROM = "2020"  # what is older can't be read back


class _Part(msgspec.Struct):
    reward_id: str | None = None
    brand_id: str | None = None
    channel_id: str | None = None
    store_id: str | None = None


class _Unit(_Part):
    type: str = ""
    issued_at: str = READABLE_FROM
    order: _Part | None = None


class _Customer(msgspec.Struct):
    balance: list[_Part] = []
    metrics: dict[str, msgspec.Raw] | None = None


class _Owner(msgspec.Struct):
    events: list[_Unit] = []
    transactions: list[_Unit] = []


class _Period(msgspec.Struct):
    tier_id: str | None = None


_customer = msgspec.json.Decoder(_Customer).decode
_owner = msgspec.json.Decoder(_Owner).decode
_period = msgspec.json.Decoder(_Period | str | None).decode
KINDS = (("rewards", "reward_id"), ("brands", "brand_id"), ("channels", "channel_id"), ("stores", "store_id"))


def of_customer(body: bytes) -> Iterator[Mention]:
    """The mentions of a customer as it is sent."""
    found = _customer(body)
    for lot in found.balance:
        yield from _of_part(lot)
    if found.metrics:
        yield "remarks", "metrics"
        for raw in found.metrics.values():
            period = _period(raw)
            if isinstance(period, _Period) and period.tier_id:
                yield "tiers", period.tier_id.lower()


def of_owner(body: bytes) -> Iterator[Mention]:
    """The mentions of an owner's events or transactions as they are sent."""
    found = _owner(body)
    for unit in (*found.events, *found.transactions):
        yield from _of_part(unit)
        if unit.order is not None:
            yield from _of_part(unit.order)
        if unit.issued_at < READABLE_FROM:
            yield "remarks", "old"
    for event in found.events:
        yield "event-types", event.type


def _of_part(part: _Part) -> Iterator[Mention]:
    for kind, name in KINDS:
        if (value := getattr(part, name)) is not None:
            yield kind, value.lower() if kind == "rewards" else value
