"""The steps of a sort: partition rows into entries, and work on the entries of one part. Pure, for any process."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from streammig.dedup import compiled
from streammig.dedup.roster import ENTRIES, KINDS, NUMBER, OWNERS
from streammig.dedup.scan import HASH, NONE, OWNER
from streammig.dedup.sums import UNKNOWN_SUM, WIDTH

SHARED = struct.Struct(">QI")  # a record that shares a key: number of its row, number of the group within the part
_ROW = struct.Struct(f"{OWNER}x{HASH}s{HASH}sc{WIDTH}s")


class Partitions(NamedTuple):
    """The entries of some rows. For each kind of key: all parts joined, and the length of each part in bytes."""

    data: tuple[bytes, ...]
    lengths: tuple[list[int], ...]


def partition(rows: bytes, numbers: Iterable[int], bits: int) -> Partitions:
    """Make entries from rows with these numbers, partitioned by the first bits of their hashes."""
    if compiled.rows is not None:
        return Partitions(*compiled.rows.parted(rows, list(numbers), bits))
    shift, count = 8 - bits, 1 << bits
    owners, uniques = ([list[bytes]() for _ in range(count)] for _ in KINDS)
    for number, (owner, unique, reason, total) in zip(numbers, _ROW.iter_unpack(rows), strict=True):
        row = number.to_bytes(NUMBER, "big") + reason
        owners[owner[0] >> shift].append(owner + total + row)
        if unique != NONE:
            uniques[unique[0] >> shift].append(unique + row)
    joined = [[b"".join(part) for part in kind] for kind in (owners, uniques)]
    return Partitions(tuple(map(b"".join, joined)), tuple(list(map(len, kind)) for kind in joined))


def shared(kind: int, data: bytes) -> tuple[bytes, int]:
    """Find the records of a part that share a key. Return them as `SHARED`, in row order, and the number of groups."""
    size = ENTRIES[kind]
    hashes, groups = _cut(data, size, 0, HASH), dict[bytes, list[int]]()
    if not (several := _repeated(hashes)):
        return b"", 0
    for at, key in enumerate(hashes):
        end = (at + 1) * size
        if key in several and not data[end - 1]:
            groups.setdefault(key, []).append(int.from_bytes(data[end - 1 - NUMBER : end - 1], "big"))
    sharing = [numbers for numbers in groups.values() if len(numbers) > 1]
    found = sorted((number, nth) for nth, numbers in enumerate(sharing) for number in numbers)
    return b"".join([SHARED.pack(*it) for it in found]), len(sharing)


def roster_entries(kind: int, data: bytes, alone: bool) -> bytes:
    """Return one entry for each key of a part, ascending: with its first kept row, else with the first reason why not.

    In `data`, a dropped record has a second entry, with the reason. An e-mail without a kept record gets no entry. With
    `alone`, an owner of several records gets an unknown sum.
    """
    entries = _cut(data, ENTRIES[kind], 0, ENTRIES[kind])
    hashes = _cut(data, ENTRIES[kind], 0, HASH)
    if several := _repeated(hashes):
        single, groups = list[bytes](), dict[bytes, list[bytes]]()
        for key, entry in zip(hashes, entries, strict=True):
            if key in several:
                groups.setdefault(key, []).append(entry)
            else:
                single.append(entry)
        entries = single + [entry for group in groups.values() for entry in _entry_of_group(kind, group, alone)]
    entries.sort()
    return b"".join(entries)


def _entry_of_group(kind: int, group: Iterable[bytes], alone: bool) -> list[bytes]:
    """Choose the entry of a key that has several; none for an e-mail without a kept record."""
    ordered = sorted(group, key=lambda it: it[-1 - NUMBER :])
    reasons = {entry[-1 - NUMBER : -1]: entry for entry in ordered if entry[-1]}
    kept = [entry for entry in ordered if not entry[-1] and entry[-1 - NUMBER : -1] not in reasons]
    if not kept:
        return list(islice(reasons.values(), 1)) if kind == OWNERS else []
    first = kept[0]
    if alone and len(kept) > 1 and kind == OWNERS:
        first = first[:HASH] + UNKNOWN_SUM + first[HASH + WIDTH :]
    return [first]


def _repeated(hashes: list[bytes]) -> set[bytes]:
    """Return the hashes that occur several times. Mostly there are none, which a set finds faster than a count."""
    if len(set(hashes)) == len(hashes):
        return set()
    return {key for key, times in Counter(hashes).items() if times > 1}


def _cut(data: bytes, size: int, begin: int, end: int) -> list[bytes]:
    """Cut `begin` to `end` out of each entry of `size` bytes."""
    return [it for (it,) in struct.iter_unpack(f"{begin}x{end - begin}s{size - end}x", data)]
