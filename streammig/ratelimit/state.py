"""The account's file: the starts of requests and the holds, shared by all processes."""

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

# All constants are in seconds. A start is written before its request leaves. Until its process reports the first byte,
# the request may leave at any moment, so it counts as made now, at most this long: a process that died never reports.
OPEN = 15.0
LONGEST_HOLD = 86400.0
# A 429 adds to the margin; every EXTRA_HALVES seconds, the addition halves.
EXTRA_HALVES = 600.0
EXTRA_FIRST, EXTRA_MOST = 0.05, 2.0
SAME_TROUBLE = 10.0  # 429s within this time count once: requests in flight together are throttled together
# Starts are kept at least so long: another run may have longer windows.
KEEP_AT_LEAST = 3600.0


class Pace(NamedTuple):
    """The rules for a start: the limits, a margin added to each window, and the `lead`, all in seconds.

    A permit may be given `lead` seconds early, because the request's first byte leaves at least so much later.
    """

    limits: Limits
    margins: tuple[float, ...]  # one for each of `limits.counted(kind)`
    lead: float = 0.0


class Taken(NamedTuple):
    """The ids of the starts taken, in order (0 where no window counts them).

    Without any: the seconds to wait for the first, and the cause: "held", "quota", or the full window.
    """

    starts: tuple[int, ...]
    wait: float = 0.0
    cause: str = ""


def account_name(name: str | None, base_url: str, api_key: str) -> str:
    """Return the account's name: the given one, else a keyed hash that does not reveal the API key."""
    if name:
        return name
    return "key-" + hmac.new(api_key.encode(), b"streammig account\0" + base_url.encode(), hashlib.sha256).hexdigest()


def account_path(state_folder: Path, account: str) -> Path:
    """Return the path of an account's file in the state folder; two accounts never share one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", account):
        # Some names are no file names, or not unique (macOS ignores case): a hash replaces them.
        plain = re.sub(r"[^a-z0-9]+", "-", account.lower())[:40].strip("-")
        account = f"{plain}@{hashlib.sha256(account.encode()).hexdigest()[:16]}"
    return state_folder / "accounts" / f"{account}.sqlite"


class AccountState(SharedFile):
    """The open account's file. Several processes may open it; within one, call it from one thread at a time.

    All its times are by the account's own clock, `time`, which nobody can set while the machine is up. Every change is
    one durable transaction. Raises `MachineFault` (disk full, read-only) and `Unusable` (another file or format),
    never `sqlite3.Error`.
    """

    role = Role(
        "the account's file", "account-file",
        "Move it away: the next run then takes the times of requests from its checkpoint.",
    )  # fmt: skip
    application = 0x734D4267  # "sMBg"
    format = 5
    schema = """
-- The start of a request, in seconds of the account's own time. `at` is when the permit was given, and later when the
-- first byte left. `open_until` is set until that is known. `run` is the id of the checkpoint.
CREATE TABLE start (id INTEGER PRIMARY KEY, migration INTEGER NOT NULL, at REAL NOT NULL, open_until REAL, run TEXT);
CREATE INDEX start_all ON start (at);
CREATE INDEX start_migration ON start (at) WHERE migration = 1;
CREATE INDEX start_open ON start (open_until) WHERE open_until IS NOT NULL;
-- An export claimed by a checkpoint (by its id), so that no other sends it. `digest` hashes a stage and the fingerprint
-- of a file.
CREATE TABLE claim (digest TEXT NOT NULL, run TEXT NOT NULL, checkpoint TEXT NOT NULL, PRIMARY KEY (digest, run))
 WITHOUT ROWID;
