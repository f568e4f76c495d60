"""The SQLite files of a migration: opening them, transactions, and SQLite's errors in words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from streammig.disk import disk_fault, own, refuse_foreign
from streammig.errors import MachineFault, Problem, Unusable

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
# The primary codes of a damaged file; a statement of ours fails only where the schema is not ours.
DAMAGE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)


class Role(NamedTuple):
    """What a file is called in messages and in codes, and what to do where it is damaged, another program's, or can't
    be written."""

    noun: str
    code: str
    restore: str
    instead: str = "Name another folder with --state-dir."
    writable: str = "Make it and its folder writable, or name another with --state-dir"


CHECKPOINT = Role(
    "the checkpoint", "checkpoint", "Restore the newest copy from a backup, or name another checkpoint.",
    "Name another file with --checkpoint.", "Make it and its folder writable",
)  # fmt: skip


def refuse_network_file_system(path: Path) -> None:
    """SQLite's write-ahead log needs shared memory, which network file systems do not give: refuse them by name."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return  # not Linux: SQLite itself fails on a file system without shared memory
    folder = str(path.parent.resolve())
    best, kind = "", ""
    for line in mounts:
        fields, _, tail = line.partition(" - ")
        point = fields.split()[4]
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, tail.split()[0]
    if kind in NETWORK:
        raise Unusable(
            "checkpoint-on-network",
            f"{path}: the checkpoint would lie on a network file system ({kind}), where a power cut can lose commits",
            "Name a file on a local disk with --checkpoint.",
        )


def create_owner_only(path: Path) -> None:
    """Make an empty file, owner-only, and its folder, unless they are there. SQLite gives its journal the same mode.

    SQLite itself follows no link in place of a journal. Raises `Unusable` for one in place of the file.
    """
    if not path.parent.exists():
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
    os.close(own(path, os.O_RDWR | os.O_CREAT))


def connect(path: Path, mode: str, role: Role, timeout: float = 5.0) -> sqlite3.Connection:
    """Open a database; changes nothing in it, for it may turn out to be somebody else's. `timeout` is in seconds.

    `mode` is "rw", "ro", or "alone": to read a file that nobody can write meanwhile, without making its -wal and -shm.
    """
    with translated(path, role):
        if mode != "rw":
            _roll_back(path, timeout)
        if mode == "alone":
            wal = path.with_name(path.name + "-wal")
            mode = "ro" if wal.exists() and wal.stat().st_size else "ro&immutable=1"
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=timeout)
        db.row_factory = sqlite3.Row
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            db.close()
            raise
        return db


def _roll_back(path: Path, timeout: float) -> None:
    """Undo what a crash left half done in a rollback journal: a connection that only reads could not open the file.

    A file has one only while it changes to a write-ahead log or back. SQLite itself tells whether a process still does.
    """
    journal = path.with_name(path.name + "-journal")
    if not journal.exists() or not journal.stat().st_size:
        return
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=timeout)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        db.close()


