"""The sandbox's SQLite file: requests, the queue, and the records it holds."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from streammig.sandbox.forms import EXACT

VERSION = 1
APPLICATION = 0x5342584D  # marks a file of the sandbox, so that no other database is written

SCHEMA = """
-- Every request, at the moment its headers arrived. `answer` is a status, or what happened to the connection.
-- `broken` names the windows of the limits that it broke, separated by spaces.
CREATE TABLE requests (seq INTEGER PRIMARY KEY, at REAL, kind TEXT, answer TEXT, broken TEXT);

-- Accepted batches. `body` is emptied once the queue has applied it; `lost` are the indices that a fault drops.
CREATE TABLE batches (seq INTEGER PRIMARY KEY, kind TEXT, at REAL, due REAL, customers INTEGER, units INTEGER,
                      lost TEXT, body BLOB, applied REAL);
CREATE INDEX waiting ON batches (due, seq) WHERE applied IS NULL;

-- `email` is folded, '' without one. `times` counts how often the id landed. The JSON is in a table of its
-- own, so that a walk over all customers stays cheap.
CREATE TABLE customers (num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, email TEXT NOT NULL, migrated REAL,
                        times INTEGER);
CREATE INDEX emails ON customers (email) WHERE email <> '';
CREATE TABLE documents (num INTEGER PRIMARY KEY, sent BLOB, consent BLOB);

-- Amounts and values are the JSON numbers as they were sent; times are seconds since the epoch.
CREATE TABLE lots (num INTEGER, reward_id TEXT, brand_id TEXT, amount TEXT, expires REAL, issued REAL, created REAL,
                   channel_id TEXT, store_id TEXT, funded_by TEXT);
CREATE INDEX lots_of ON lots (num);
CREATE TABLE events (seq INTEGER PRIMARY KEY, num INTEGER, batch INTEGER, type TEXT, purchase_id TEXT, value TEXT,
                     issued REAL);
CREATE INDEX events_of ON events (num, purchase_id, type);
CREATE TABLE transactions (seq INTEGER PRIMARY KEY, num INTEGER, batch INTEGER, reward_id TEXT, brand_id TEXT,
                           type TEXT, amount TEXT, cost TEXT, details TEXT, issued REAL, created REAL,
                           channel_id TEXT, store_id TEXT, funded_by TEXT, event_type TEXT);
CREATE INDEX transactions_of ON transactions (num);
CREATE INDEX transactions_at ON transactions (issued);

-- Customers whose transactions were accepted and not dropped: no second request may hold them.
CREATE TABLE claims (id TEXT PRIMARY KEY) WITHOUT ROWID;

-- Records that the queue dropped silently: one row for each customer of a batch.
CREATE TABLE dropped (batch INTEGER, entity TEXT, reason TEXT, owner TEXT, units INTEGER);
"""


class Waiting(NamedTuple):
    """A batch that is due."""

    seq: int
    kind: str
    at: float
    lost: frozenset[int]
    body: bytes


class ExactSum:
    """The SQL aggregate `exact_sum`: adds decimals in text, and gives text without trailing zeros."""

    def __init__(self) -> None:
        self._total = Decimal(0)

    def step(self, text: str) -> None:
        self._total = EXACT.add(self._total, Decimal(text))

    def finalize(self) -> str:
        return plain(self._total)


def plain(value: Decimal) -> str:
    """Write a decimal without exponent and trailing zeros, so that equal sums have equal texts."""
    return format(value.normalize(EXACT), "f") if value else "0"


class Store:
    """One connection to the sandbox's file, used by one thread. Opened at construction, ended with `close`.

    Raises ValueError if the file is not a sandbox's store or can't be opened.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            if str(path) != ":memory:":  # it holds personal data; SQLite gives its journal the same mode
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.db = sqlite3.connect(path, check_same_thread=False)
            self._prepare(path)
        except (sqlite3.Error, OSError) as error:
            raise ValueError(f"the sandbox can't use the store {path}: {error}") from error
        self.db.create_aggregate("exact_sum", 1, ExactSum)  # type: ignore[arg-type]  # finalize may return text

    def _prepare(self, path: Path | str) -> None:
        # A sandbox may lose writes in a power cut, but not those of a killed process.
        for pragma in ("journal_mode = WAL", "synchronous = OFF", "cache_size = -65536", "temp_store = MEMORY"):
            self.db.execute(f"PRAGMA {pragma}")
        (tables,) = self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = self.db.execute("PRAGMA application_id").fetchone()
        (version,) = self.db.execute("PRAGMA user_version").fetchone()
        if not tables:
            mark = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
            self.db.executescript(f"BEGIN; {SCHEMA} {mark} COMMIT;")
        elif (application, version) != (APPLICATION, VERSION):
            raise ValueError(f"{path} is not a store of this version of the sandbox; name another file")

    def close(self) -> None:
        self.db.close()

    def note(self, requests: Sequence[tuple[float, str, str, str]]) -> None:
        """Store arrivals with their answers: (at, kind, answer, broken windows)."""
        with self.db:
            self.db.executemany("INSERT INTO requests (at, kind, answer, broken) VALUES (?, ?, ?, ?)", requests)

    def arrivals(self, since: float) -> list[tuple[float, str]]:
        """Return time and kind of the requests since then, in order."""
        return self.db.execute("SELECT at, kind FROM requests WHERE at >= ? ORDER BY at", (since,)).fetchall()

    def accept(
        self, kind: str, body: bytes, at: float, due: float, owners: Sequence[str], units: int, lost: Iterable[int] = ()
    ) -> None:
        """Put a batch into the queue. It is durable when this returns."""
        with self.db:
            self.db.execute(
                "INSERT INTO batches (kind, at, due, customers, units, lost, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (kind, at, due, len(owners), units, orjson.dumps([*lost]).decode(), body),
            )
            if kind == "transactions":
                self.db.executemany("INSERT OR IGNORE INTO claims VALUES (?)", [(owner,) for owner in owners])

    def claimed(self, owners: Sequence[str]) -> set[str]:
        """Return the customers among these whose transactions were accepted before."""
        found = self.db.execute("SELECT id FROM claims WHERE id IN (SELECT value FROM json_each(?))", (listed(owners),))
        return {owner for (owner,) in found}

    def next_due(self) -> float | None:
        """Return the time when the next batch is due; None if the queue is empty."""
        row = self.db.execute("SELECT min(due) FROM batches WHERE applied IS NULL").fetchone()
        return None if row[0] is None else float(row[0])

    def waiting(self) -> int:
        count: int = self.db.execute("SELECT count(*) FROM batches WHERE applied IS NULL").fetchone()[0]
        return count

    def due(self, now: float) -> Waiting | None:
        """Return the first batch that is due."""
        sql = "SELECT seq, kind, at, lost, body FROM batches WHERE applied IS NULL AND due <= ? ORDER BY due, seq"
        row = self.db.execute(f"{sql} LIMIT 1", (now,)).fetchone()
        return row and Waiting(row[0], row[1], row[2], frozenset(orjson.loads(row[3])), row[4])

    def known(self, owners: Iterable[str]) -> dict[str, int]:
        """Return the numbers of the customers among these that the store holds."""
        return dict(
            self.db.execute(
                "SELECT id, num FROM customers WHERE id IN (SELECT value FROM json_each(?))", (listed(owners),)
            )
        )

    def rows(self, sql: str, *values: Any) -> list[Any]:
        return self.db.execute(sql, values).fetchall()


def listed(values: Iterable[Any]) -> str:
    """Write values as a JSON list for `json_each`: one parameter instead of a thousand."""
    return orjson.dumps([*values]).decode()
