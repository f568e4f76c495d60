"""Apply batches from the queue as the target does, and silently drop records that do not fit the stored ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from streammig.sandbox.config import SandboxConfig
from streammig.sandbox.forms import (
    DECODERS,
    EXACT,
    Customer,
    Element,
    Event,
    EventOwner,
    Lot,
    Metrics,
    Order,
    Transaction,
    TransactionOwner,
    WindowOfRevert,
    elements,
    units,
)
from streammig.sandbox.store import Store, Waiting, listed

DUPLICATE_EMAIL = "duplicate-email"
REPEAT_IGNORED = "repeat-ignored"
UNKNOWN_CUSTOMER = "unknown-customer"
UNKNOWN_REFERENCE = "unknown-reference"
BALANCE_MISMATCH = "balance-mismatch"
LOST = "lost"


class Queue:
    """Applies the batches that are due. Runs in the store's thread."""

    def __init__(self, config: SandboxConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._db = store.db

    def apply_next(self, now: float) -> bool:
        """Apply the first batch that is due, in one transaction. Return whether there was one."""
        batch = self._store.due(now)
        if batch is None:
            return False
        with self._db:
            if batch.kind == "revert":
                self._revert(batch)
            else:
                self._apply(batch, now)
            self._db.execute("UPDATE batches SET applied = ?, body = NULL WHERE seq = ?", (now, batch.seq))
        return True

    def _apply(self, batch: Waiting, now: float) -> None:
        decode = DECODERS[batch.kind].decode
        kept: list[tuple[Element, msgspec.Raw]] = []
        for index, raw in enumerate(elements(batch.body)):
            element = decode(raw)
            if index in batch.lost:
                self._drop(batch, element, LOST)
            elif not self._references_known(element):
                self._drop(batch, element, UNKNOWN_REFERENCE)
            else:
                kept.append((element, raw))
        if batch.kind == "customers":
            self._customers(batch, [(element, raw) for element, raw in kept if isinstance(element, Customer)], now)
            return
        known = self._owners(batch, [element for element, _ in kept])
        if batch.kind == "events":
            self._events(batch, known)
        else:
            self._transactions(batch, known, now)

    def _customers(self, batch: Waiting, found: Sequence[tuple[Customer, msgspec.Raw]], now: float) -> None:
        known = self._store.known(customer.id for customer, _ in found)
        holders = self._holders(customer.folded for customer, _ in found)
        (num,) = self._db.execute("SELECT coalesce(max(num), 0) FROM customers").fetchone()
        fresh: list[tuple[int, str, str, float]] = []
        documents: list[tuple[int, bytes]] = []
        lots: list[tuple[object, ...]] = []
        repeated: list[tuple[int]] = []
        for customer, raw in found:
            holder = known.get(customer.id)
            if holders.get(customer.folded, holder) != holder:
                self._drop(batch, customer, DUPLICATE_EMAIL)
                continue
            if holder is None:
                num = holder = num + 1
                fresh.append((num, customer.id, customer.folded, batch.at))
                documents.append((num, bytes(raw)))
            else:
                repeated.append((holder,))
                if self._config.repeat == "ignore":
                    self._drop(batch, customer, REPEAT_IGNORED)
                    continue
            lots += [_lot(holder, lot, now) for lot in customer.balance]
        self._db.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, 1)", fresh)
        self._db.executemany("INSERT INTO documents VALUES (?, ?, NULL)", documents)
        self._db.executemany("INSERT INTO lots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", lots)
        self._db.executemany("UPDATE customers SET times = times + 1 WHERE num = ?", repeated)

    def _holders(self, emails: Iterable[str]) -> dict[str, int]:
        """Return the stored customer of each e-mail; nothing if duplicates are accepted."""
        if self._config.duplicate_email == "accept":
            return {}
        wanted = listed(email for email in emails if email)
        sql = "SELECT email, num FROM customers WHERE email <> '' AND email IN (SELECT value FROM json_each(?))"
        return dict(self._db.execute(sql, (wanted,)))

    def _owners(self, batch: Waiting, found: Sequence[Element]) -> list[tuple[int, Element]]:
        """Return elements with the number of their customer. Elements of unknown customers are dropped."""
        known = self._store.known(element.id for element in found)
        if not self._config.customer_must_exist:
            known = {
                **self._make_unmigrated(batch, [element.id for element in found if element.id not in known]),
                **known,
            }
        for element in found:
            if element.id not in known:
                self._drop(batch, element, UNKNOWN_CUSTOMER)
        return [(known[element.id], element) for element in found if element.id in known]

    def _make_unmigrated(self, batch: Waiting, ids: Sequence[str]) -> dict[str, int]:
        """Add customers that were not migrated, with only an id, so that their history has an owner."""
        rows = [(id_, "", batch.at) for id_ in ids]
        self._db.executemany("INSERT INTO customers (id, email, migrated, times) VALUES (?, ?, ?, 0)", rows)
        return self._store.known(ids)

    def _events(self, batch: Waiting, found: Sequence[tuple[int, Element]]) -> None:
        rows = [
            (num, batch.seq, e.type, e.order.purchase_id, _text(e.order.value), e.issued_at.timestamp())
            for num, owner in found
            if isinstance(owner, EventOwner)
            for e in owner.events
        ]
        sql = "INSERT INTO events (num, batch, type, purchase_id, value, issued) VALUES (?, ?, ?, ?, ?, ?)"
        self._db.executemany(sql, rows)

    def _transactions(self, batch: Waiting, found: Sequence[tuple[int, Element]], now: float) -> None:
        balances = self._balances(num for num, _ in found)
        rows: list[tuple[object, ...]] = []
        for num, owner in found:
            assert isinstance(owner, TransactionOwner)
            if self._config.balance_match and _history(owner) != balances.get(num, {}):
                self._drop(batch, owner, BALANCE_MISMATCH)
            else:
                rows += [_entry(num, batch.seq, entry, now) for entry in owner.transactions]
        columns = "num, batch, reward_id, brand_id, type, amount, cost, details, issued, created, channel_id, store_id"
        sql = f"INSERT INTO transactions ({columns}, funded_by, event_type) VALUES ({', '.join('?' * 14)})"
        self._db.executemany(sql, rows)

    def _balances(self, nums: Iterable[int]) -> dict[int, dict[tuple[str, str | None], Decimal]]:
        """Return the balance of each customer by (reward, brand), without zeros."""
        sql = "SELECT num, reward_id, brand_id, amount FROM lots WHERE num IN (SELECT value FROM json_each(?))"
        held: dict[int, dict[tuple[str, str | None], Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for num, reward, brand, amount in self._db.execute(sql, (listed(nums),)):
            held[num][reward, brand] = EXACT.add(held[num][reward, brand], Decimal(amount))
        return {num: {key: total for key, total in sums.items() if total} for num, sums in held.items()}

    def _revert(self, batch: Waiting) -> None:
        """Delete the customers migrated in [start, end), with all their records.

        A customer with a transaction from outside the migration stays.
        """
        window = msgspec.json.decode(batch.body, type=WindowOfRevert)
        bounds = (window.start_date.timestamp(), window.end_date.timestamp())
        made = "SELECT num FROM transactions WHERE batch IS NULL"
        chosen = f"FROM customers WHERE migrated >= ? AND migrated < ? AND num NOT IN ({made})"
        self._db.execute(f"DELETE FROM claims WHERE id IN (SELECT id {chosen})", bounds)
        for table in ("events", "transactions", "lots", "documents"):
            self._db.execute(f"DELETE FROM {table} WHERE num IN (SELECT num {chosen})", bounds)
        gone = self._db.execute(f"DELETE {chosen}", bounds).rowcount
        self._db.execute("UPDATE batches SET customers = ?, units = ? WHERE seq = ?", (gone, gone, batch.seq))

    def _drop(self, batch: Waiting, element: Element, reason: str) -> None:
        row = (batch.seq, batch.kind, reason, element.id, units(element))
        self._db.execute("INSERT INTO dropped VALUES (?, ?, ?, ?, ?)", row)
        if batch.kind == "transactions":  # dropped transactions may be sent again
            self._db.execute("DELETE FROM claims WHERE id = ?", (element.id,))

    def _references_known(self, element: Element) -> bool:
        config = self._config
        if config.rewards is config.tiers is config.stores is config.channels is None:
            return True
        rewards, tiers, stores, channels = _references(element)
        return (
            _within(rewards, config.rewards)
            and _within(tiers, config.tiers)
            and _within(stores, config.stores)
            and _within(channels, config.channels)
        )


def _within(named: Iterable[str | None], known: Collection[str] | None) -> bool:
    return known is None or all(name is None or name in known for name in named)


References = tuple[list[str | None], list[str | None], list[str | None], list[str | None]]


def _references(element: Element) -> References:
    """Return the rewards, tiers, stores and channels that an element refers to."""
    placed: list[Lot | Transaction | Event | Order]
    rewards: list[str | None] = []
    tiers: list[str | None] = []
    if isinstance(element, Customer):
        placed = [*element.balance]
        rewards = [lot.reward_id for lot in element.balance]
        periods = [getattr(element.metrics, name, None) for name in Metrics.__struct_fields__ if name != "updated_at"]
        tiers = [period.tier_id for period in periods if period is not None]
    elif isinstance(element, EventOwner):
        placed = [*element.events, *(event.order for event in element.events)]
    else:
        placed = [*element.transactions]
        rewards = [entry.reward_id for entry in element.transactions]
    return rewards, tiers, [place.store_id for place in placed], [place.channel_id for place in placed]


def _history(owner: TransactionOwner) -> dict[tuple[str, str | None], Decimal]:
    """Sum a customer's transactions by (reward, brand), without zeros."""
    sums: dict[tuple[str, str | None], Decimal] = defaultdict(Decimal)
    for entry in owner.transactions:
        if entry.type != "MIGRATION":
            key = (entry.reward_id, entry.brand_id)
            sums[key] = EXACT.add(sums[key], Decimal(_text(entry.amount)))
    return {key: total for key, total in sums.items() if total}


def _lot(num: int, lot: Lot, now: float) -> tuple[object, ...]:
    issued = now if lot.issued_at is None else lot.issued_at.timestamp()
    place = (lot.channel_id, lot.store_id, lot.funded_by)
    return (num, lot.reward_id, lot.brand_id, _text(lot.amount), _seconds(lot.expiration_date), issued, now, *place)


def _entry(num: int, batch: int, entry: Transaction, now: float) -> tuple[object, ...]:
    cost = None if entry.cost is None else str(entry.cost)
    what = (entry.reward_id, entry.brand_id, entry.type, _text(entry.amount), cost, entry.details)
    place = (entry.channel_id, entry.store_id, entry.funded_by, entry.event and entry.event.type)
    return (num, batch, *what, entry.issued_at.timestamp(), now, *place)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _text(raw: msgspec.Raw) -> str:
    return bytes(raw).decode()