class SqliteFile:
    """One connection. Synchronous: its owner runs it in one thread at a time. No `sqlite3.Error` leaves it.

    A kind of file is told by the number of its `application`, in the header, and the `format` of its `schema`.
    """

    role: ClassVar[Role]
    application: ClassVar[int]
    format: ClassVar[int]
    schema: ClassVar[str]

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._open = self._logs_ahead = False

    def rows(self, sql: str, *arguments: Any) -> list[sqlite3.Row]:
        """What a question in SQL finds."""
        if self._open:  # the transaction around it translates
            return self._db.execute(sql, arguments).fetchall()
        with translated(self.path, self.role):
            return self._db.execute(sql, arguments).fetchall()

    def each(self, sql: str, *arguments: Any) -> Iterator[sqlite3.Row]:
        """As `rows`, one after the other: for those that don't fit into memory."""
        with translated(self.path, self.role):
            yield from self._db.execute(sql, arguments)

    def change(self, sql: str, *arguments: Any) -> int:
        """Make a change in SQL, in a transaction of its own or in the open one; returns how many rows it changed."""
        if self._open:
            return self._db.execute(sql, arguments).rowcount
        with self.transaction():
            return self._db.execute(sql, arguments).rowcount

    def insert(self, table: str, otherwise: str = "", **row: Any) -> None:
        """Add a row, given by the names of its columns. `otherwise` is the clause for one that is there already."""
        marks = ", ".join("?" * len(row))
        self.change(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}) {otherwise}", *row.values())

    def close(self) -> None:
        """Close it; the last one that wrote folds the write-ahead log in, so that no later reader makes a new one."""
        with suppress(sqlite3.Error):
            if self._logs_ahead:
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA journal_mode = DELETE")
        with suppress(sqlite3.Error):
            self._db.close()

    def _log_ahead(self) -> None:
        """Have a write-ahead log until `close`, every commit durable. Only for the one process that writes the file."""
        if not self._logs_ahead:
            with translated(self.path, self.role):
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
            self._logs_ahead = True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is durable together when this ends, or not at all; nested ones join the outermost."""
        if self._open:
            yield
            return
        self._open = True
        try:
            with translated(self.path, self.role):
                self._prepare()
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    if self._db.in_transaction:
                        self._before_commit()
                        self._db.execute("COMMIT")
                        self._committed()
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                    self._rolled_back()
                    raise
        finally:
            self._open = False

    def _prepare(self) -> None:
        """Called before each transaction."""

    def _before_commit(self) -> None:
        """Called before a commit, to make durable what it refers to."""

    def _committed(self) -> None:
        """Called after a commit."""

    def _rolled_back(self) -> None:
        """Called after a rollback."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Everything read inside is of one moment, also while a run writes."""
        if self._db.in_transaction:
            yield
            return
        with translated(self.path, self.role):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def verify(self, *, quick: bool = False) -> None:
        """Raise `Unusable` where SQLite finds the file damaged; `quick` leaves out whether indexes agree with tables.
        Damage within a sound row is not found."""
        (found,) = self.rows(f"PRAGMA {'quick' if quick else 'integrity'}_check(1)")[0]
        if found != "ok":
            raise damaged(self.path, self.role, " ".join(str(found).split()))

    def _lay_out(self) -> None:
        """Make the schema in an empty file."""
        for statement in self.schema.split(";\n"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA application_id = {self.application}")
        self._db.execute(f"PRAGMA user_version = {self.format}")

    def _check(self) -> None:
        """Raise `Unusable` unless the file is of this kind, in the format that is known here."""
        (application,) = self.rows("PRAGMA application_id")[0]
        (found,) = self.rows("PRAGMA user_version")[0]
        if application != self.application:
            what = f"{self.path} is not {self.role.noun} of streammig"
            raise Unusable(f"{self.role.code}-foreign", what, self.role.instead)
        if found != self.format:
            raise self._of_format(found)

    def _of_format(self, found: int) -> Unusable:
        return Unusable(
            f"{self.role.code}-format",
            f"{self.role.noun} {self.path} has format {found}; this streammig reads {self.format} only",
            f"Use the streammig that wrote it. {self.role.instead}",
        )


class SharedFile(SqliteFile):
    """A small file of the state folder that several processes write: owner-only, every change durable.

    It has a rollback journal and no WAL, unless one process alone writes it: SQLite up to 3.51.2 can lose commits in
    WAL mode when two connections write.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        with translated(path, self.role):
            if read_only:
                refuse_foreign(path)
            else:
                create_owner_only(path)
        # 30 s: another process holds the file for a commit, or for as long as a slow disk takes to sync one.
        super().__init__(path, connect(path, "ro" if read_only else "rw", self.role, 30.0))
        try:
            with translated(path, self.role):
                self._begin(read_only)
        except BaseException:
            self.close()
            raise

    def _begin(self, read_only: bool) -> None:
        if read_only:
            self._check()
            return
        # TRUNCATE spares a directory sync for each commit. On macOS a plain fsync leaves the drive's cache.
        for pragma in ("journal_mode = TRUNCATE", "synchronous = FULL", "fullfsync = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        with self.transaction():
            if not self.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
                self._lay_out()
            self._check()
            self.verify()  # a file that was cut reads as zeros and nulls where its pages are missing


@contextmanager
def translated(path: Path, role: Role) -> Iterator[None]:
    """Turn what SQLite and the file system say into what the person who runs this can act on."""
    try:
        yield
    except UnicodeDecodeError:  # SQLite's own words about a damaged schema; they are of no use
        raise damaged(path, role, "its schema can't be read") from None
    except sqlite3.Error as error:
        raise _problem(path, role, error) from None
    except OSError as error:
        raise disk_fault(f"{role.code}-io", f"{role.noun} {path}", _hint(role.writable), error) from None


def damaged(path: Path, role: Role, why: str) -> Problem:
    """A file that can't be trusted."""
    what = f"{role.noun} {path} is damaged, or is another file: {why}"
    return Unusable(f"{role.code}-damaged", what, f"Nothing was sent. {role.restore}")


def _hint(mend: str) -> str:
    return f"Nothing was sent that it does not hold. {mend}, then run the same command."


def _problem(path: Path, role: Role, error: sqlite3.Error) -> Problem:
    # Without a code it is a text that is no UTF-8.
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    said = f"{role.noun} {path}: {error}"
    if primary in DAMAGE:
        return damaged(path, role, str(error))
    if primary == sqlite3.SQLITE_CANTOPEN:
        return Unusable(f"{role.code}-folder-missing", said, "Check that its folder exists and may be written.")
    if primary == sqlite3.SQLITE_BUSY:
        hint = "Another process holds it too long. End that one, then run the same command."
        return MachineFault(f"{role.code}-busy", said, hint)
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):  # the second is also how a quota shows
        return MachineFault("disk-full", said, _hint("Make room"))
    return MachineFault(f"{role.code}-unwritable", said, _hint(role.writable))
