"""Says of the account's file in words what SQLite and the file system say in codes."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streammig.errors import MachineFault, Problem, Unusable

AS_NOTED = "Nothing was sent that is not noted in it."


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say into what the person who runs this can act on."""
    try:
        yield
    except UnicodeDecodeError:  # in what SQLite said of a schema that is damaged; its words are of no use then
        raise damaged(path, "its schema can't be read") from None
    except sqlite3.Error as error:
        raise _problem(path, error) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = f"Make {'room in its folder' if full else 'its folder writable'}, or name another with --state-dir."
        raise MachineFault("account-file-io", f"the account's file {path}: {error.strerror}", hint) from None


def damaged(path: Path, why: str) -> Problem:
    """An account's file that can't be trusted."""
    return Unusable(
        "account-file-damaged",
        f"the account's file {path}: {why}: it is no account's file, or it is damaged",
        "Move it away: the budget is then taken from the checkpoint, as far as that knows it.",
    )


def _problem(path: Path, error: sqlite3.Error) -> Problem:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    said = f"the account's file {path}: {error}"
    # No code: a text in it is no UTF-8. A constraint of ours can only fail on what nobody wrote.
    if primary in (0, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR):
        return damaged(path, str(error))
    if primary == sqlite3.SQLITE_FULL:
        return MachineFault(
            "account-file-unwritable",
            said,
            f"There is no room for it. {AS_NOTED} Make room, then run the same command.",
        )
    if primary == sqlite3.SQLITE_IOERR:  # also what a quota, or a limit on the size of files, comes as
        hint = f"There is no room for it, or the disk fails. {AS_NOTED} Mend that, then run the same command."
        return MachineFault("disk-full", said, hint)
    if primary == sqlite3.SQLITE_BUSY:
        return MachineFault(
            "account-file-unwritable",
            said,
            "Another process has held it for 30 seconds. End that one, then run the same command.",
        )
    return MachineFault("account-file-io", said, f"{AS_NOTED} Make it writable, then run the same command.")
