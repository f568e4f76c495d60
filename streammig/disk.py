"""Files of ours on the disk: for their owner alone, whole or not there; and how a full disk is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from streammig.errors import MachineFault, Unusable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_fault(code: str, what: str, hint: str, error: OSError) -> MachineFault:
    """What the file system refused, as the machine's fault: with `code`, but a full disk is `disk-full` everywhere."""
    if error.errno in NO_ROOM:
        code, hint = "disk-full", "Make room, then run the same command."
    return MachineFault(code, f"{what}: {error.strerror}", hint)


def create(path: Path) -> BinaryIO:
    """A new file, owner-only. Raises `FileExistsError` where one is there."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new owner-only file under another name, which takes its own, durably, once this ends well; else it goes."""
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        create(part).close()
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def new_file(path: Path, may_replace: Callable[[Path], bool] = lambda _: False) -> Iterator[BinaryIO]:
    """Open a file that the user named to write, as `whole_file`.

    A file that is there already is left as it is, unless `may_replace` says yes to it: it may be the export. Raises
    `Unusable` for that, and `MachineFault` where the file can't be written.
    """
    if path.exists() and not may_replace(path):
        raise Unusable("output-exists", f"{path} is there already", "Name another file, or move that one away.")
    try:
        with whole_file(path) as part, part.open("wb") as file:
            yield file
    except OSError as error:
        hint = "Name a file that can be written, on a disk with room."
        raise MachineFault("output-failed", f"{path}: {error.strerror}", hint) from None


def sync(path: Path) -> None:
    """Make a file's content durable, or of a folder the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_room(folder: Path, needs: Mapping[str, int], hint: str = "", free: int | None = None) -> None:
    """Raise `MachineFault` where a folder, which need not exist yet, has less room than all of these need together.

    In bytes, as is what is `free`, if it is known.
    """
    have = free_bytes(folder) if free is None else free
    if have < sum(needs.values()):
        parts = " and ".join(f"{what}: {_megabytes(size)}" for what, size in needs.items())
        raise MachineFault(
            "disk-space",
            f"{folder}: more room is needed for {parts}; free there: {_megabytes(have)}",
            f"Make room, or name a checkpoint on a larger disk.{hint}",
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def free_bytes(folder: Path) -> int:
    """The bytes that may still be written below a folder, which need not exist yet."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize
