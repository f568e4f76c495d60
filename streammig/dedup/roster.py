"""The roster of a finished index: each key once, with the row that is kept of it, or the reason why none is."""

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

# Ascending by their hashes stand all ids, and behind them all e-mails. An entry is the hash, what the owner's record
# adds up to (of ids alone), the number of the key's first row that is kept (or of the row with the reason why none is),
# and that reason's number.
NUMBER = 5
KINDS = OWNERS, UNIQUES = range(2)
ENTRIES = HASH + WIDTH + NUMBER + 1, HASH + NUMBER + 1
IN_BLOCK = 128  # entries; 8 bytes of a block's first hash stay in memory, so 6 MB for 100 M keys
SLICES = 256
HELD = 8 << 20  # bytes of the file that may stay in memory
MOST_ASKED = 4096  # keys, which is 16 MB of pages at most
NOWHERE = 255  # no reason has this number
_OWNER = struct.Struct(f"{HASH}s{WIDTH}s{NUMBER}sB")

Owner = tuple[bytes, bytes, bytes, int]  # hash, sum, number of the row, reason


class Entry(NamedTuple):
    """What the roster has of a key."""

    number: int
    reason: int
    total: bytes  # unknown of an e-mail


class Roster:
    """The entries, in a file that never changes. Raises ValueError where it is shorter than `counts` of ids and e-mails
    take, and once it is closed."""

    def __init__(self, file: int, counts: tuple[int, int]) -> None:
        sizes = [count * entry for count, entry in zip(counts, ENTRIES, strict=True)]
        self._begins = 0, sizes[0], sum(sizes)
        if os.fstat(file).st_size != sum(sizes):
            raise ValueError
        # Mapped, for a look at a page that is in memory is no call to the system.
        self._data: mmap | None = mmap(file, 0, access=ACCESS_READ) if sum(sizes) else None
        self._heads: dict[int, array[int]] = {}  # of the kinds that were asked for one by one
        self._closed, self._asked = False, 0

    def find(self, kind: int, key: bytes) -> Entry | None:
        """What is known of a key with this hash."""
        data, at, size = *self._block(kind, key), ENTRIES[kind]
        if at < 0:
            return None
        end = at + size
        number = int.from_bytes(data[end - 1 - NUMBER : end - 1], "big")
        return Entry(number, data[end - 1], data[at + HASH : at + HASH + WIDTH] if kind == OWNERS else UNKNOWN_SUM)

    def reasons(self, owners: bytes) -> bytes:
        """For each of the owners with these hashes the number of the reason why it is not sent, 0 if it is; `NOWHERE`
        of an unknown one."""
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
        """Some entries, and where that of a key stands among them; below 0 if it is not there."""
        if self._closed:
            raise ValueError
        if kind not in self._heads:
            self._heads[kind] = self._first_hashes(kind)
            self._let_go()  # it has looked into every block
        heads = self._heads[kind]
        if self._data is None or not heads:
            return b"", -1
        size, head, last = ENTRIES[kind], int.from_bytes(key[:8], "big"), len(heads) - 1
        # Hashes lie evenly, so a key is near to where its share of all has it.
        block = head * (last + 1) >> 64
        while block and heads[block] >= head:
            block -= 1
        begin = self._begins[kind] + block * IN_BLOCK * size
        while block < last and heads[block + 1] <= head:
            block += 1
        end = min(self._begins[kind] + (block + 1) * IN_BLOCK * size, self._begins[kind + 1])
        data = self._data[begin:end]  # a map's own search is far slower than that of bytes
        self._count(1)
        at = data.find(key)
        while at >= 0 and at % size:  # within other entries
            at = data.find(key, at + 1)
        return data, at

    def owners(self) -> Iterator[Iterator[Owner]]:
        """All owners, in as many slices as a byte has values: by the first one of their hashes."""
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
        """Hold none of the file in memory: what is asked for again comes from the system's cache."""
        self._asked = 0
        if self._data is not None and len(self._data) > HELD:
            self._data.madvise(MADV_DONTNEED)

    def _upto(self, first: bytes) -> int:
        """How many owners have a hash whose first byte is not higher."""
        size, data = ENTRIES[OWNERS], self._data
        if data is None:
            return 0
        return bisect_right(range(self._begins[1] // size), first, key=lambda at: data[at * size : at * size + 1])

    def _first_hashes(self, kind: int) -> array[int]:
        data, block = self._data, IN_BLOCK * ENTRIES[kind]
        places = range(self._begins[kind], self._begins[kind + 1], block)
        return array("Q", (int.from_bytes(data[at : at + 8], "big") for at in places) if data is not None else ())

    def close(self) -> None:
        """May be called twice."""
        self._closed = True
        if self._data is not None:
            self._data.close()
