"""The roster of a finished index: each key once, with its kept row, or the reason why no row is kept."""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from typing import NamedTuple

from streammig.dedup import compiled
from streammig.dedup.scan import HASH
from streammig.dedup.sums import UNKNOWN_SUM, WIDTH

# The file holds the entries of all ids, ascending by hash, then those of all e-mails. An entry is: the hash; the hash
# of the sum (ids only); the number of the key's first kept row, else of the first row with a reason; the reason's
# number.
NUMBER = 5  # bytes of a row's number
KINDS = OWNERS, UNIQUES = range(2)
ENTRIES = HASH + WIDTH + NUMBER + 1, HASH + NUMBER + 1  # bytes of an entry, by kind
IN_BLOCK = 128  # entries; memory holds 8 bytes of each block's first hash, 6 MB for 100 M keys
SLICES = 256
HELD = 8 << 20  # bytes; the pages of a file up to this size stay in memory
MOST_ASKED = 4096  # keys asked before pages are let go, which is 16 MB of pages at most
NOWHERE = 255  # the reason's number of an unknown owner
_OWNER = struct.Struct(f"{HASH}s{WIDTH}s{NUMBER}sB")

Owner = tuple[bytes, bytes, bytes, int]  # hash, sum, number of the row, reason


class Entry(NamedTuple):
    """The entry of a key: number of its row, number of the reason, and hash of the sum, `UNKNOWN_SUM` for an e-mail."""

    number: int
    reason: int
    total: bytes


class Roster:
    """The entries, in a file that never changes; `counts` of ids and of e-mails.

    Raises ValueError if the file has another length, and after `close`.
    """

    def __init__(self, file: int, counts: tuple[int, int]) -> None:
        sizes = [count * entry for count, entry in zip(counts, ENTRIES, strict=True)]
        self._begins = 0, sizes[0], sum(sizes)
        if os.fstat(file).st_size != sum(sizes):
            raise ValueError
        # Mapped: a page that is in memory needs no system call.
        self._data: mmap | None = mmap(file, 0, access=ACCESS_READ) if sum(sizes) else None
        self._heads: dict[int, array[int]] = {}  # by kind, the first hash of each block, made for the first `find`
        self._closed, self._asked = False, 0

    def find(self, kind: int, key: bytes) -> Entry | None:
        """Return the entry of the key with this hash, if there is one."""
        data, at, size = *self._block(kind, key), ENTRIES[kind]
        if at < 0:
            return None
        end = at + size
        number = int.from_bytes(data[end - 1 - NUMBER : end - 1], "big")
        return Entry(number, data[end - 1], data[at + HASH : at + HASH + WIDTH] if kind == OWNERS else UNKNOWN_SUM)

    def reasons(self, owners: bytes) -> bytes:
        """Return a byte for each of these joined hashes of owners: the reason why it is not sent, 0 if it is.

        It is `NOWHERE` for an unknown owner.
        """
        if self._closed:
            raise ValueError
        if compiled.rows is not None and self._data is not None:
            found = compiled.rows.reasons(self._data, self._begins[UNIQUES] // ENTRIES[OWNERS], owners)
            self._count(len(found))
            return found
        why = bytearray()
        for at in range(0, len(owners), HASH):
            data, begin = self._block(OWNERS, owners[at : at + HASH])
            why.append(data[begin + ENTRIES[OWNERS] - 1] if begin >= 0 else NOWHERE)
        return bytes(why)

    def _block(self, kind: int, key: bytes) -> tuple[bytes, int]:
        """Return a block of entries, and the offset of a key's entry in it; below 0 if it has none."""
        if self._closed:
            raise ValueError
        if kind not in self._heads:
            self._heads[kind] = self._first_hashes(kind)
            self._let_go()  # it has looked into every block
        heads = self._heads[kind]
        if self._data is None or not heads:
            return b"", -1
        size, head, last = ENTRIES[kind], int.from_bytes(key[:8], "big"), len(heads) - 1
        # Hashes are spread evenly, so the value of a hash predicts its block.
        block = head * (last + 1) >> 64
        while block and heads[block] >= head:
            block -= 1
        begin = self._begins[kind] + block * IN_BLOCK * size
        while block < last and heads[block + 1] <= head:
            block += 1
        end = min(self._begins[kind] + (block + 1) * IN_BLOCK * size, self._begins[kind + 1])
        data = self._data[begin:end]  # bytes.find is far faster than mmap.find
        self._count(1)
        at = data.find(key)
        while at >= 0 and at % size:  # a match across entries
            at = data.find(key, at + 1)
        return data, at

    def owners(self) -> Iterator[Iterator[Owner]]:
        """Give all owners in 256 slices, by the first byte of their hashes."""
        size, high = ENTRIES[OWNERS], 0
        for first in range(SLICES):
            low, high = high, self._upto(bytes([first]))
            yield _OWNER.iter_unpack(self._data[low * size : high * size] if self._data is not None else b"")
            self._let_go()

    def _count(self, asked: int) -> None:
        self._asked += asked
        if self._asked >= MOST_ASKED:
            self._let_go()

    def _let_go(self) -> None:
        """Drop the file's pages from this process; the system's cache may still have them."""
        self._asked = 0
        if self._data is not None and len(self._data) > HELD:
            self._data.madvise(MADV_DONTNEED)

    def _upto(self, first: bytes) -> int:
        """Count the owners whose hash has a first byte up to this one."""
        size, data = ENTRIES[OWNERS], self._data
        if data is None:
            return 0
        return bisect_right(range(self._begins[1] // size), first, key=lambda at: data[at * size : at * size + 1])

    def _first_hashes(self, kind: int) -> array[int]:
        data, block = self._data, IN_BLOCK * ENTRIES[kind]
        places = range(self._begins[kind], self._begins[kind + 1], block)
        return array("Q", (int.from_bytes(data[at : at + 8], "big") for at in places) if data is not None else ())

    def close(self) -> None:
        """Close the map. May be called twice."""
        self._closed = True
        if self._data is not None:
            self._data.close()
