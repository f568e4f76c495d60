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
from pathlib import Path
from typing import BinaryIO

import duckdb

from streammig.owners import layout
from streammig.owners.layout import About, Hashing, clear
from streammig.owners.wire import Entry
from streammig.records import Place

# Rows to a CSV file. DuckDB's Python takes rows at 3 ms (executemany), 10 us (unnested lists) or 3.7 us (CSV, its
# making included) without numpy or pyarrow, which weigh more than DuckDB itself.
ROWS = 122_880
PAGE = 20_000  # candidates whose keys are asked for at once, at most 5 MB of them

_TABLES = {
    # `reason` is 0 for a record, else the number of the reason why there is none.
    "entry": "number UBIGINT, source UINTEGER, place UBIGINT, unit UINTEGER, ordinal UBIGINT, id UBIGINT, "
    "twin UBIGINT, reason UTINYINT",
    "real": "number UBIGINT, id UHUGEINT, twin UHUGEINT",  # the candidates' keys, read again
    # What became of the candidates that share a real key: `code` is 0 for kept, else as in CODES.
    "verdict": "number UBIGINT, id_group UBIGINT, twin_group UBIGINT, code UTINYINT",
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
        self._asked: deque[tuple[int, int, int | None]] = deque()  # number, id, twin of those without keys yet

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
            f"columns = {columns})",
            [str(inbox)],
        )
        inbox.unlink()

    # -- candidates and their real keys ------------------------------------------------------------------------------

    def find_candidates(self) -> int:
        """How many records share the hash of their id or of their e-mail with another record."""
        self._flush("entry")
        if not self._first_wins:
            return 0
        for key in ("id", "twin"):
            self._db.execute(
                f"CREATE TABLE twice_{key} AS SELECT {key} FROM entry WHERE reason = 0 AND {key} IS NOT NULL "
                f"GROUP BY {key} HAVING count(*) > 1"
            )
        self._db.execute(
            "CREATE TABLE candidate AS SELECT row_number() OVER () - 1 AS nth, found.* FROM ("
            "SELECT entry.* FROM entry LEFT JOIN twice_id ON entry.id = twice_id.id "
            "LEFT JOIN twice_twin ON entry.twin = twice_twin.twin "
            "WHERE reason = 0 AND (twice_id.id IS NOT NULL OR twice_twin.twin IS NOT NULL) ORDER BY number) found"
        )
        self._found = self._count("candidate")
        return self._found

    def page(self) -> list[Place]:
        """The places of the next candidates, at most PAGE, in reading order; none if there are no more."""
        if self._given == self._found:
            return []
        rows = self._db.execute(
            "SELECT number, id, twin, source, place, unit, ordinal FROM candidate WHERE nth BETWEEN ? AND ? "
            "ORDER BY nth",
            [self._given, self._given + PAGE - 1],
        ).fetchall()
        self._given += len(rows)
        self._asked.extend(row[:3] for row in rows)
        return [Place(*row[3:]) for row in rows]

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
            number, id_then, twin_then = self._asked.popleft()
            if (id_then, twin_then) != (id_now, twin_now if twin else None):
                raise Changed
            rows.append(f"{number},{long(owner)},{long(twin) if twin else ''}\n")
        self._take("real", rows)

    # -- the outcome -------------------------------------------------------------------------------------------------

    def conclude(self, about: About) -> About:
        """Write the two files, durably; what they hold is filled in to `about`. The DuckDB file is deleted.

        Raises Changed if keys of candidates are missing.
        """
        if self._asked or self._given < self._found:
            raise Changed
        self._flush("real")
        if self._first_wins:
            self._judge()
        duplicates, repeated = self._write(layout.DUPLICATES, self._duplicates())
        owners, roster = self._write(layout.ROSTER, self._roster())
        self._db.close()
        clear(self._folder, (layout.GATHERED, layout.WAL, layout.INBOX))
        reasons = tuple(self._reasons)
        return About(about.binding, about.key, owners, duplicates, reasons, roster, repeated)

    def _judge(self) -> None:
        """Decide in reading order: a record is a duplicate if an earlier one that is kept has its id or its e-mail.

        Which keys are taken is one bit a group of equal keys, so 100 M records that all stand twice need 12 MB.
        """
        for key in ("id", "twin"):
            self._db.execute(
                f"CREATE TABLE group_{key} AS SELECT row_number() OVER () - 1 AS nth, same.{key} FROM (SELECT {key} "
                f"FROM real WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1) same"
            )
        taken_ids, taken_twins = (_Bits(self._count(f"group_{key}")) for key in ("id", "twin"))
        found = self._sorted(
            "SELECT number, group_id.nth AS id, group_twin.nth AS twin FROM real "
            "LEFT JOIN group_id ON real.id = group_id.id LEFT JOIN group_twin ON real.twin = group_twin.twin "
            "WHERE group_id.nth IS NOT NULL OR group_twin.nth IS NOT NULL ORDER BY number"
        )
        for rows in found:
            lines = []
            for number, id_group, twin_group in rows:
                code = layout.SAME_ID if id_group in taken_ids else layout.SAME_TWIN if twin_group in taken_twins else 0
                if not code:
                    taken_ids.add(id_group)
                    taken_twins.add(twin_group)
                lines.append(f"{number},{_blank(id_group)},{_blank(twin_group)},{code}\n")
            self._take("verdict", lines)
        self._flush("verdict")

    def _duplicates(self) -> Iterator[tuple[int, bytes]]:
        if not self._first_wins:
            return
        halves = " UNION ALL ".join(
            f"SELECT late.number, late.code, kept.number AS first FROM verdict late JOIN verdict kept "
            f"ON late.{group} = kept.{group} WHERE late.code = {code} AND kept.code = 0"
            for code, group in ((layout.SAME_ID, "id_group"), (layout.SAME_TWIN, "twin_group"))
        )
        found = self._sorted(
            "SELECT late.source, late.place, late.unit, late.ordinal, "
            "kept.source AS source_, kept.place AS place_, kept.unit AS unit_, kept.ordinal AS ordinal_, code "
            f"FROM ({halves}) pair JOIN candidate late ON pair.number = late.number "
            "JOIN candidate kept ON pair.first = kept.number ORDER BY pair.number"
        )
        for rows in found:
            yield len(rows), b"".join(layout.pack_duplicate(Place(*row[:4]), Place(*row[4:8]), row[8]) for row in rows)

    def _roster(self) -> Iterator[tuple[int, bytes]]:
        # Of all that is said of an owner, that it stands in a kept record wins (0), else what was said first.
        found = self._sorted(
            "SELECT id, min(CASE WHEN reason + coalesce(code, 0) = 0 THEN 0 "
            "ELSE (entry.number + 1) * 256 + reason + coalesce(code, 0) END) % 256 AS code "
            "FROM entry LEFT JOIN verdict ON entry.number = verdict.number AND verdict.code > 0 "
            "GROUP BY id ORDER BY id"
        )
        for rows in found:
            for at in range(0, len(rows), layout.BLOCK):
                hashes, codes = zip(*rows[at : at + layout.BLOCK], strict=True)
                yield len(hashes), layout.pack_block(array("Q", hashes), bytes(codes))

    # -- DuckDB and files --------------------------------------------------------------------------------------------

    def _count(self, table: str) -> int:
        row = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])

    def _sorted(self, query: str) -> Iterator[list[tuple[int, ...]]]:
        """The rows of an ordered query, whole blocks of them at a time; other statements may run in between."""
        reading = self._db.cursor()
        try:
            reading.execute(query)
            while rows := reading.fetchmany(64 * layout.BLOCK):
                yield rows
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


class _Bits:
    """A set of numbers below a bound, one bit each; None is never in it."""

    def __init__(self, bound: int) -> None:
        self._bytes = bytearray((bound + 7) // 8)

    def add(self, number: int | None) -> None:
        if number is not None:
            self._bytes[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int | None) -> bool:
        return number is not None and bool(self._bytes[number >> 3] & 1 << (number & 7))


def _blank(number: int | None) -> str:
    return "" if number is None else str(number)


def _create(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
