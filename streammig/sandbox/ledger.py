"""Report the requests that the sandbox got, and the records that it holds, received twice, or dropped."""

from __future__ import annotations

from typing import Any

from streammig.sandbox.store import Store

EXAMPLES = 100
MOST_LISTED = 10_000

LISTINGS = {
    "customers": """
        SELECT id, times FROM customers WHERE id > ? AND times > 0 ORDER BY id LIMIT ?""",
    "events": """
        SELECT seq AS id, (SELECT count(*) FROM events AS same WHERE same.num = events.num
                           AND same.purchase_id = events.purchase_id AND same.type = events.type) AS times,
               customers.id AS owner, purchase_id, type, value, issued, batch
        FROM events JOIN customers USING (num) WHERE seq > ? ORDER BY seq LIMIT ?""",
    "transactions": """
        SELECT seq AS id, 1 AS times, customers.id AS owner, reward_id AS reward, brand_id AS brand, amount, type,
               issued, batch
        FROM transactions JOIN customers USING (num) WHERE seq > ? ORDER BY seq LIMIT ?""",
    "requests": "SELECT seq AS id, at, kind, answer, broken FROM requests WHERE seq > ? ORDER BY seq LIMIT ?",
    "dropped": """
        SELECT rowid AS id, entity, reason, owner, units, batch FROM dropped WHERE rowid > ? ORDER BY rowid LIMIT ?""",
}

# Records that landed more than once: an id; an event with the same owner, type and purchase; transactions of one owner
# in more than one request.
TWICE = {
    "customers": "SELECT id AS example, times FROM customers WHERE times > 1",
    "events": """
        SELECT customers.id || ' ' || type || ' ' || purchase_id AS example, found.times FROM customers
        JOIN (SELECT num, type, purchase_id, count(*) AS times FROM events GROUP BY num, purchase_id, type
              HAVING count(*) > 1) AS found USING (num)""",
    "transactions": """
        SELECT customers.id AS example, found.times FROM customers
        JOIN (SELECT num, count(DISTINCT batch) AS times FROM transactions GROUP BY num
              HAVING count(DISTINCT batch) > 1) AS found USING (num)""",
}


def holds(store: Store, entity: str, after: str, limit: int) -> dict[str, Any]:
    """Return a page of a listing, in the order of `id`. `next` is `after` for the next page, None at the end.

    Raises ValueError for an entity that is not listed.
    """
    if entity not in LISTINGS:
        raise ValueError(f"entity: one of {', '.join(LISTINGS)} was expected")
    limit = max(1, min(limit, MOST_LISTED))
    found = store.db.execute(LISTINGS[entity], (after if entity == "customers" else int(after or 0), limit))
    names = [column[0] for column in found.description]
    page = [dict(zip(names, row, strict=True)) for row in found]
    return {"entity": entity, "holds": page, "next": page[-1]["id"] if len(page) == limit else None}


def ledger(store: Store) -> dict[str, Any]:
    """Compute the whole report. Sums are decimals as text, without trailing zeros."""
    return {
        "requests": _nested(store.rows("SELECT kind, answer, count(*) FROM requests GROUP BY 1, 2 ORDER BY 1, 2")),
        "arrivals": _arrivals(store),
        "violations": _violations(store),
        "batches": {kind: _batches(store, kind) for kind in ("customers", "events", "transactions", "revert")},
        "queue": {"waiting": store.waiting(), "next_due": store.next_due()},
        "holds": {"customers": _customers(store), "events": _events(store), "transactions": _transactions(store)},
        "twice": {entity: _twice(store, sql) for entity, sql in TWICE.items()},
        "dropped": {entity: _dropped(store, entity) for entity in ("customers", "events", "transactions")},
    }


def _nested(rows: list[Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for outer, inner, value in rows:
        nested.setdefault(outer, {})[inner] = value
    return nested


def _arrivals(store: Store) -> dict[str, Any]:
    sql = """
        SELECT kind, count(*) AS count, min(at) AS first, max(at) AS last, min(gap) AS smallest_gap
        FROM (SELECT kind, at, at - lag(at) OVER (PARTITION BY kind ORDER BY at) AS gap FROM requests) GROUP BY kind
    """
    names = ("count", "first", "last", "smallest_gap")
    return {kind: dict(zip(names, row, strict=True)) for kind, *row in store.rows(sql)}


def _violations(store: Store) -> dict[str, Any]:
    found = store.rows("SELECT at, kind, broken FROM requests WHERE broken <> '' ORDER BY at, seq")
    windows: dict[str, int] = {}
    for _, _, broken in found:
        for window in broken.split():
            windows[window] = windows.get(window, 0) + 1
    examples = [{"at": at, "kind": kind, "windows": broken.split()} for at, kind, broken in found[:EXAMPLES]]
    return {"count": len(found), "windows": windows, "examples": examples}


def _batches(store: Store, kind: str) -> dict[str, Any]:
    sql = """
        SELECT count(*) AS accepted, count(applied) AS applied, coalesce(sum(customers), 0) AS customers,
               coalesce(sum(units), 0) AS units FROM batches WHERE kind = ?
    """
    (row,) = store.rows(sql, kind)
    return dict(zip(("accepted", "applied", "customers", "units"), row, strict=True))


def _customers(store: Store) -> dict[str, Any]:
    ((count, landed),) = store.rows("SELECT count(*), coalesce(sum(times), 0) FROM customers WHERE times > 0")
    balances = dict(store.rows("SELECT reward_id, exact_sum(amount) FROM lots GROUP BY reward_id"))
    return {"count": count, "landed": landed, "balances": balances}


def _events(store: Store) -> dict[str, Any]:
    ((count, owners),) = store.rows("SELECT count(*), count(DISTINCT num) FROM events")
    sql = "SELECT count(*), coalesce(exact_sum(value), '0') FROM events"
    ((purchases, value),) = store.rows(f"{sql} WHERE type = 'PURCHASE'")
    ((_, all_value),) = store.rows(sql)
    ((distinct,),) = store.rows("SELECT count(*) FROM (SELECT DISTINCT num, purchase_id, type FROM events)")
    types = dict(store.rows("SELECT type, count(*) FROM events GROUP BY type"))
    return {
        "count": count,
        "distinct": distinct,
        "owners": owners,
        "types": types,
        "purchases": purchases,
        "purchase_value": value,
        "value": all_value,
    }


def _transactions(store: Store) -> dict[str, Any]:
    ((count, owners),) = store.rows("SELECT count(*), count(DISTINCT num) FROM transactions")
    amounts = dict(store.rows("SELECT reward_id, exact_sum(amount) FROM transactions GROUP BY reward_id"))
    return {"count": count, "owners": owners, "amounts": amounts}


def _twice(store: Store, sql: str) -> dict[str, Any]:
    ((count, surplus),) = store.rows(f"SELECT count(*), coalesce(sum(times - 1), 0) FROM ({sql})")
    examples = [{"id": example, "times": times} for example, times in store.rows(f"{sql} LIMIT {EXAMPLES}")]
    return {"count": count, "surplus": surplus, "examples": examples}


def _dropped(store: Store, entity: str) -> dict[str, Any]:
    sql = "SELECT reason, count(*), sum(units) FROM dropped WHERE entity = ? GROUP BY reason ORDER BY reason"
    listed = f"SELECT DISTINCT owner FROM dropped WHERE entity = ? AND reason = ? LIMIT {EXAMPLES}"
    return {
        reason: {
            "count": count,
            "units": units,
            "examples": [owner for (owner,) in store.rows(listed, entity, reason)],
        }
        for reason, count, units in store.rows(sql, entity)
    }
