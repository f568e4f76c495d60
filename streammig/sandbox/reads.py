"""Answer the read calls of the target: customers, wallets, transactions, rewards, tiers, consent."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import orjson

from streammig.sandbox.config import SandboxConfig
from streammig.sandbox.forms import EXACT, Refused
from streammig.sandbox.store import Store, plain

OLDEST_YEAR = 2020
MONTHS = 3  # a listing without a year shows so many
BASE_TIER = "00000000-0000-4000-8000-000000000001"
PURPOSES = (
    "behavioral_campaigns",
    "coupon_campaigns",
    "punchcard_campaigns",
    "email_marketing",
    "push_notifications",
    "link_tracking",
)
PROFILE = ("id", "name", "email", "registration_date", "gender", "dob", "is_anonymous")
PAPERS = ("document_type", "document_number", "country")

# Transactions and, if a balance counts as one, the lots of the wallet, in one shape.
ENTRIES = """
    SELECT num, 't' || seq AS entry, reward_id, brand_id, type, amount, cost, details, issued, created, channel_id,
           store_id, funded_by, event_type FROM transactions
"""
MIGRATED = """
    UNION ALL SELECT num, 'l' || rowid, reward_id, brand_id, 'MIGRATION', amount, NULL, 'Migrated balance', issued,
                     created, channel_id, store_id, funded_by, NULL FROM lots
