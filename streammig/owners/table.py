"""The finished owner table: which customers stand twice, and which owners will not be in the target."""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from streammig.errors import MachineFault
from streammig.owners import layout
from streammig.owners.layout import About, Hashing, Policy, clear
from streammig.records import START, Place

UNKNOWN = "unknown-customer"
READ = 1 << 20
AHEAD = 512  # duplicates read at once: 25 KB


class Duplicate(NamedTuple):
    """A customer that is not sent because an earlier one is: `code` is "duplicate-customer" (the same id) or
    "duplicate-email", `first` the place of the one that is sent."""

    place: Place
    code: str
    first: Place


class OwnerTable:
    """All owners of an export, on disk. Never changes, so any thread may ask it, also several at once.

    Holds in memory one hash in 128: 6 MB at 100 M owners. On disk are 64-bit hashes under a random key that lies
    beside them, places and reasons: no key of a customer, but who has the folder can test whether an id he knows is
    in it, so it is its owner's alone and to be deleted with `forget` once the run is done.

    That an id which stands nowhere is taken for another's has odds of one in 2**64 / owners a question. An owner
    that is there is never taken for absent.
    """

    def __init__(self, folder: Path, about: About, bits: int = 64) -> None:
        """For `open_table` only. Raises ValueError if the files are not what `about` says."""
        self._folder, self._about, self._bits = folder, about, bits
        self._hashing = Hashing(bytes.fromhex(about.key), bits)
        self._firsts = array("Q")
        self._files = [os.open(folder / name, os.O_RDONLY) for name in (layout.ROSTER, layout.DUPLICATES)]
        self._roster, self._repeated = self._files
        try:
            whole = self._digest(self._roster, self._firsts), self._digest(self._repeated)
            if whole != (about.roster, about.repeated):
                raise ValueError
        except BaseException:
            self.close()
            raise

    def __reduce__(self) -> tuple[type[OwnerTable], tuple[Path, About, int]]:
        return OwnerTable, (self._folder, self._about, self._bits)  # in another process it is opened anew

    @property
    def owners(self) -> int:
        """How many different owners the export names, absent ones too."""
        return self._about.owners

    @property
    def duplicate_count(self) -> int:
        return self._about.duplicates

    def absent(self, owners: Iterable[str]) -> dict[str, str]:
        """Those of these owners that will not be in the target, each with the code of the reason.

        An owner that stands in a record that is kept is not among them. Else what was said of it first in the export
        is the reason, also "duplicate-email"; "unknown-customer" if it stands nowhere.
        """
        asked = list(owners)
        found = {}
        size, firsts = layout.BLOCK * layout.ENTRY, self._firsts
        for owner, value in zip(asked, self._hashing.short(asked), strict=True):
            block = bisect_right(firsts, value) - 1
            data = self._read(self._roster, size, block * size) if block >= 0 else b""
            count = len(data) // layout.ENTRY
            hashes = memoryview(data)[: count * 8].cast("Q")
            at = bisect_left(hashes, value)
            if at == count or hashes[at] != value:
                found[owner] = UNKNOWN
            elif code := data[count * 8 + at]:
                found[owner] = self._about.reasons[code]
        return found

    def duplicates(self, start: Place = START, end: Place | None = None) -> Iterator[Duplicate]:
        """The duplicates from `start` up to, not including, `end`, in reading order.

        Finds its beginning in some 30 reads, so it may well be asked once for each run of slices.
        """
        at = bisect_left(range(self._about.duplicates), start[:3], key=self._place)
        while at < self._about.duplicates:
            for number in self._unpack(at, AHEAD):
                duplicate = Duplicate(Place(*number[:4]), layout.CODES[number[8]], Place(*number[4:8]))
                if end is not None and duplicate.place[:3] >= end[:3]:
                    return
                yield duplicate
            at += AHEAD

    def _place(self, index: int) -> tuple[int, int, int]:
        source, offset, unit, *_ = next(self._unpack(index, 1))
        return source, offset, unit

    def _unpack(self, index: int, count: int) -> Iterator[tuple[int, ...]]:
        size = layout.DUPLICATE.size
        return layout.DUPLICATE.iter_unpack(self._read(self._repeated, count * size, index * size))

    def _read(self, file: int, length: int, offset: int) -> bytes:
        try:
            return os.pread(file, length, offset)
        except OSError as error:
            raise MachineFault(
                f"{self._folder}: the owner table can't be read: {error.strerror}",
                "Mend the disk, then run the same command.",
            ) from None

    def _digest(self, file: int, firsts: array[int] | None = None) -> str:
        """The digest of a file; on the way the first hash of each block is kept."""
        digest, offset, step = hashlib.blake2b(digest_size=16), 0, layout.BLOCK * layout.ENTRY
        while data := os.pread(file, READ // step * step, offset):
            digest.update(data)
            if firsts is not None:
                for at in range(0, len(data), step):
                    firsts.frombytes(data[at : at + 8])
            offset += len(data)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the files; may be called twice."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> OwnerTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_table(folder: Path, token: str, *, policy: Policy = "first", bits: int = 64) -> OwnerTable | None:
    """The finished table in this folder, or None if there is none that is whole, and made for `token` and `policy`.

    Reads it through once, since a byte that changed could have a customer sent twice: 1 s at 100 M owners.
    """
    try:
        about = About.decode((folder / layout.ABOUT).read_bytes())
        if about is None or about.binding != layout.binding(token, policy, bits):
            return None
        return OwnerTable(folder, about, bits)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def forget(folder: Path) -> None:
    """Delete the table, finished or not. A folder that holds anything else is left with that in it."""
    clear(folder)
    with suppress(OSError):
        folder.rmdir()
