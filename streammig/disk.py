"""streammig's own files: owner-only, never through a link, written whole or not at all; and full disks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from streammig.errors import MachineFault, Unusable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_fault(code: str, what: str, hint: str, error: OSError) -> MachineFault:
    """Make a `MachineFault` of a file system's error. A full disk has the code `disk-full` whatever `code` is."""
    if error.errno in NO_ROOM:
        code, hint = "disk-full", "Make room, then run the same command."
    return MachineFault(code, f"{what}: {error.strerror}", hint)


def create(path: Path) -> BinaryIO:
    """Create an owner-only file. Raises `FileExistsError` if the name exists."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def own(path: str | Path, flags: int) -> int:
    """Open one of our files with the flags of `os.open`, also as an `opener` for `open`. A new file is owner-only.

    Raises `Unusable` for a link, a folder or a device: somebody else put it there.
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
    """Read one of our files. Raises like `own`, and `OSError`."""
    with open(path, "rb", opener=own) as file:
        return file.read()


def own_folder(path: Path) -> None:
    """Make an owner-only folder durably, unless it exists. Raises `Unusable` if the name is not a folder."""
    try:
        path.mkdir(mode=0o700)
        sync_names(path.parent)
    except FileExistsError:
        refuse_foreign(path, "folder")


def refuse_foreign(path: Path, wanted: Literal["file", "folder"] = "file") -> None:
    """Raise `Unusable` if the path is anything but a regular file, or a folder. A missing path is fine."""
    is_wanted = stat.S_ISREG if wanted == "file" else stat.S_ISDIR
    with suppress(FileNotFoundError):
        if not is_wanted(path.lstat().st_mode):
            raise _foreign(path, wanted)


def _foreign(path: Path, wanted: str) -> Unusable:
    found = "a link" if path.is_symlink() else f"not a {wanted}"
    what = f"{path} is {found}, but streammig keeps a {wanted} of its own there"
    return Unusable("foreign-file", what, "Nothing was read or written there. Move it away, then run the same command.")


def remove_own(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Delete our files from a folder, by name, then the folder if it is empty. Links and other files stay."""
    with suppress(OSError):
        if folder.is_symlink():
            return
        for entry in list(os.scandir(folder)):
            if entry.is_file(follow_symlinks=False) and is_ours(entry.name):
                os.unlink(entry)
        folder.rmdir()


@contextmanager
def whole_file(path: Path, part: Path | None = None) -> Iterator[Path]:
    """Write a file whole or not at all: yield the path of a temporary file, then rename it to `path` durably.

    If the block raises, the temporary file is deleted. So is one that a crash has left. `part` must therefore be a name
    that only streammig uses; by default it is `path` with `.part` added. Raises `Unusable` if either name is a link.
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
    """Open a file for writing under a name that the user gave, as `whole_file` does.

    An existing file may be the export. It raises `Unusable` unless `may_replace` allows it. `NAME.part` may be the
    user's too, so the temporary file has another name. Raises `MachineFault` if the file can't be written.
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
    """Make the content of one of our files durable. Raises like `own`."""
    _sync(own(path, os.O_RDONLY))


def sync_names(folder: Path) -> None:
    """Make the names in a folder durable. It may be the user's folder, reached through a link."""
    _sync(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_room(folder: Path, needs: Mapping[str, int], hint: str = "", free: int | None = None) -> None:
    """Raise `MachineFault` if a folder has less free space than the sum of `needs`, in bytes by purpose.

    The folder need not exist yet. `free` replaces the measured bytes of free space.
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
    """Free bytes on the disk of a folder. The folder need not exist yet."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize
