"""The account's file: starts of requests and holds, shared by every process."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from streammig.checkpoint.sqlite import Role, SharedFile
from streammig.clock import Boot, SystemClock
from streammig.ratelimit.limits import Limits, RequestKind, Starts

# A start is written before its request leaves. Until its process says when it left, it may leave at any moment: it
# counts as made now, for as long as making a connection may take. A process that died never says it.
OPEN = 15.0
LONGEST_HOLD = 86400.0
# A 429 widens the margin; each time this many seconds pass, half of what was added is gone.
EXTRA_HALVES = 600.0
EXTRA_FIRST, EXTRA_MOST = 0.05, 2.0
SAME_TROUBLE = 10.0  # requests in flight together are throttled together: that is one word of the target, not four
# Starts that no window of ours needs may be needed by a run with other limits: an hour of them costs little.
KEEP_AT_LEAST = 3600.0


class Pace(NamedTuple):
    """What a start is measured against: the limits, a margin added to each window, and how long before its first
    byte a request is usually allowed (`lead`), all in seconds."""

    limits: Limits
    margins: tuple[float, ...]  # one for each of `limits.counted(kind)`
    lead: float = 0.0


class Taken(NamedTuple):
    """The starts that were taken, in order (0 where nobody counts them), or the seconds to wait for the first and
    what for: "held", "quota", or the window that is full."""

    starts: tuple[int, ...]
    wait: float = 0.0
    cause: str = ""


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


class AccountState(SharedFile):
    """The account's file, open. Several processes may have it open; within one, call it from one thread at a time.

    It has a time of its own, `time`, that all its moments are counted in: nobody can set it while the machine is up.
    Every change is one durable transaction. Raises `MachineFault` (disk full, read-only) and `Unusable` (no such
    file of ours, another format), never `sqlite3.Error`.
    """

    role = Role(
        "the account's file", "account-file",
        "Move it away: the requests made are then taken from the checkpoint, as far as it knows them.",
    )  # fmt: skip
    application = 0x734D4267  # "sMBg"
    format = 5
    schema = """
-- A request that was allowed to start, in seconds of the account's own time. `at` is the moment it was allowed, later
-- the moment its first byte left. `open_until` is set until that moment is known; `run` is the id of the checkpoint
-- that it was allowed for.
CREATE TABLE start (id INTEGER PRIMARY KEY, migration INTEGER NOT NULL, at REAL NOT NULL, open_until REAL, run TEXT);
CREATE INDEX start_all ON start (at);
CREATE INDEX start_migration ON start (at) WHERE migration = 1;
CREATE INDEX start_open ON start (open_until) WHERE open_until IS NOT NULL;
-- Which checkpoint, by its id, was given an export to send; `digest` is of a stage and the fingerprint of a file.
CREATE TABLE claim (digest TEXT NOT NULL, run TEXT NOT NULL, checkpoint TEXT NOT NULL, PRIMARY KEY (digest, run))
 WITHOUT ROWID;
