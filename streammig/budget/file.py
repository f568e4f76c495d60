"""The account's file: starts of requests, sends noted before they leave, and holds, shared by every process."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from streammig.budget.limits import Limits, RequestKind, Use
from streammig.budget.problems import damaged, translated
from streammig.errors import Unusable

FORMAT = 2
APPLICATION = 0x734D4267  # "sMBg": tells the account's file from any other SQLite file

# A start is written before its request leaves. Until somebody says when it left it may leave at any moment, so it
# counts as made now, for as long as making a connection may take. A process that died gives no word at all.
OPEN = 15.0
LONGEST_HOLD = 86400.0
# A 429 widens the margin; each time this many seconds pass, half of what was added is gone.
EXTRA_HALVES = 600.0
EXTRA_FIRST, EXTRA_MOST = 0.05, 2.0
SAME_TROUBLE = 10.0  # requests in flight together are throttled together: that is one word of the target, not four
# Starts that no window of ours needs may be needed by a run with other limits: an hour of them costs little.
KEEP_AT_LEAST = 3600.0

SCHEMA = f"""
-- A request that was allowed to start, in seconds since the epoch (UTC) as its process counted them. `at` is the
-- moment it was allowed, later the moment its first byte left. `open_until` is set until that moment is known.
CREATE TABLE start (
    id INTEGER PRIMARY KEY, migration INTEGER NOT NULL, at REAL NOT NULL, open_until REAL, checkpoint INTEGER);
CREATE INDEX start_all ON start (at);
CREATE INDEX start_migration ON start (at) WHERE migration = 1;
CREATE INDEX start_open ON start (open_until) WHERE open_until IS NOT NULL;
-- Checkpoints by the id they carry inside, so that a copied or restored file is still the same one. `doubted` is 1
-- where this file was made after the checkpoint: what was sent before is known as far as that one knew it only.
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, doubted INTEGER NOT NULL DEFAULT 0);
-- Migration requests, noted before they are sent; kept as long as their checkpoint may be resumed.
CREATE TABLE send (
    checkpoint INTEGER NOT NULL REFERENCES checkpoint, stage TEXT NOT NULL, seq INTEGER NOT NULL,
    attempt INTEGER NOT NULL, at REAL NOT NULL, what BLOB NOT NULL, PRIMARY KEY (checkpoint, stage, seq, attempt))
    WITHOUT ROWID;
-- One line: nothing may start before `hold`; `extra` was added to the margin (by 429s) at `extra_at`;
-- `keep` is the longest window, in seconds, that any process has paced by here.
CREATE TABLE account (hold REAL NOT NULL, extra REAL NOT NULL, extra_at REAL NOT NULL, keep REAL NOT NULL);
INSERT INTO account VALUES (0, 0, 0, 0);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
"""


class Send(NamedTuple):
    """One migration request: which checkpoint's which batch, and its how-manieth attempt (from 1).

    `what` is the batch as the checkpoint describes it, opaque here: so that a checkpoint that went back in time can
    learn what it sent since then. It is the same for every attempt, so only the first one's is kept.
    """

    checkpoint: str
    stage: str
    seq: int
    attempt: int
    at: float = 0.0
    what: bytes = b""


class Pace(NamedTuple):
    """What a start is measured against: the limits, a margin added to each window, and how long before its first
    byte a request is usually allowed (`lead`), all in seconds."""

    limits: Limits
    margins: tuple[float, ...]  # one for each of `limits.counted(kind)`
    lead: float = 0.0


class Taken(NamedTuple):
    """The starts that were taken, in order (0 where nobody counts them), or the seconds to wait for the first."""

    starts: tuple[int, ...]
    wait: float = 0.0


def account_name(name: str | None, base_url: str, api_key: str) -> str:
    """What to call the account: the name that was given, else a keyed hash from which no key can be recovered."""
    if name:
        return name
    return "key-" + hmac.new(api_key.encode(), b"streammig account\0" + base_url.encode(), hashlib.sha256).hexdigest()


def account_path(state_folder: Path, account: str) -> Path:
    """Where an account's file lies below the state folder; two accounts never share one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", account):
        # What can't be a file name everywhere (case folds on macOS) is told apart by its hash.
        plain = re.sub(r"[^a-z0-9]+", "-", account.lower())[:40].strip("-")
        account = f"{plain}@{hashlib.sha256(account.encode()).hexdigest()[:16]}"
    return state_folder / "accounts" / f"{account}.sqlite"


class AccountFile:
    """The account's file, open. Several processes may have it open; within one, call it from one thread at a time.

    Every change is one durable transaction. Raises `MachineFault` (disk full, read-only) and `Unusable` (no such
    file of ours, a newer format), never `sqlite3.Error`. `fresh` says that this opening created it.
    """

    # A rollback journal, not WAL: SQLite up to 3.51.2 can lose commits in WAL mode when two connections write or
    # checkpoint, and this file has several writers. TRUNCATE spares a directory sync for each commit.
    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self.fresh = False
        with translated(path):
            if read_only:
                self._db = _connect_to_read(path)
            else:
                _create_owner_only(path)
                self._db = _connect(path, "rw")
            try:
                self._check_or_create(read_only)
            except BaseException:
                self._db.close()
                raise

    def _check_or_create(self, read_only: bool) -> None:
        if not read_only:
            self._db.execute("PRAGMA journal_mode = TRUNCATE")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA fullfsync = ON")  # on macOS a plain fsync leaves the bytes in the drive's cache
            self._db.execute("BEGIN IMMEDIATE")
        try:
            application = self._db.execute("PRAGMA application_id").fetchone()[0]
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not tables and not read_only:
                for statement in SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self.fresh = True
            elif application != APPLICATION:
                raise Unusable(
                    "account-file-foreign",
                    f"{self.path} is not an account's file",
                    "Name another folder with --state-dir.",
                )
            elif version > FORMAT:
                raise Unusable(
                    "account-file-format",
                    f"the account's file {self.path} has format {version}; this streammig knows {FORMAT}",
                    "Use the newer streammig that wrote it.",
                )
            elif not read_only:
                # 0.2 s for 100,000 sends. A file that was cut reads as zeros and nulls where its pages are missing.
                (said,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
                if said != "ok":
                    raise damaged(self.path, " ".join(str(said).split()))
                if version < 2:
                    self._db.execute("ALTER TABLE checkpoint ADD COLUMN doubted INTEGER NOT NULL DEFAULT 0")
                    self._db.execute(f"PRAGMA user_version = {FORMAT}")
        except BaseException:
            self._rollback()
            raise
        if not read_only:
            self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                if self._db.in_transaction:
                    self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def enter(self, checkpoint: str, now: float) -> int:
        """Begin to pace for a checkpoint that nobody else runs: what a dead process of it left open has left by now.

        Returns how many starts lay in the future, for the clock had been set back: they count as made now.
        """
        with self._transaction() as db:
            db.execute(
                "UPDATE start SET at = max(at, min(open_until, ?)), open_until = NULL WHERE open_until IS NOT NULL"
                " AND checkpoint = (SELECT id FROM checkpoint WHERE name = ?)",
                (now, checkpoint),
            )
            db.execute("UPDATE account SET hold = min(hold, ?)", (now + LONGEST_HOLD,))
            # A second's grace: another process may have started one between our reading the clock and this.
            return db.execute("UPDATE start SET at = ? WHERE at > ?", (now, now + 1.0)).rowcount

    def take(self, kind: RequestKind, sends: Sequence[Send | None], pace: Pace, now: float) -> Taken:
        """Take as many starts as every window and the hold allow now, in order, and note their sends, durably."""
        windows = tuple(zip(pace.limits.counted(kind), pace.margins, strict=True))
        with self._transaction() as db:
            hold, extra, extra_at = db.execute("SELECT hold, extra, extra_at FROM account").fetchone()
            wait = hold - now
            extra *= 0.5 ** (max(0.0, now - extra_at) / EXTRA_HALVES)
            if windows:
                db.execute(
                    "UPDATE start SET at = min(open_until, ?1)"
                    " WHERE open_until IS NOT NULL AND at < min(open_until, ?1)",
                    (now,),
                )
            starts: list[int] = []
            for send in sends if wait <= 0 else ():
                for (counted, window), margin in windows:
                    nth = self._nth_last(counted, window.count)
                    if nth is not None:
                        wait = nth + window.seconds + margin + extra - pace.lead - now
                        if wait > 0:
                            break  # the others are asked when that time is over
                if wait > 0:
                    break
                starts.append(self._insert(kind, send, bool(windows), now))
            if not starts:
                db.execute("ROLLBACK")
                return Taken((), wait)
            if windows:
                db.execute("UPDATE account SET keep = max(keep, ?)", (max(pace.limits.longest, KEEP_AT_LEAST),))
                db.execute("DELETE FROM start WHERE at < ? - 60 - (SELECT keep FROM account)", (now,))
        return Taken(tuple(starts))

    def _nth_last(self, counted: RequestKind, count: int) -> float | None:
        only = "WHERE migration = 1 " if counted == "migration" else ""
        line = self._db.execute(
            f"SELECT at FROM start {only}ORDER BY at DESC LIMIT 1 OFFSET ?", (count - 1,)
        ).fetchone()
        return None if line is None else float(line[0])

    def _insert(self, kind: RequestKind, send: Send | None, counted: bool, now: float) -> int:
        checkpoint = None
        if send is not None:
            checkpoint = self._checkpoint(send.checkpoint)
            self._db.execute(
                "INSERT OR REPLACE INTO send VALUES (?, ?, ?, ?, ?, ?)",
                (checkpoint, send.stage, send.seq, send.attempt, now, send.what if send.attempt == 1 else b""),
            )
        if not counted:
            return 0
        migration = kind == "migration"
        line = self._db.execute(
            "INSERT INTO start (migration, at, open_until, checkpoint) VALUES (?, ?, ?, ?)",
            (migration, now, now + OPEN if migration else None, checkpoint),
        )
        return line.lastrowid or 0

    def _checkpoint(self, name: str) -> int:
        self._db.execute("INSERT OR IGNORE INTO checkpoint (name) VALUES (?)", (name,))
        return int(self._db.execute("SELECT id FROM checkpoint WHERE name = ?", (name,)).fetchone()[0])

    def sent(self, start: int, at: float) -> None:
        """A start's first byte left at this moment; it counts from there."""
        with self._transaction() as db:
            db.execute("UPDATE start SET at = max(?, at), open_until = NULL WHERE id = ?", (at, start))

    def give_back(self, start: int, send: Send | None = None) -> None:
        """Nothing left for this start: it is free again; with `send`, that send never came to be, too."""
        with self._transaction() as db:
            db.execute("DELETE FROM start WHERE id = ?", (start,))
            if send is not None:
                db.execute(
                    "DELETE FROM send WHERE checkpoint = (SELECT id FROM checkpoint WHERE name = ?)"
                    " AND stage = ? AND seq = ? AND attempt = ?",
                    send[:4],
                )

    def hold(self, until: float) -> None:
        """Let nobody start before this moment; an earlier one than is known already changes nothing."""
        with self._transaction() as db:
            db.execute("UPDATE account SET hold = max(hold, ?)", (until,))

    def throttled(self, now: float) -> None:
        """Widen the margin of every process: the target said 429 in spite of it."""
        with self._transaction() as db:
            extra, at = db.execute("SELECT extra, extra_at FROM account").fetchone()
            if 0 <= now - at < SAME_TROUBLE:
                return
            left = extra * 0.5 ** (max(0.0, now - at) / EXTRA_HALVES)
            wider = min(EXTRA_MOST, max(EXTRA_FIRST, 2 * left))
            db.execute("UPDATE account SET extra = ?, extra_at = ?", (wider, now))

    def knows(self, checkpoint: str) -> bool:
        """Whether this file has seen the checkpoint: if not, it can't tell whether that one is current."""
        with translated(self.path):
            found = self._db.execute("SELECT 1 FROM checkpoint WHERE name = ?", (checkpoint,)).fetchone()
        return found is not None

    def doubts(self, checkpoint: str) -> bool:
        """Whether a checkpoint may have sent what this file does not know, and so be an older copy of itself."""
        with translated(self.path):
            known = self._db.execute("SELECT doubted FROM checkpoint WHERE name = ?", (checkpoint,)).fetchone()
        return known is None or bool(known[0])

    def trust(self, checkpoint: str) -> None:
        """The operator says that a checkpoint is the newest copy of itself."""
        with self._transaction() as db:
            db.execute("UPDATE checkpoint SET doubted = 0 WHERE name = ?", (checkpoint,))

    def register(self, checkpoint: str) -> None:
        """Know a checkpoint that is about to be made: every send of it will be noted here."""
        with self._transaction():
            self._checkpoint(checkpoint)

    def seed(self, checkpoint: str, starts: Iterable[float], sends: Iterable[Send], now: float) -> bool:
        """Take over what a checkpoint says was started and sent, and doubt that this is all; False, and nothing done,
        if it is known already."""
        if self.knows(checkpoint):
            return False
        with self._transaction() as db:
            number = self._checkpoint(checkpoint)
            db.execute("UPDATE checkpoint SET doubted = 1 WHERE id = ?", (number,))
            db.executemany("INSERT INTO start (migration, at) VALUES (1, ?)", ((min(at, now),) for at in starts))
            db.executemany(
                "INSERT OR IGNORE INTO send VALUES (?, ?, ?, ?, ?, ?)",
                ((number, send.stage, send.seq, send.attempt, send.at, send.what) for send in sends),
            )
        return True

    def sends_of(self, checkpoint: str) -> Iterator[Send]:
        """Every send noted for a checkpoint, by stage, batch and attempt."""
        with translated(self.path):
            for line in self._db.execute(
                "SELECT stage, seq, attempt, at, what FROM send"
                " WHERE checkpoint = (SELECT id FROM checkpoint WHERE name = ?) ORDER BY stage, seq, attempt",
                (checkpoint,),
            ):
                yield Send(checkpoint, *line)

    def forget(self, checkpoint: str) -> None:
        """Drop the sends of a checkpoint that will never be resumed."""
        with self._transaction() as db:
            number = db.execute("SELECT id FROM checkpoint WHERE name = ?", (checkpoint,)).fetchone()
            if number is not None:
                db.execute("DELETE FROM send WHERE checkpoint = ?", number)
                db.execute("DELETE FROM checkpoint WHERE id = ?", number)

    def usage(self, limits: Limits, now: float) -> list[Use]:
        """Used and left in every window at this moment."""
        uses = []
        with translated(self.path):
            for counted, window in limits.counted("migration"):
                only = "migration = 1 AND " if counted == "migration" else ""
                used, oldest = self._db.execute(
                    f"SELECT count(*), min(at) FROM start WHERE {only}at > ?", (now - window.seconds,)
                ).fetchone()
                resets = max(0.0, oldest + window.seconds - now) if used else 0.0
                left = max(0, window.count - used)
                uses.append(Use(str(window), counted, window.count, used, left, round(resets, 3)))
        return uses


def budget_of(path: Path, limits: Limits, now: float) -> list[Use]:
    """Used and left, read without changing anything; an account that was never used has all of it left."""
    if not path.exists() or not path.stat().st_size:
        windows = limits.counted("migration")
        return [Use(str(window), kind, window.count, 0, window.count, 0.0) for kind, window in windows]
    file = AccountFile(path, read_only=True)
    try:
        return file.usage(limits, now)
    finally:
        file.close()


def _create_owner_only(path: Path) -> None:
    folder = path.parent
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    # SQLite gives its journal the mode of the file, so both are the owner's only.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # 30 s: another process holds the file for a commit, or for as long as a slow disk takes to sync one.
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    db = _connect(path, "ro")
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        db.close()
        # A process died within a commit: undoing that takes a connection that may write.
        if error.sqlite_errorcode not in (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_CANTOPEN):
            raise
        db = _connect(path, "rw")
    except BaseException:
        db.close()
        raise
    return db