"""

Query = Mapping[str, str]


class Reads:
    """Answers the read calls as JSON bytes. Runs in the store's thread. Raises Refused for a call it can't answer."""

    def __init__(self, config: SandboxConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._entries = ENTRIES + (MIGRATED if config.migration_entry else "")

    def customer(self, id_: str, now: float) -> bytes:
        num = self._number(id_)
        sent = self._sent(num)
        counted, given = self._metrics(num), sent.get("metrics")
        metrics = given or counted if self._config.metrics == "sent" else counted or given
        profile = {name: sent.get(name) for name in PROFILE} | {name: sent[name] for name in PAPERS if name in sent}
        customer = profile | {
            "id": id_,
            "status": "ACTIVE",
            "tier_id": _tier(metrics),
            "tags": {},
            "consent": self._stored_consent(num),
            "metrics": metrics,
            "metadata": {},
        }
        return _data({"customer": customer, "wallet": self._wallet(id_, num, now)})

    def transactions_of(self, id_: str, query: Query, now: float) -> bytes:
        begin, end = _year(query["year"]) if "year" in query else (_months_before(now), None)
        return self._listing("num = ?", [self._number(id_)], begin, end, query)

    def transactions(self, query: Query) -> bytes:
        try:
            day = datetime.strptime(query.get("date", ""), "%d-%m-%Y").replace(tzinfo=UTC)
        except ValueError as error:
            raise Refused("date: DD-MM-YYYY was expected") from error
        return self._listing("1", [], day.timestamp(), (day + timedelta(days=1)).timestamp(), query)

    def rewards(self, query: Query) -> bytes:
        try:
            first, last = int(query.get("from", "")), int(query.get("to", ""))
        except ValueError as error:
            raise Refused("from, to: both are required, indices counted from 0") from error
        brand, type_ = query.get("brand_id"), query.get("type", "POINTS")
        found = [_reward(id_, of) for id_, of in sorted(self._known_rewards().items()) if brand in (None, of)]
        return _data([reward for reward in found if reward["type"] == type_][first : last + 1])

    def reward(self, id_: str) -> bytes:
        """Return a reward. If every reference is known, so is every reward with a UUID."""
        known = self._known_rewards()
        if id_ in known or (self._config.rewards is None and _is_uuid(id_)):
            return _data(_reward(id_, known.get(id_)))
        raise _absent("reward")

    def tiers(self) -> bytes:
        ids = sorted(self._config.tiers or (BASE_TIER,))
        return _data([_tier_entry(id_, level) for level, id_ in enumerate(ids, 1)])

    def consent(self, id_: str) -> bytes:
        stored = self._stored_consent(self._number(id_))
        return _data({"consent": stored or {"customer_id": id_, "purposes": dict.fromkeys(PURPOSES, True)}})

    def change_consent(self, id_: str, body: bytes) -> bytes:
        """Merge the sent consent into the stored one."""
        num = self._number(id_)
        try:
            sent = msgspec.json.decode(body, type=_ConsentUpdate).consent
            changed = msgspec.convert(sent.get("purposes", {}), dict[str, bool])
        except ValueError as error:
            raise Refused(f"body: {error}") from error
        stored = self._stored_consent(num) or {"purposes": dict.fromkeys(PURPOSES, True)}
        merged = {**stored, **sent, "customer_id": id_, "purposes": {**stored["purposes"], **changed}}
        with self._store.db:
            sql = "INSERT INTO documents VALUES (?, ?, ?) ON CONFLICT (num) DO UPDATE SET consent = excluded.consent"
            self._store.db.execute(sql, (num, b"{}", orjson.dumps(merged)))
        return _data({"consent": merged})

    def _number(self, id_: str) -> int:
        num = self._store.known([id_]).get(id_)
        if num is None:
            raise _absent("customer")
        return num

    def _sent(self, num: int) -> dict[str, orjson.Fragment]:
        """Return the fields of a customer as they were sent, with numbers as text."""
        rows = self._store.rows("SELECT sent FROM documents WHERE num = ?", num)
        fields = msgspec.json.decode(rows[0][0], type=dict[str, msgspec.Raw]) if rows else {}
        return {name: orjson.Fragment(bytes(raw)) for name, raw in fields.items()}

    def _stored_consent(self, num: int) -> dict[str, Any] | None:
        rows = self._store.rows("SELECT consent FROM documents WHERE num = ? AND consent IS NOT NULL", num)
        return orjson.loads(rows[0][0]) if rows else None

    def _metrics(self, num: int) -> dict[str, Any] | None:
        """Compute metrics from the purchases, which replace the sent ones; None without events."""
        sql = "SELECT count(*), exact_sum(value), max(issued) FROM events WHERE num = ? AND type = 'PURCHASE'"
        ((events,),) = self._store.rows("SELECT count(*) FROM events WHERE num = ?", num)
        if not events:
            return None
        ((purchases, spent, last),) = self._store.rows(sql, num)
        visit = None if last is None else _moment(last)
        spend = orjson.Fragment(spent or "0")
        return {"lifetime": {"spend_total": spend, "number_of_purchases": purchases, "last_visit": visit}}

    def _wallet(self, id_: str, num: int, now: float) -> dict[str, Any]:
        sql = "SELECT reward_id, brand_id, amount, expires, issued FROM lots WHERE num = ?1"
        if self._config.history_moves_wallet:
            sql += " UNION ALL SELECT reward_id, brand_id, amount, NULL, issued FROM transactions WHERE num = ?1"
        lines = []
        totals: dict[tuple[str, float | None], Decimal] = defaultdict(Decimal)
        for reward, brand, amount, expires, issued in self._store.rows(sql, num):
            if expires is not None and expires <= now:
                continue
            if self._config.round_amounts:
                amount = str(round(Decimal(amount)))
            totals[reward, expires] = EXACT.add(totals[reward, expires], Decimal(amount))
            lines.append(
                {
                    "amount": orjson.Fragment(amount),
                    "reward_id": reward,
                    "campaign_id": None,
                    "brand_id": brand,
                    "issued_at": _moment(issued),
                    "expiration_date": None if expires is None else _moment(expires),
                    "reservation_expires_at": None,
                }
            )
        summed = [
            {
                "total": orjson.Fragment(plain(total)),
                "reward_id": reward,
                "expiration_date": None if expires is None else _moment(expires),
                "reward": _reward(reward, None),
            }
            for (reward, expires), total in totals.items()
        ]
        return {
            "id": _internal("wallet", id_),
            "owner_id": _internal("customer", id_),
            "lines": lines,
            "totals": summed,
        }

    def _listing(self, where: str, values: list[Any], begin: float, end: float | None, query: Query) -> bytes:
        """List entries issued in [begin, end) that match the query."""
        clauses = [where, "issued >= ?"]
        values = [*values, begin]
        if end is not None:
            clauses.append("issued < ?")
            values.append(end)
        for name in ("brand_id", "reward_id", "type", "funded_by"):
            if name in query:
                clauses.append(f"{name} = ?")
                values.append(query[name])
        if "campaign_id" in query or "event_id" in query:  # migrated entries belong to neither
            clauses.append("0")
        sql = f"SELECT * FROM ({self._entries}) WHERE {' AND '.join(clauses)} ORDER BY issued, entry"
        return _data([_entry(*row) for row in self._store.rows(sql, *values)])

    def _known_rewards(self) -> Mapping[str, str | None]:
        """Return the configured rewards, else all rewards in the stored records."""
        if self._config.rewards is not None:
            return self._config.rewards
        sql = "SELECT reward_id, brand_id FROM lots UNION SELECT reward_id, brand_id FROM transactions"
        return dict(self._store.rows(sql))


class _ConsentUpdate(msgspec.Struct, frozen=True):
    consent: dict[str, Any]


def _data(value: Any) -> bytes:
    return orjson.dumps({"data": value})


def _absent(what: str) -> Refused:
    return Refused(f"there is no such {what}", 404)


def _tier(metrics: Any) -> str:
    """Return the tier in the metrics, else the base tier."""
    lifetime = msgspec.json.decode(orjson.dumps(metrics), type=_Metrics | None) if metrics else None
    return (lifetime and lifetime.lifetime and lifetime.lifetime.tier_id) or BASE_TIER


class _Lifetime(msgspec.Struct, frozen=True):
    tier_id: str | None = None


class _Metrics(msgspec.Struct, frozen=True):
    lifetime: _Lifetime | None = None


def _entry(
    num: int,
    entry: str,
    reward_id: str,
    brand_id: str | None,
    type_: str,
    amount: str,
    cost: str | None,
    details: str,
    issued: float,
    created: float,
    channel_id: str | None,
    store_id: str | None,
    funded_by: str | None,
    event_type: str | None,
) -> dict[str, Any]:
    return {
        "id": _internal("transaction", f"{num} {entry}"),
        "brand_id": brand_id,
        "event_id": None,
        "campaign_id": None,
        # Sent as ids of the source system, read back as internal ones.
        "channel_id": channel_id and _internal("channel", channel_id),
        "store_id": store_id and _internal("store", store_id),
        "funded_by": funded_by,
        "event_type": event_type,
        "reward_type": "POINTS",
        "reward_id": reward_id,
        "amount": orjson.Fragment(amount),
        "cost": cost and orjson.Fragment(cost),
        "details": details,
        "type": type_,
        "receiver_id": None,
        "sender_id": None,
        "created_at": _moment(created),
        "issued_at": _moment(issued),
        "attributes": {},
        "metadata": {},
    }


def _reward(id_: str, brand: str | None) -> dict[str, Any]:
    described = {"name": f"Reward {id_[:8]}", "description": "", "type": "POINTS"}
    return {"id": id_, "brand_id": brand, **described, "conditions": [], "attributes": {}}


def _tier_entry(id_: str, level: int) -> dict[str, Any]:
    described = {"name": f"Tier {level}", "description": "", "status": "ACTIVE", "level": level}
    return {"id": id_, **described, "entry_conditions": [], "exit_conditions": []}


def _internal(kind: str, id_: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind} {id_}"))


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _year(text: str) -> tuple[float, float]:
    if not (text.isascii() and text.isdigit() and OLDEST_YEAR <= int(text) < 9999):
        raise Refused(f"year: a year from {OLDEST_YEAR} on was expected")
    year = int(text)
    return datetime(year, 1, 1, tzinfo=UTC).timestamp(), datetime(year + 1, 1, 1, tzinfo=UTC).timestamp()


def _months_before(now: float) -> float:
    """Go back `MONTHS` calendar months. A day after the 28th becomes the 28th."""
    moment = datetime.fromtimestamp(now, UTC)
    months = moment.year * 12 + moment.month - 1 - MONTHS
    year, month = divmod(months, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, 28)).timestamp()