-- One line: nothing may start before `hold`, and no migration request before `quota`, which the headers of an answer
-- gave to a request that left at `quota_at`; `extra` was added to the margin (by 429s) at `extra_at`; `keep` is the
-- longest window, in seconds, that any process has paced by here. The account's own time is `base` behind the time
-- since the machine's start, in seconds, as long as that is start `boot`; it began with the wall clock's.
CREATE TABLE account (
    hold REAL NOT NULL DEFAULT 0, quota REAL NOT NULL DEFAULT 0, quota_at REAL NOT NULL DEFAULT 0,
    extra REAL NOT NULL DEFAULT 0, extra_at REAL NOT NULL DEFAULT 0, keep REAL NOT NULL DEFAULT 0,
    boot TEXT NOT NULL DEFAULT '', base REAL NOT NULL DEFAULT 0
);
INSERT INTO account DEFAULT VALUES"""

    def time(self, wall: float, boot: Boot) -> float:
        """The account's own time now, in seconds since the epoch. Once begun it goes on with the time since the
        machine's start: the wall clock may be set meanwhile, also between two calls."""
        with self.transaction():
            if (now := self._time(boot)) is not None:
                return now
            self._db.execute("UPDATE account SET boot = ?, base = ?", (boot.id, wall - boot.seconds))
        return wall

    def _time(self, boot: Boot) -> float | None:
        known, base = self.rows("SELECT boot, base FROM account")[0]
        return float(base) + boot.seconds if boot.id and boot.id == known else None

    def enter(self, run_id: str, starts: Iterable[float], now: float) -> int:
        """Begin to pace for a checkpoint that nobody else runs: what a dead process of it left open has left by now.

        A file without any start takes over those that the checkpoint knows. Returns how many starts lay in the future,
        for the clock was set back while the machine was down: they count as made now.
        """
        with self.transaction():
            if not self.rows("SELECT 1 FROM start LIMIT 1"):
                self._db.executemany("INSERT INTO start (migration, at) VALUES (1, ?)", ((at,) for at in starts))
            self._db.execute(
                "UPDATE start SET at = max(at, min(open_until, ?)), open_until = NULL"
                " WHERE open_until IS NOT NULL AND run = ?",
                (now, run_id),
            )
            self._db.execute("UPDATE account SET hold = min(hold, ?)", (now + LONGEST_HOLD,))
            # A second's grace: another process may have started one between our reading the clock and this.
            return self._db.execute("UPDATE start SET at = ? WHERE at > ?", (now, now + 1.0)).rowcount

    def claim(self, run_id: str, checkpoint: str, digests: Iterable[str]) -> list[tuple[str, str]]:
        """Note that this checkpoint is to send these exports; id and path of others that were given one of them. An
        export that it had already is not asked for again."""
        with self.transaction():
            before = self.claims(run_id)
            new = [it for it in digests if it not in before]
            self._db.executemany(
                "INSERT OR IGNORE INTO claim VALUES (?, ?, ?)", [(it, run_id, checkpoint) for it in new]
            )
            asked = "SELECT DISTINCT run, checkpoint FROM claim WHERE digest = ? AND run != ? ORDER BY run"
            return [(row[0], row[1]) for it in new for row in self.rows(asked, it, run_id)]

    def claims(self, run_id: str) -> set[str]:
        """The exports that this checkpoint was given."""
        return {row[0] for row in self.rows("SELECT digest FROM claim WHERE run = ?", run_id)}

    def release(self, run_id: str, kept: Collection[str] = ()) -> None:
        """What this checkpoint was given may be given to another one, but for the exports that are `kept`."""
        with self.transaction():
            for digest in self.claims(run_id).difference(kept):
                self.change("DELETE FROM claim WHERE run = ? AND digest = ?", run_id, digest)

    def take(self, kind: RequestKind, count: int, pace: Pace, now: float, run_id: str = "") -> Taken:
        """Durably take up to `count` starts, as many as every window and the hold allow now."""
        windows = tuple(zip(pace.limits.counted(kind), pace.margins, strict=True))
        with self.transaction():
            row = self.rows("SELECT hold, quota, quota_at, extra, extra_at FROM account")[0]
            hold, quota, quota_at, extra, extra_at = row
            wait, cause = hold - now, "held"
            quota = min(quota, quota_at + pace.limits.longest)
            if kind == "migration" and quota - now > max(wait, 0.0):
                wait, cause = quota - now, "quota"
            extra *= 0.5 ** (max(0.0, now - extra_at) / EXTRA_HALVES)
            if not windows and wait <= 0:
                return Taken((0,) * count)
            self._db.execute(
                "UPDATE start SET at = min(open_until, ?1)"
                " WHERE open_until IS NOT NULL AND at < min(open_until, ?1)",
                (now,),
            )  # fmt: skip
            starts: list[int] = []
            while wait <= 0 and len(starts) < count:
                for (counted, window), margin in windows:
                    nth = self._nth_last(counted, window.count)
                    if nth is not None:
                        wait, cause = nth + window.seconds + margin + extra - pace.lead - now, str(window)
                        if wait > 0:
                            break  # the others are asked when that time is over
                if wait <= 0:
                    starts.append(self._insert(kind, now, run_id))
            if starts:
                self._db.execute("UPDATE account SET keep = max(keep, ?)", (max(pace.limits.longest, KEEP_AT_LEAST),))
                self._db.execute("DELETE FROM start WHERE at < ? - 60 - (SELECT keep FROM account)", (now,))
            else:
                self._db.execute("ROLLBACK")
        return Taken(tuple(starts)) if starts else Taken((), wait, cause)

    def _nth_last(self, counted: RequestKind, count: int) -> float | None:
        only = "WHERE migration = 1 " if counted == "migration" else ""
        rows = self.rows(f"SELECT at FROM start {only}ORDER BY at DESC LIMIT 1 OFFSET ?", count - 1)
        return float(rows[0][0]) if rows else None

    def _insert(self, kind: RequestKind, now: float, run_id: str) -> int:
        migration = kind == "migration"
        line = self._db.execute(
            "INSERT INTO start (migration, at, open_until, run) VALUES (?, ?, ?, ?)",
            (migration, now, now + OPEN if migration else None, run_id),
        )
        return line.lastrowid or 0

    def sent(self, start: int, at: float) -> None:
        """A start's first byte left at this moment; it counts from there."""
        self.change("UPDATE start SET at = max(?, at), open_until = NULL WHERE id = ?", at, start)

    def give_back(self, start: int) -> None:
        """Nothing left for this start: it is free again."""
        self.change("DELETE FROM start WHERE id = ?", start)

    def hold(self, until: float) -> None:
        """Let nobody start before this moment; an earlier one than is known already changes nothing."""
        self.change("UPDATE account SET hold = max(hold, ?)", until)

    def quota_spent(self, until: float, sent: float) -> None:
        """By the answer to a request that left at `sent` no migration request is left before this moment. The answer to
        an earlier one changes nothing."""
        self.change("UPDATE account SET quota = ?, quota_at = ? WHERE quota_at <= ?", until, sent, sent)

    def quota_left(self, sent: float) -> None:
        """By the answer to a request that left at `sent` there are requests left: what an earlier one said is over."""
        self.change("UPDATE account SET quota = 0, quota_at = ? WHERE quota_at < ?", sent, sent)

    def on_429(self, now: float) -> None:
        """Widen the margin of every process: the target said 429 in spite of it."""
        with self.transaction():
            extra, at = self.rows("SELECT extra, extra_at FROM account")[0]
            if 0 <= now - at < SAME_TROUBLE:
                return
            left = extra * 0.5 ** (max(0.0, now - at) / EXTRA_HALVES)
            wider = min(EXTRA_MOST, max(EXTRA_FIRST, 2 * left))
            self._db.execute("UPDATE account SET extra = ?, extra_at = ?", (wider, now))

    def starts(self, limits: Limits, now: float) -> Starts:
        """What the windows of these limits remember at this moment."""
        rows = self.rows("SELECT at, migration FROM start WHERE at > ? ORDER BY at", now - limits.longest)
        hold = float(self.rows("SELECT hold FROM account")[0][0])
        return Starts([at for at, migration in rows if migration], [row[0] for row in rows], hold)


def starts_of(path: Path, limits: Limits, now: float) -> Starts:
    """What an account's file remembers, read without changing anything; nothing of one that was never used. `now` is
    the wall clock's time, and so are the times that are returned."""
    if not path.exists() or not path.stat().st_size:
        return Starts()
    file = AccountState(path, read_only=True)
    try:
        own = file._time(SystemClock().boot())
        return file.starts(limits, now) if own is None else file.starts(limits, own).later(now - own)
    finally:
        file.close()
