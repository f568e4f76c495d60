"""Files of ours on the disk: for their owner alone, never through a link, whole or not there; and full disks."""

from __future__ import annotations

import errno
import os
import stat
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


def own(path: str | Path, flags: int) -> int:
    """The descriptor of a file of ours, by the flags of `os.open`; also an `opener` for `open`. Made, it is owner-only.

    Raises `Unusable` for a link, and for what is no file: somebody else put it there, and meant another file.
    """
    try:
        # Without O_NONBLOCK a FIFO would wait for its other end.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError:
        refuse_foreign(Path(path))
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _foreign(Path(path), "file")


def read_own(path: Path) -> bytes:
    """What a file of ours holds. Raises as `own`, and `OSError`."""
    with open(path, "rb", opener=own) as file:
        return file.read()


def own_folder(path: Path) -> None:
    """Make a folder of ours, owner-only, durably, unless it is there. Raises `Unusable` for what is no folder."""
    try:
        path.mkdir(mode=0o700)
        sync_names(path.parent)
    except FileExistsError:
        refuse_foreign_folder(path)


def refuse_foreign(path: Path) -> None:
    """Raise `Unusable` unless a file of ours is there, or nothing."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _foreign(path, "file")


def refuse_foreign_folder(path: Path) -> None:
    """Raise `Unusable` unless a folder of ours is there, or nothing."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise _foreign(path, "folder")


def _foreign(path: Path, wanted: str) -> Unusable:
    found = "a link" if path.is_symlink() else f"no {wanted}"
    what = f"{path} is {found}, where streammig keeps a {wanted} of its own"
    return Unusable("foreign-file", what, "Nothing was read or written there. Move it away, then run the same command.")


def remove_own(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Delete files of ours from a folder, by their names, and the folder once it is empty. A link stays, as does what
    else lies there."""
    with suppress(OSError):
        if folder.is_symlink():
            return
        for entry in list(os.scandir(folder)):
            if entry.is_file(follow_symlinks=False) and is_ours(entry.name):
                os.unlink(entry)
        folder.rmdir()


@contextmanager
def whole_file(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A new owner-only file under another name, `part`, which takes its own, durably, once this ends well; else it
    goes. What a crash has left under that name goes first, so only names of ours will do: of files that are ours
    themselves, with `.part` behind.

    Raises `Unusable` where a link has one of these names.
    """
    part = part or path.with_name(path.name + ".part")
    for name in (path, part):
        refuse_foreign(name)
    try:
        part.unlink(missing_ok=True)
        create(part).close()
        yield part
        sync(part)
        part.replace(path)
        sync_names(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def new_file(path: Path, may_replace: Callable[[Path], bool] = lambda _: False) -> Iterator[BinaryIO]:
    """Open a file that the user named to write, as `whole_file`.

    A file that is there already is left as it is, unless `may_replace` says yes to it: it may be the export. So may a
    file of this name with `.part` behind it, so the name of the part is one that nobody else gives. Raises `Unusable`
    where a file is there, and `MachineFault` where it can't be written.
    """
    if path.exists() and not may_replace(path):
        raise Unusable("output-exists", f"{path} is there already", "Name another file, or move that one away.")
    try:
        with whole_file(path, path.with_name(f".{path.name}.streammig-part")) as part, part.open("wb") as file:
            yield file
    except OSError as error:
        hint = "Name a file that can be written, on a disk with room."
        raise MachineFault("output-failed", f"{path}: {error.strerror}", hint) from None


def begins_with(beginning: bytes) -> Callable[[Path], bool]:
    """Tells whether a file begins so: that it is one of ours, which may be replaced."""

    def is_ours(path: Path) -> bool:
        try:
            with path.open("rb") as file:
                return file.read(len(beginning)) == beginning
        except OSError:
            return False

    return is_ours


def sync(path: Path) -> None:
    """Make the content of a file of ours durable. Raises as `own`."""
    _sync(own(path, os.O_RDONLY))


def sync_names(folder: Path) -> None:
    """Make the names in a folder durable. The folder may be the user's, and named by a link."""
    _sync(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _sync(descriptor: int) -> None:
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
