"""The writes of a process to its SQLite files, counted, and what is to happen at one of them."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

FRAME = 4096 + 24  # bytes of a page in a write-ahead log


class Fate(NamedTuple):
    """What happens at the `at`-th write of a life, counted over both files; `dice` seeds where within a write.

    "before" and "after" it the process is killed; "within": it may write up to a byte, and is killed there; "later":
    so in whatever is written behind it. "drain": the run is told to stop, and does in peace. "full": this write and
    every later one fails beyond some byte, as on a full disk; "failing": every one of them at its first byte; "once":
    this one only.
    """

    how: str = "nothing"
    at: int = 0
    dice: int = 0


class Writes:
    """Counts every commit and the checkpoint's taking of its name, tells of each, and lets the fate come at its turn.

    For a process that was forked for this and ends soon: it replaces `sqlite3.connect` and `os.replace`.
    """

    def __init__(self, fate: Fate, tell: Callable[[str, Any], None], drain: Callable[[], None]) -> None:
        self._fate, self._tell, self._drain = fate, tell, drain
        self._count, self._dice = 0, Random(fate.dice)
        self._open = resource.getrlimit(resource.RLIMIT_FSIZE)

    def watch(self) -> None:
        connect, replace = sqlite3.connect, os.replace
        watched = _watched(self)

        def connect_watched(database: str, **more: Any) -> sqlite3.Connection:
            return connect(database, factory=watched, **more)

        sqlite3.connect = connect_watched  # type: ignore[assignment]  # nothing else of this process opens a database
        os.replace = lambda *paths: self.write(None, lambda: replace(*paths))

    def write(self, path: Path | None, work: Callable[[], Any]) -> Any:
        """One write, to the database at `path`, with its fate if this is its turn."""
        self._count += 1
        self._tell("write", self._count)
        how = self._fate.how if self._count == self._fate.at else ""
        if how == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if how in ("within", "full", "failing", "once"):
            self._limit(self._somewhere(path) if how in ("within", "full") else 0, to_death=how == "within")
        try:
            result = self.attempt(work)
        finally:
            if how == "once":
                resource.setrlimit(resource.RLIMIT_FSIZE, self._open)
        if how in ("within", "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "drain":
            self._drain()
        if how == "later":
            self._limit(self._somewhere(path), to_death=True)
        return result

    def attempt(self, work: Callable[[], Any]) -> Any:
        """Do it, and tell if it failed."""
        try:
            return work()
        except (sqlite3.Error, OSError):
            self._tell("failed", self._count)
            raise

    def _limit(self, size: int, to_death: bool) -> None:
        """From now on no byte of a file behind this one is written: that fails, or is the end of the process."""
        if to_death:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._open[1]))

    def _somewhere(self, path: Path | None) -> int:
        """A byte that a write is likely to pass: a little behind the log's end, or anywhere in the file."""
        dice, log = self._dice, Path(f"{path}-wal")
        if path is not None and log.exists() and dice.random() < 0.8:
            return log.stat().st_size + dice.choice([0, 24, FRAME, 2 * FRAME, dice.randrange(5 * FRAME)])
        size = path.stat().st_size if path is not None and path.exists() else 2 * FRAME
        return dice.choice([0, 512, 4096, dice.randrange(size + 2 * FRAME)])


def _watched(writes: Writes) -> type[sqlite3.Connection]:
    class Watched(sqlite3.Connection):
        def __init__(self, database: str, **more: Any) -> None:
            self.path = Path(database.partition("?")[0].removeprefix("file://"))
            super().__init__(database, **more)

        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            perform = super().execute
            found: sqlite3.Cursor
            if sql == "COMMIT" or sql.startswith("PRAGMA journal_mode"):
                found = writes.write(self.path, lambda: perform(sql, *more))
            else:
                found = writes.attempt(lambda: perform(sql, *more))
            return found

    return Watched
