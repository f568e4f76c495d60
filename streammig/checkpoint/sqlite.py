"""Access to the SQLite files of a migration: opening, transactions, and translation of SQLite's errors."""

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
HELD = 30.0  # seconds that another process may hold a shared file: a commit on a slow disk
# The primary codes of a damaged file. SQLITE_ERROR is one: our statements fail only on another schema.
DAMAGE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)


class Role(NamedTuple):
    """The words for a file: its name in messages and in codes, and the hints for an error.

    `restore` is for a damaged file, `instead` for one of another program, `writable` for one that can't be written.
    """

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
    """Raise `Unusable` for a network file system: SQLite's write-ahead log needs shared memory, which it lacks."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return  # not Linux: SQLite itself fails without shared memory
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
    """Create an empty owner-only file and its folder if they are missing. SQLite gives its journal the same mode.

    Raises `Unusable` for a symbolic link in place of the file; SQLite itself follows none in place of a journal.
    """
    if not path.parent.exists():
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
    os.close(own(path, os.O_RDWR | os.O_CREAT))


def connect(path: Path, mode: str, role: Role, timeout: float = 5.0) -> sqlite3.Connection:
    """Open a database without a change to it: it may belong to another program. `timeout` is in seconds.

    `mode` is "rw", "ro" or "alone". The last reads a file that no process writes, and makes no -wal or -shm.
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
    """Roll back a change that a crash interrupted: a read-only connection can't do that, so it could not open the file.

    A file has a rollback journal only while it switches to a write-ahead log or back. SQLite itself detects whether a
    process is doing so now.
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
    """One connection to an SQLite file. Synchronous; use it in one thread at a time. Never raises `sqlite3.Error`.

    The header of a file holds the number of its `application` and the `format` of its `schema`.
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
        """Run a query and return all rows."""
        if self._open:  # the transaction translates errors
            return self._db.execute(sql, arguments).fetchall()
        with translated(self.path, self.role):
            return self._db.execute(sql, arguments).fetchall()

    def each(self, sql: str, *arguments: Any) -> Iterator[sqlite3.Row]:
        """Run a query and return the rows one by one: they may not fit into memory."""
        with translated(self.path, self.role):
            yield from self._db.execute(sql, arguments)

    def change(self, sql: str, *arguments: Any) -> int:
        """Run a change, in the open transaction or in one of its own; return the number of changed rows."""
        if self._open:
            return self._db.execute(sql, arguments).rowcount
        with self.transaction():
            return self._db.execute(sql, arguments).rowcount

    def insert(self, table: str, otherwise: str = "", **row: Any) -> None:
        """Add a row, given by column names. `otherwise` is the SQL clause for a row that exists already."""
        marks = ", ".join("?" * len(row))
        self.change(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}) {otherwise}", *row.values())

    def close(self) -> None:
        """Close the connection. The last writer ends WAL mode, so that later readers make no -wal."""
        with suppress(sqlite3.Error):
            if self._logs_ahead:
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA journal_mode = DELETE")
        with suppress(sqlite3.Error):
            self._db.close()

    def _log_ahead(self) -> None:
        """Use WAL mode until `close`, with every commit durable. Only one process may write the file meanwhile."""
        if not self._logs_ahead:
            with translated(self.path, self.role):
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
            self._logs_ahead = True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes inside durable at the end, or none of them. A nested transaction joins the outer one."""
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
        """Called before a commit, to sync the files that it refers to."""

    def _committed(self) -> None:
        """Called after a commit."""

    def _rolled_back(self) -> None:
        """Called after a rollback."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read everything inside from one snapshot, also while a run writes."""
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
        """Raise `Unusable` if SQLite finds the file damaged. Altered values within a row are not found.

        `quick` does not compare indexes with tables.
        """
        (found,) = self.rows(f"PRAGMA {'quick' if quick else 'integrity'}_check(1)")[0]
        if found != "ok":
            raise damaged(self.path, self.role, " ".join(str(found).split()))

    def _lay_out(self) -> None:
        """Create the schema in an empty file."""
        for statement in self.schema.split(";\n"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA application_id = {self.application}")
        self._db.execute(f"PRAGMA user_version = {self.format}")

    def _check(self) -> None:
        """Raise `Unusable` if the file belongs to another application or has another format."""
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
    """A small owner-only file of the state folder that several processes write, every change durable.

    It uses a rollback journal: SQLite up to 3.51.2 can lose commits in WAL mode when two connections write.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        with translated(path, self.role):
            if read_only:
                refuse_foreign(path)
            else:
                create_owner_only(path)
        super().__init__(path, connect(path, "ro" if read_only else "rw", self.role, HELD))
        try:
            with translated(path, self.role):
                self._begin(read_only)
        except BaseException:
            self.close()
            raise

    @classmethod
    def is_there(cls, path: Path) -> bool:
        """Return whether the file has a schema: a crash in its very first commit leaves one that has none."""
        with translated(path, cls.role):
            refuse_foreign(path)
            if path.exists():
                _roll_back(path, HELD)
            return path.exists() and path.stat().st_size > 0

    def _begin(self, read_only: bool) -> None:
        if read_only:
            self._check()
            return
        # TRUNCATE saves a directory sync for each commit. On macOS a plain fsync does not flush the drive's cache.
        for pragma in ("journal_mode = TRUNCATE", "synchronous = FULL", "fullfsync = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        with self.transaction():
            if not self.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
                self._lay_out()
            self._check()
            self.verify()  # a truncated file reads as zeros and NULLs, without an error


@contextmanager
def translated(path: Path, role: Role) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into problems with a hint for the operator."""
    try:
        yield
    except UnicodeDecodeError:  # from SQLite's message about a damaged schema
        raise damaged(path, role, "its schema can't be read") from None
    except sqlite3.Error as error:
        raise _problem(path, role, error) from None
    except OSError as error:
        raise disk_fault(f"{role.code}-io", f"{role.noun} {path}", _hint(role.writable), error) from None


def damaged(path: Path, role: Role, why: str) -> Problem:
    """Return the error for a damaged file."""
    what = f"{role.noun} {path} is damaged, or is another file: {why}"
    return Unusable(f"{role.code}-damaged", what, f"Nothing was sent. {role.restore}")


def _hint(mend: str) -> str:
    return f"Nothing was sent that it does not hold. {mend}, then run the same command."


def _problem(path: Path, role: Role, error: sqlite3.Error) -> Problem:
    # An error without a code: a text in the file is no UTF-8.
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    said = f"{role.noun} {path}: {error}"
    if primary in DAMAGE:
        return damaged(path, role, str(error))
    if primary == sqlite3.SQLITE_CANTOPEN:
        return Unusable(f"{role.code}-folder-missing", said, "Check that its folder exists and may be written.")
    if primary == sqlite3.SQLITE_BUSY:
        hint = "Another process holds it too long. End that process, then run the same command."
        return MachineFault(f"{role.code}-busy", said, hint)
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):  # a disk quota gives the second
        return MachineFault("disk-full", said, _hint("Make room"))
    return MachineFault(f"{role.code}-unwritable", said, _hint(role.writable))
