"""Sorts what a pass over the customers found, out of core, in DuckDB. Runs in the child process only.

What it does to a DuckDB file under a memory cap, in this order:
`add` every entry in reading order; `find_candidates`, the records whose id or e-mail shares a 64-bit hash with
another's; `page` them and take the `keys` that were read again at their places; `conclude`: which records are
duplicates, and the roster of all owners, each a plain file that is read without DuckDB.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import duckdb

from streammig.owners import layout
from streammig.owners.layout import About, Hashing, clear
from streammig.owners.wire import Entry
from streammig.records import Place

# Rows to a CSV file. DuckDB's Python takes rows at 3 ms (executemany), 10 us (unnested lists) or 3.7 us (CSV, its
# making included) without numpy or pyarrow, which weigh more than DuckDB itself.
ROWS = 122_880
FETCH = 8_192
PAGE = 20_000  # candidates whose keys are asked for at once, at most 5 MB of them

_TABLES = {
    # `reason` is 0 for a record, else the number of the reason why there is none.
    "entry": "number UBIGINT, source UINTEGER, place UBIGINT, unit UINTEGER, ordinal UBIGINT, id UBIGINT, "
    "twin UBIGINT, reason UTINYINT",
    # The candidates, `id` and `twin` as digests of their real keys.
    "real": "number UBIGINT, source UINTEGER, place UBIGINT, unit UINTEGER, ordinal UBIGINT, hash UBIGINT, "
    "id UHUGEINT, twin UHUGEINT",
    # Duplicates: the owner's hash, and minus what `_said` has it as.
    "dropped": "id UBIGINT, said BIGINT",
}


class Changed(Exception):
    """The export does not hold the keys any more that it held during the pass."""


class Gathering:
    """One pass, from its first entry to its two files. `first_wins` False: duplicates are not looked for."""

    def __init__(self, folder: Path, key: bytes, bits: int, memory_bytes: int, threads: int, first_wins: bool) -> None:
        layout.make_folder(folder)
        clear(folder)
        layout.make_folder(folder / layout.SPILL)
        self._folder, self._hashing, self._first_wins = folder, Hashing(key, bits), first_wins
        self._db = duckdb.connect(
            str(folder / layout.GATHERED),
            config={
                "memory_limit": f"{memory_bytes // 1024}KiB", "threads": threads,
                "temp_directory": str(folder / layout.SPILL), "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )  # fmt: skip
        for name, columns in _TABLES.items():
            self._db.execute(f"CREATE TABLE {name} ({columns})")
        self._reasons = {reason: number for number, reason in enumerate(layout.CODES)}
        self._lines: dict[str, list[str]] = {name: [] for name in _TABLES}
        self._entries = 0
        self._found = self._given = 0  # candidates, and those of them whose places were given out
        self._asked: deque[tuple[int, ...]] = deque()  # those that have no keys yet

    # -- the pass ----------------------------------------------------------------------------------------------------

    def add(self, entries: Sequence[Entry]) -> None:
        """The next entries in reading order."""
        sources, offsets, units, ordinals, owners, twins, reasons = zip(*entries, strict=True)
        ids = self._hashing.short(owners)
        hashes = iter(self._hashing.short(filter(None, twins)))
        numbers = range(self._entries, self._entries + len(entries))
        self._entries += len(entries)
        folded = [next(hashes) if twin else "" for twin in twins]
        codes = [self._code(reason) if reason else 0 for reason in reasons]
        rows = zip(numbers, sources, offsets, units, ordinals, ids, folded, codes, strict=True)
        self._take("entry", map("%d,%d,%d,%d,%d,%d,%s,%d\n".__mod__, rows))

    def _code(self, reason: str) -> int:
        if reason not in self._reasons and len(self._reasons) >= layout.MOST_REASONS:
            reason = layout.OTHER
        return self._reasons.setdefault(reason, len(self._reasons))

    def _take(self, table: str, lines: Iterable[str]) -> None:
        waiting = self._lines[table]
        waiting.extend(lines)
        if len(waiting) >= ROWS:
            self._flush(table)

    def _flush(self, table: str) -> None:
        waiting = self._lines[table]
        if not waiting:
            return
        inbox = self._folder / layout.INBOX
        with open(inbox, "w", encoding="ascii") as file:
            file.writelines(waiting)
        waiting.clear()
        columns = "{" + ", ".join(f"'{it.split()[0]}': '{it.split()[1]}'" for it in _TABLES[table].split(", ")) + "}"
        self._db.execute(
            f"INSERT INTO {table} FROM read_csv(?, header = false, auto_detect = false, delim = ',', "
            f"columns = {columns}, max_line_size = 65536, buffer_size = 1048576)",  # not 32 MB
            [str(inbox)],
        )
        inbox.unlink()

    # -- candidates and their real keys ------------------------------------------------------------------------------

    def find_candidates(self) -> int:
        """How many records share the hash of their id or of their e-mail with another record."""
        self._flush("entry")
        if not self._first_wins:
            return 0
        # Statements with one or two sorts or joins each: several at once would share the memory, and fail at last.
        self._db.execute("CREATE TABLE hit (number UBIGINT)")
        for key in ("id", "twin"):
            self._db.execute(
                f"CREATE TABLE twice_{key} AS SELECT {key} FROM entry WHERE reason = 0 AND {key} IS NOT NULL "
                f"GROUP BY {key} HAVING count(*) > 1"
            )
            self._db.execute(
                f"INSERT INTO hit SELECT number FROM entry SEMI JOIN twice_{key} USING ({key}) WHERE reason = 0"
            )
        self._db.execute(
            "CREATE TABLE candidate AS SELECT row_number() OVER () - 1 AS nth, found.* FROM "
            "(SELECT * FROM entry SEMI JOIN hit USING (number) ORDER BY number) found"
        )
        self._found = self._count("candidate")
        return self._found

    def page(self) -> list[Place]:
        """The places of the next candidates, at most PAGE, in reading order; none if there are no more."""
        if self._given == self._found:
            return []
        rows = self._db.execute(
            "SELECT number, source, place, unit, ordinal, id, twin FROM candidate WHERE nth BETWEEN ? AND ? "
            "ORDER BY nth",
            [self._given, self._given + PAGE - 1],
        ).fetchall()
        self._given += len(rows)
        self._asked.extend(rows)
        return [Place(*row[1:5]) for row in rows]

    def keys(self, keys: Sequence[tuple[str, str]]) -> None:
        """The real owner and twin at the next of the places given out, in that order.

        Raises Changed where the hashes of the keys are not what they were in the pass.
        """
        if len(keys) > len(self._asked):
            raise Changed
        ids = self._hashing.short(owner for owner, _ in keys)
        twins = self._hashing.short(twin for _, twin in keys)
        long = self._hashing.long
        rows = []
        for (owner, twin), id_now, twin_now in zip(keys, ids, twins, strict=True):
            *place, id_then, twin_then = self._asked.popleft()
            if (id_then, twin_then) != (id_now, twin_now if twin else None):
                raise Changed
            row = (*place, id_now, long(owner), long(twin) if twin else "")
            rows.append(",".join(map(str, row)) + "\n")
        self._take("real", rows)

    # -- the outcome -------------------------------------------------------------------------------------------------

    def conclude(self, about: About) -> About:
        """Write the two files, durably; what they hold is filled in to `about`. The DuckDB file is deleted.

        Raises Changed if keys of candidates are missing.
        """
        if self._asked or self._given < self._found:
            raise Changed
        self._flush("real")
        duplicates, repeated = self._write(layout.DUPLICATES, self._duplicates())
        self._flush("dropped")
        owners, roster = self._write(layout.ROSTER, self._roster())
        self._db.close()
        clear(self._folder, (layout.GATHERED, layout.WAL, layout.INBOX))
        reasons = tuple(self._reasons)
        return About(about.binding, about.key, owners, duplicates, reasons, roster, repeated)

    def _duplicates(self) -> Iterator[tuple[int, bytes]]:
        """Decide in reading order: a record is a duplicate if an earlier one that is kept has its id or its e-mail."""
        if not self._found:
            return
        before = "real"
        for key in ("id", "twin"):
            self._db.execute(
                f"CREATE TABLE group_{key} AS SELECT row_number() OVER () - 1 AS nth_{key}, same.{key} FROM "
                f"(SELECT {key} FROM real WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1) same"
            )
            self._db.execute(
                f"CREATE TABLE with_{key} AS SELECT {before}.*, nth_{key} FROM {before} LEFT JOIN group_{key} "
                f"ON {before}.{key} = group_{key}.{key}"
            )
            before = f"with_{key}"
        rows = self._sorted(
            f"SELECT number, source, place, unit, ordinal, hash, nth_id, nth_twin FROM {before} "
            "WHERE nth_id IS NOT NULL OR nth_twin IS NOT NULL ORDER BY number"
        )
        with _Firsts(self._folder) as ids, _Firsts(self._folder) as twins:
            for number, source, offset, unit, ordinal, owner, id_group, twin_group in rows:
                place, code = layout.PLACE.pack(source, offset, unit, ordinal), layout.SAME_ID
                first = ids.get(id_group)
                if first is None:
                    first, code = twins.get(twin_group), layout.SAME_TWIN
                if first is None:
                    ids.put(id_group, place)
                    twins.put(twin_group, place)
                else:
                    self._take("dropped", [f"{owner},{-_said(number, code)}\n"])
                    yield 1, layout.pack_duplicate(place, first, code)

    def _roster(self) -> Iterator[tuple[int, bytes]]:
        """Every owner once: present if more records of it were read than dropped, else with what was said first."""
        rows = self._sorted(
            "SELECT id, CASE WHEN reason = 0 THEN 0 ELSE (number + 1) * 256 + reason END::BIGINT AS said FROM entry "
            "UNION ALL SELECT id, said FROM dropped ORDER BY id"
        )
        hashes, codes = array("Q"), bytearray()
        for owner, said in groupby(rows, itemgetter(0)):
            records, least = 0, 1 << 63
            for _, what in said:
                if what > 0:
                    least = min(least, what)
                elif what == 0:
                    records += 1
                else:
                    records, least = records - 1, min(least, -what)
            hashes.append(owner)
            codes.append(layout.PRESENT if records else least % 256)
            if len(hashes) == layout.BLOCK:
                yield layout.BLOCK, layout.pack_block(hashes, codes)
                hashes, codes = array("Q"), bytearray()
        yield len(hashes), layout.pack_block(hashes, codes)

    # -- DuckDB and files --------------------------------------------------------------------------------------------

    def _count(self, table: str) -> int:
        row = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])

    def _sorted(self, query: str) -> Iterator[tuple[int, ...]]:
        """The rows of an ordered query, fetched bit by bit; other statements may run in between."""
        reading = self._db.cursor()
        try:
            reading.execute(query)
            while rows := reading.fetchmany(FETCH):
                yield from rows
        finally:
            reading.close()

    def _write(self, name: str, pieces: Iterable[tuple[int, bytes]]) -> tuple[int, str]:
        """Write a file of counted pieces, durably; returns how many they hold, and its digest in hex."""
        count, digest = 0, hashlib.blake2b(digest_size=16)
        with _create(self._folder / name) as file:
            for held, data in pieces:
                count += held
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return count, digest.hexdigest()


class _Firsts:
    """For each group of records with an equal key the place of the one that is kept, packed, None before there is one.

    In a file without a name, at 24 bytes a group: if all of 100 M customers stood twice, memory would need GBs.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by __exit__

    def get(self, group: int | None) -> bytes | None:
        if group is None:
            return None
        place = os.pread(self._file.fileno(), layout.PLACE.size, group * layout.PLACE.size)
        return place if any(place) else None  # no place is all zeros, for ordinals count from 1

    def put(self, group: int | None, place: bytes) -> None:
        if group is not None:
            os.pwrite(self._file.fileno(), place, group * layout.PLACE.size)

    def __enter__(self) -> _Firsts:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _said(number: int, code: int) -> int:
    """That an entry gives a reason, as a number: what was said first of an owner is the least."""
    return (number + 1) * 256 + code


def _create(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
