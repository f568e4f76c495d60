"""Opening a SQLite file as DESIGN asks, and saying in words what SQLite says in codes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streammig.errors import MachineFault, Problem, Unusable


def refuse_network_file_system(path: Path) -> None:
    """SQLite's write-ahead log needs shared memory, which network file systems do not give: refuse them by name."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return  # not Linux: SQLite itself fails on what lacks shared memory
    folder = str(path.parent.resolve())
    best, kind = "", ""
    for line in mounts:
        fields, _, tail = line.partition(" - ")
        point = fields.split()[4]
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, tail.split()[0]
    if kind in {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}:
        raise Unusable(
            "checkpoint-on-network",
            f"{path}: the checkpoint would lie on a network file system ({kind}), where a power cut can lose commits",
            "Name a file on a local disk with --checkpoint.",
        )


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database; changes nothing in it, for it may turn out to be somebody else's."""
    with translated(path):
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5)
        db.row_factory = sqlite3.Row
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            db.close()
            raise
        return db


def prepare_to_write(db: sqlite3.Connection) -> None:
    """Readers beside one writer, and every commit on the disk when it returns."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")


def sync(path: Path) -> None:
    """Make a file's content durable, or of a folder the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite says into what the person who runs this can act on."""
    try:
        yield
    except UnicodeDecodeError:  # in what SQLite said of a schema that is damaged; its words are of no use then
        raise _damaged(f"the checkpoint {path}") from None
    except sqlite3.Error as error:
        raise _problem(path, error) from None
    except OSError as error:
        raise MachineFault(
            "checkpoint-io", f"{path}: {error.strerror}", "Make room or mend the disk, then run the same command."
        ) from None


def _damaged(said: str) -> Problem:
    return Unusable(
        "checkpoint-damaged",
        f"{said}: it is no checkpoint, or it is damaged",
        "Restore it from a backup, or name another.",
    )


def _problem(path: Path, error: sqlite3.Error) -> Problem:
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    said = f"the checkpoint {path}: {error}"
    # No code: a text in it is no UTF-8.
    if primary in (None, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return _damaged(said)
    if primary == sqlite3.SQLITE_CANTOPEN:
        return Unusable("checkpoint-folder-missing", said, "Check that its folder exists and may be written.")
    if primary == sqlite3.SQLITE_FULL:
        return MachineFault(
            "disk-full", said, "Nothing was sent that it does not hold. Make room, then run the same command."
        )
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return MachineFault(
            "checkpoint-unwritable",
            said,
            "Nothing was sent that it does not hold. Make it writable, then run the same command.",
        )
    return MachineFault(
        "checkpoint-io", said, "Nothing was sent that it does not hold. Mend the disk, then run the same command."
    )