-- One row. No request may start before `hold`, no migration request before `quota`. `quota` comes from the headers of
-- the answer to a request that left at `quota_at`. 429s added `extra` to the margin at `extra_at`. `keep` is the
-- longest window of any process so far, in seconds. The account's own time is `base` plus the seconds since the
-- machine's start `boot`; it began as the wall clock's time.
CREATE TABLE account (
    hold REAL NOT NULL DEFAULT 0, quota REAL NOT NULL DEFAULT 0, quota_at REAL NOT NULL DEFAULT 0,
    extra REAL NOT NULL DEFAULT 0, extra_at REAL NOT NULL DEFAULT 0, keep REAL NOT NULL DEFAULT 0,
    boot TEXT NOT NULL DEFAULT '', base REAL NOT NULL DEFAULT 0
);
INSERT INTO account DEFAULT VALUES"""

    def time(self, wall: float, boot: Boot) -> float:
        """Return the account's own time, in seconds since the epoch.

        It starts from the wall clock, and then follows the time since the machine's start: the wall clock may be set.
        """
        with self.transaction():
            if (now := self._time(boot)) is not None:
                return now
            self._db.execute("UPDATE account SET boot = ?, base = ?", (boot.id, wall - boot.seconds))
        return wall

    def _time(self, boot: Boot) -> float | None:
        known, base = self.rows("SELECT boot, base FROM account")[0]
        return float(base) + boot.seconds if boot.id and boot.id == known else None

    def enter(self, run_id: str, starts: Iterable[float], now: float) -> int:
        """Begin a run of a checkpoint that no other process runs; close the open starts of a dead one.

        A file without any start takes over the `starts` that the checkpoint knows. Returns how many starts lay in the
        future because the clock was set back while the machine was down: they count as made now.
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
            # One second of grace: another process may have started a request since the caller read the clock.
            return self._db.execute("UPDATE start SET at = ? WHERE at > ?", (now, now + 1.0)).rowcount

    def claim(self, run_id: str, checkpoint: str, digests: Iterable[str]) -> list[tuple[str, str]]:
        """Claim exports for this checkpoint; return id and path of other checkpoints that claimed one of them, too.

        Exports that it had claimed before are not checked again.
        """
        with self.transaction():
            before = self.claims(run_id)
            new = [it for it in digests if it not in before]
            self._db.executemany(
                "INSERT OR IGNORE INTO claim VALUES (?, ?, ?)", [(it, run_id, checkpoint) for it in new]
            )
            others = "SELECT DISTINCT run, checkpoint FROM claim WHERE digest = ? AND run != ? ORDER BY run"
            return [(row[0], row[1]) for it in new for row in self.rows(others, it, run_id)]

    def claims(self, run_id: str) -> set[str]:
        """Return the digests of the exports that this checkpoint claimed."""
        return {row[0] for row in self.rows("SELECT digest FROM claim WHERE run = ?", run_id)}

    def release(self, run_id: str, kept: Collection[str] = ()) -> None:
        """Give up this checkpoint's claims, except for the exports `kept`."""
        with self.transaction():
            for digest in self.claims(run_id).difference(kept):
                self.change("DELETE FROM claim WHERE run = ? AND digest = ?", run_id, digest)

    def take(self, kind: RequestKind, count: int, pace: Pace, now: float, run_id: str = "") -> Taken:
        """Take up to `count` starts durably, as many as every window, the hold and the quota allow now."""
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
                            break  # the other windows are checked after that wait
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
        """Note when a start's first byte left: the windows count it from there."""
        self.change("UPDATE start SET at = max(?, at), open_until = NULL WHERE id = ?", at, start)

    def give_back(self, start: int) -> None:
        """Delete a start without a request."""
        self.change("DELETE FROM start WHERE id = ?", start)

    def hold(self, until: float) -> None:
        """Let no request start before this moment. Never shortens an earlier hold."""
        self.change("UPDATE account SET hold = max(hold, ?)", until)

    def quota_spent(self, until: float, sent: float) -> None:
        """Let no migration request start before `until`, by the answer to a request that left at `sent`.

        Ignored if the answer to a later request is known.
        """
        self.change("UPDATE account SET quota = ?, quota_at = ? WHERE quota_at <= ?", until, sent, sent)

    def quota_left(self, sent: float) -> None:
        """End a spent quota, by the answer to a request that left at `sent`. Ignored as in `quota_spent`."""
        self.change("UPDATE account SET quota = 0, quota_at = ? WHERE quota_at < ?", sent, sent)

    def on_429(self, now: float) -> None:
        """Widen the margin of every process after a 429."""
        with self.transaction():
            extra, at = self.rows("SELECT extra, extra_at FROM account")[0]
            if 0 <= now - at < SAME_TROUBLE:
                return
            left = extra * 0.5 ** (max(0.0, now - at) / EXTRA_HALVES)
            wider = min(EXTRA_MOST, max(EXTRA_FIRST, 2 * left))
            self._db.execute("UPDATE account SET extra = ?, extra_at = ?", (wider, now))

    def starts(self, limits: Limits, now: float) -> Starts:
        """Return the starts that the windows of these limits count at this moment."""
        rows = self.rows("SELECT at, migration FROM start WHERE at > ? ORDER BY at", now - limits.longest)
        hold = float(self.rows("SELECT hold FROM account")[0][0])
        return Starts([at for at, migration in rows if migration], [row[0] for row in rows], hold)


def starts_of(path: Path, limits: Limits, now: float) -> Starts:
    """Return the starts in an account's file, by the wall clock, as `now`. Changes no file; it may be missing."""
    if not AccountState.is_there(path):
        return Starts()
    file = AccountState(path, read_only=True)
    try:
        own = file._time(SystemClock().boot())
        return file.starts(limits, now) if own is None else file.starts(limits, own).later(now - own)
    finally:
        file.close()
