"""Handles of exports: a local file, or an object on a server that is read by ranges."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import Any, NamedTuple, Protocol

from streammig.address import is_address
from streammig.errors import MachineFault, Unusable


class FileIdentity(NamedTuple):
    """The identity of an opened export. It changes if the export is written to or replaced."""

    device: int  # -1 for an object; its inode is a hash of its address
    inode: int
    size: int
    modified: int  # in nanoseconds; 0 for an object with an ETag
    changed: int  # nanoseconds of the last change of content, times, name or rights: nobody can set it back
    etag: str = ""  # of an object

    def check(self, file: str, now: FileIdentity) -> None:
        """Raise `Unusable` if the export has changed; its name and rights may change."""
        if now._replace(changed=self.changed) == self:
            return
        if now.size != self.size:
            how = f"it had {self.size:,} bytes and has {now.size:,} now"
        elif now[:2] != self[:2]:
            how = "another file was put in its place"
        else:
            how = "something was written to it"
        raise changed(file, how)


def changed(file: str, how: str) -> Unusable:
    return Unusable(
        "export-changed",
        f"{file}: the export changed while it was read: {how}",
        "The checkpoint holds all that was sent. Restore the file, make sure that nobody writes to it, and run the same"
        " command: it goes on from there.",
    )


class Handle(Protocol):
    """An opened export, unbuffered."""

    def read(self, size: int, /) -> bytes | None:
        """Return 1 to `size` bytes, none at the end. Raises OSError, or a `Problem`."""

    def seek(self, offset: int, /) -> Any: ...

    def at(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset, without a move of the read position."""

    def identity(self) -> FileIdentity:
        """Return its identity now, or at the last answer of its server."""

    def close(self) -> None: ...


class LocalFile(io.FileIO):
    """A regular file as a `Handle`."""

    def at(self, offset: int, length: int) -> bytes:
        return os.pread(self.fileno(), length, offset)

    def identity(self) -> FileIdentity:
        found = os.fstat(self.fileno())
        return FileIdentity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def open_file(file: str) -> Handle:
    """Open an export. Raises Unusable if it is empty, or neither a regular file nor an object."""
    if is_address(file):
        from streammig.sources.remote import RemoteObject  # its import is slow, and needs an extra

        handle: Handle = RemoteObject(file)
    else:
        handle = _open_local(file)
    if not handle.identity().size:
        handle.close()
        raise Unusable(
            "export-empty",
            f"{file}: the export is empty",
            "Export again, or leave the file out.",
        )
    return handle


def _open_local(file: str) -> LocalFile:
    try:
        # A FIFO without a writer would block in open() for ever.
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise no_entry(file, error) from None
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):
        return LocalFile(number, "r", closefd=True)
    os.close(number)
    kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
    raise Unusable(
        "export-not-a-file",
        f"{file}: the export must be a regular file, this is {kind}",
        "Name the file itself; give - to read an export from standard input.",
    )


def no_entry(file: str, error: OSError | ValueError) -> Unusable:
    """Return the error for a file that can't be opened."""
    code = error.errno if isinstance(error, OSError) else None
    hints = {
        errno.ENOENT: "Check the name and the folder; the path of an array follows a #: FILE#path.to.array.",
        errno.EACCES: "Give the user who runs this the right to read it.",
    }
    why = os.strerror(code) if code else "that can't be a file's name"
    return Unusable("export-unreadable", f"{file}: the export can't be opened: {why}", hints.get(code or 0, ""))


def read_failed(file: str, offset: int, error: OSError) -> MachineFault:
    """Return the error for a failed read. The fault is the disk's: the same file may be readable later."""
    return MachineFault(
        "export-io",
        f"{file}: reading at byte {offset} failed: {os.strerror(error.errno or 0)}",
        "Mend the disk, then run the same command.",
    )
