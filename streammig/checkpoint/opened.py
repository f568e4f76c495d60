"""An open SQLite file of ours: one connection, transactions that nest, errors in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from streammig.checkpoint.database import translated
from streammig.checkpoint.digest import Digest


class Opened:
    """One connection. Synchronous: its owner runs it in a thread of its own. No `sqlite3.Error` leaves it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._open = False
        self._digest = Digest(connection)

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is durable together when this ends, or not at all; nested ones join the outermost."""
        if self._open:
            yield
            return
        self._open = True
        try:
            with translated(self.path):
                self._prepare()
                self._db.execute("BEGIN IMMEDIATE") if not self._db.in_transaction else None
                try:
                    yield
                    self._digest.store()
                    self._before_commit()
                    self._db.execute("COMMIT")
                    self._digest.kept()
                    self._committed()
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                    self._digest.forget()
                    self._rolled_back()
                    raise
        finally:
            self._open = False

    def _prepare(self) -> None:
        """What comes before the first transaction."""

    def _before_commit(self) -> None:
        """What must be durable before the transaction is."""

    def _committed(self) -> None:
        """What may be done once it is."""

    def _rolled_back(self) -> None:
        """What was not to be done after all."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Everything read inside is of one moment, also while a run writes."""
        if self._db.in_transaction:
            yield
            return
        with translated(self.path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def _change(self, sql: str, *arguments: Any) -> None:
        with self.transaction():
            self._db.execute(sql, arguments)

    def _read(self, sql: str, *arguments: Any) -> list[sqlite3.Row]:
        with translated(self.path):
            return self._db.execute(sql, arguments).fetchall()
