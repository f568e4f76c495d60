"""The files of an owner table: their names, their bytes on disk, and the keyed hashes that they hold."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

Policy = Literal["first", "none"]
"""Which of several customers with the same id or e-mail is sent: the first; or all of them (not looked for)."""

FORMAT = 1

ROSTER, DUPLICATES, ABOUT = "roster", "duplicates", "about"
GATHERED, WAL, INBOX, SPILL = "gathered.duckdb", "gathered.duckdb.wal", "inbox.csv", "spill"

# The roster: every owner's hash once, ascending, in blocks of 128 hashes (8 bytes each) and behind them their 128
# codes (1 byte each); only the last block may be shorter. 128 make a lookup one read of 1,152 bytes, and leave 6 MB
# of first hashes to keep in memory at 100 M owners.
BLOCK = 128
ENTRY = 9
PRESENT = 0  # code of an owner that stands in a record that is kept; every other code counts the reasons from 1
# The reasons are the codes of rules and filters, some dozens. Should there ever be more, the last one stands for them.
MOST_REASONS, OTHER = 255, "left-out"

# A duplicate: its own place and the place of the record it repeats (source, offset, unit, ordinal each), and its code.
PLACE = struct.Struct("<IQIQ")
DUPLICATE = struct.Struct("<IQIQIQIQB")
CODES = ("", "duplicate-customer", "duplicate-email")  # by the number that stands for them
SAME_ID, SAME_TWIN = 1, 2


class About(msgspec.Struct, frozen=True):
    """What a finished table is bound to and holds; written last, so that a table without it is not finished."""

    binding: str
    key: str  # of the hashes, in hex
    owners: int
    duplicates: int
    reasons: tuple[str, ...]
    roster: str  # digests of the two files, in hex
    repeated: str

    def encode(self) -> bytes:
        body = msgspec.json.encode(self)
        return body + b"\n" + hashlib.blake2b(body, digest_size=16).hexdigest().encode()

    @classmethod
    def decode(cls, data: bytes) -> About | None:
        """What was encoded, or None if these bytes are not whole."""
        body, _, digest = data.partition(b"\n")
        if hashlib.blake2b(body, digest_size=16).hexdigest().encode() != digest:
            return None
        return msgspec.json.decode(body, type=cls)


class Hashing:
    """64-bit hashes under a key that nobody else has: what of the owners' keys may stand in a file.

    `bits` is less than 64 only where a test wants hashes to collide.
    """

    def __init__(self, key: bytes, bits: int = 64) -> None:
        self._short = hashlib.blake2b(digest_size=8, key=key)
        self._long = hashlib.blake2b(digest_size=16, key=key, person=b"whole")
        self._mask = (1 << bits) - 1

    def short(self, texts: Iterable[str]) -> array[int]:
        """A 64-bit hash of each."""
        fresh, digests = self._short.copy, []
        for text in texts:  # a copy of the keyed state costs 1.2 us, a new one 2
            state = fresh()
            state.update(text.encode())
            digests.append(state.digest())
        hashes = array("Q", b"".join(digests))
        return hashes if self._mask == (1 << 64) - 1 else array("Q", [it & self._mask for it in hashes])

    def long(self, text: str) -> int:
        """128 bits of it: that two different keys of an export share them has odds of 1 in 10**22 at 100 M."""
        state = self._long.copy()
        state.update(text.encode())
        return int.from_bytes(state.digest(), "little")


def binding(token: str, policy: Policy, bits: int) -> str:
    """What a table is bound to, as a digest: the token may name files."""
    text = "\0".join((str(FORMAT), sys.byteorder, policy, str(bits), token))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def pack_block(hashes: array[int], codes: bytearray) -> bytes:
    return hashes.tobytes() + codes


def pack_duplicate(place: bytes, first: bytes, code: int) -> bytes:
    return place + first + bytes((code,))


def make_folder(folder: Path) -> None:
    """Make the folder, for its owner only; one that is there already is made so."""
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)


def clear(folder: Path, names: Iterable[str] = (ABOUT, ROSTER, DUPLICATES, GATHERED, WAL, INBOX)) -> None:
    """Delete the files of a table that are there, and what spilled; never anything else."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    spill = folder / SPILL
    if spill.is_dir():
        for path in spill.iterdir():
            path.unlink(missing_ok=True)
        spill.rmdir()


def write_about(folder: Path, about: About) -> None:
    """Make the table finished: durable, all or nothing."""
    part = folder / (ABOUT + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(about.encode())
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / ABOUT)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
