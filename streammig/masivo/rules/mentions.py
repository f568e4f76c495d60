"""What a record mentions of the account's own world: rewards, tiers, stores, channels, brands, kinds of events."""

from __future__ import annotations

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


class _Period(msgspec.Struct):
    tier_id: str | None = None


class _Customer(msgspec.Struct):
    balance: list[_Part] = []
    metrics: dict[str, _Period | str | None] | None = None


class _Owner(msgspec.Struct):
    events: list[_Unit] = []
    transactions: list[_Unit] = []


_customer = msgspec.json.Decoder(_Customer).decode
_owner = msgspec.json.Decoder(_Owner).decode


def of_customer(body: bytes) -> set[Mention]:
    """The mentions of a customer as it is sent."""
    customer, found = _customer(body), set[Mention]()
    for lot in customer.balance:
        _add(found, lot)
    if customer.metrics:
        found.add(("remarks", "metrics"))
        for period in customer.metrics.values():
            if isinstance(period, _Period) and period.tier_id:
                found.add(("tiers", period.tier_id.lower()))
    return found


def of_owner(body: bytes) -> set[Mention]:
    """The mentions of an owner's events or transactions as they are sent."""
    owner, found = _owner(body), set[Mention]()
    for unit in (*owner.events, *owner.transactions):
        _add(found, unit)
        if unit.order is not None:
            _add(found, unit.order)
        if unit.issued_at < READABLE_FROM:
            found.add(("remarks", "old"))
    found.update([("event-types", event.type) for event in owner.events])
    return found


def _add(found: set[Mention], part: _Part) -> None:
    if part.reward_id is not None:
        found.add(("rewards", part.reward_id.lower()))
    if part.brand_id is not None:
        found.add(("brands", part.brand_id))
    if part.channel_id is not None:
        found.add(("channels", part.channel_id))
    if part.store_id is not None:
        found.add(("stores", part.store_id))
