"""The child process that sorts the rows of a scan, out of core, in DuckDB: a request in, two files out, a result.

The request is one line of JSON on stdin, the result one on stdout; the exit status is 0 where the files are whole. The
child ends as soon as stdin does, also within a statement, so it never outlives the process that started it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import duckdb
import msgspec

from streammig.dedup.build import Request, Sorted, fault
from streammig.dedup.lookup import DUPLICATE, ENTRY, NUMBER
from streammig.dedup.scan import NONE, OWNER, REASON, ROW, SAME_OWNER, SAME_UNIQUE, SUM, UNIQUE

LOADED = 122_880  # rows to a statement: a row group of DuckDB, which it writes to its file at once
FETCHED = 8_192
MADE = "CREATE TABLE entry (number UBIGINT, owner BLOB, other BLOB, reason UTINYINT)"
# A line is a row in hex. Rows come without numpy or pyarrow, which weigh more than DuckDB itself, and 5 times faster
# than values would. DuckDB keeps 12 bytes of a BLOB in place, which is the length of a hash.
LOAD = f"""
INSERT INTO entry
SELECT $first + row_number() OVER () - 1, unhex(line[{2 * OWNER + 1}:{2 * UNIQUE}]),
    nullif(unhex(line[{2 * UNIQUE + 1}:{2 * REASON}]), unhex('{NONE.hex()}')),
    ('0x' || line[{2 * REASON + 1}:{2 * SUM}])::UTINYINT
FROM read_csv($path, header = false, auto_detect = false, delim = ',', columns = {{'line': 'VARCHAR'}},
    max_line_size = 65536, buffer_size = 1048576)
"""
# Records whose id or e-mail occurs more than once, in reading order, with the numbers of their groups. Each statement
# has one sort or join: several would share the memory, and fail.
SHARING = """
CREATE TABLE owner_group AS SELECT owner, row_number() OVER () - 1 AS nth FROM
    (SELECT owner FROM entry WHERE reason = 0 GROUP BY owner HAVING count(*) > 1);
CREATE TABLE other_group AS SELECT other, row_number() OVER () - 1 AS nth FROM
    (SELECT other FROM entry WHERE reason = 0 AND other IS NOT NULL GROUP BY other HAVING count(*) > 1);
CREATE TABLE owner_shared AS SELECT number, nth FROM entry JOIN owner_group USING (owner) WHERE reason = 0;
CREATE TABLE other_shared AS SELECT number, nth FROM entry JOIN other_group USING (other) WHERE reason = 0;
SELECT number, owner_shared.nth, other_shared.nth FROM owner_shared FULL JOIN other_shared USING (number)
    ORDER BY number
"""
# A record that is a duplicate has a second entry, with the reason.
DROP = f"""
INSERT INTO entry SELECT number, unhex(owner), nullif(unhex(other), unhex('{NONE.hex()}')), reason
FROM read_csv($path, header = false, auto_detect = false, delim = ',', buffer_size = 1048576,
    columns = {{'number': 'UBIGINT', 'owner': 'VARCHAR', 'other': 'VARCHAR', 'reason': 'UTINYINT'}})
"""
ENTRIES = "SELECT {0}, number, reason FROM entry WHERE {0} IS NOT NULL ORDER BY {0}, number, reason DESC"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    os.umask(0o077)
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)

    def watch() -> None:
        sys.stdin.buffer.read()
        if request.elsewhere:
            shutil.rmtree(request.elsewhere, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    result = run(request)
    sys.stdout.buffer.write(msgspec.json.encode(result))
    sys.stdout.buffer.flush()
    os._exit(0 if not result.fault else 1)  # the interpreter's own end would wait for the thread


def run(request: Request) -> Sorted:
    """The result, or why there is none: never a value, never a query."""
    try:
        with closing(Sorting(request)) as sorting:
            return sorting.result()
    except (duckdb.Error, OSError) as error:
        found = fault(Path(request.folder), error)
        if isinstance(error, duckdb.OutOfMemoryException) and found[0] != "disk-full":
            what = f"the dedup index can't be built within {request.memory_bytes >> 20} MB of memory"
            found = "dedup-memory", what, "Report this: no export should need more. The run can be resumed."
        return Sorted(fault=found)


class Sorting:
    """One build: the rows of a scan in, roster and duplicates out, in the folder of the request."""

    def __init__(self, request: Request) -> None:
        self._request, self._folder = request, Path(request.folder)
        self._work = Path(request.elsewhere or request.folder)
        spill = self._work / "spill"
        spill.mkdir(mode=0o700)
        self._rows = os.open(self._folder / "rows", os.O_RDONLY)
        self._db = duckdb.connect(
            str(self._work / "sorting.duckdb"),
            config={
                "memory_limit": f"{request.memory_bytes // 1024}KiB", "threads": 1,
                "temp_directory": str(spill), "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )  # fmt: skip

    def result(self) -> Sorted:
        self._db.execute(MADE)
        digest = hashlib.sha256()
        for number in range(0, os.fstat(self._rows).st_size // ROW + 1, LOADED):
            rows = os.pread(self._rows, LOADED * ROW, number * ROW)
            digest.update(rows)
            self._insert(LOAD, rows.hex("\n", ROW), first=number)
        if digest.hexdigest() != self._request.rows:
            raise OSError(errno.EIO, "the rows read back as something else")
        repeated, roster = hashlib.sha256(), hashlib.sha256()
        ways: dict[str, Callable[[], Iterable[bytes]]] = {"first": self._duplicates, "all": self._shared}
        found = ways.get(self._request.policy, tuple)()
        duplicates = self._write("duplicates", repeated, found) // DUPLICATE
        owners, others = (self._write("roster", roster, self._roster(key)) // ENTRY for key in ("owner", "other"))
        return Sorted(owners, others, duplicates, roster.hexdigest(), repeated.hexdigest())

    def _insert(self, statement: str, lines: str, **more: int) -> None:
        inbox = self._work / "inbox"
        inbox.write_text(lines)
        self._db.execute(statement, {"path": str(inbox), **more})
        inbox.unlink()

    def _duplicates(self) -> Iterator[bytes]:
        """Decide in reading order: a record is a duplicate if an earlier one that is kept has its id or its e-mail."""
        dropped: list[str] = []
        with closing(Firsts(self._folder)) as owners, closing(Firsts(self._folder)) as others:
            for number, owner, other in chain.from_iterable(self._fetched(SHARING)):
                first, why = owners.get(owner), SAME_OWNER
                if first is None:
                    first, why = others.get(other), SAME_UNIQUE
                if first is None:
                    owners.put(owner, number)
                    others.put(other, number)
                    continue
                row = self._row(number)
                dropped.append(f"{number},{row[OWNER:UNIQUE].hex()},{row[UNIQUE:REASON].hex()},{why}\n")
                yield row[:OWNER] + self._row(first)[:OWNER] + bytes([why])
                if len(dropped) >= LOADED:
                    self._insert(DROP, "".join(dropped))
                    dropped.clear()
        self._insert(DROP, "".join(dropped))

    def _shared(self) -> Iterator[bytes]:
        """In reading order: every record whose id another one has, with the first of these."""
        with closing(Firsts(self._folder)) as owners:
            for number, owner, _ in chain.from_iterable(self._fetched(SHARING)):
                if (first := owners.get(owner)) is None:
                    owners.put(owner, first := number)
                yield self._row(number)[:OWNER] + self._row(first)[:OWNER] + bytes([SAME_OWNER])

    def _roster(self, column: str) -> Iterator[bytes]:
        """Every key once, ascending: with its first row that is kept, else with the first reason why none is.

        An e-mail of which no record is kept has no entry.
        """
        last, entry, kept, dropped = b"", b"", False, -1
        for rows in self._fetched(ENTRIES.format(column)):
            entries = []
            for key, number, reason in rows:
                if key != last:
                    entries.append(entry)
                    last, entry, kept, dropped = key, b"", False, -1
                if reason:
                    dropped = number
                    if not entry and column == "owner":
                        entry = key + number.to_bytes(NUMBER, "big") + bytes([reason])
                elif not kept and number != dropped:
                    entry, kept = key + number.to_bytes(NUMBER, "big") + b"\0", True
            yield b"".join(entries)
        yield entry

    def _row(self, number: int) -> bytes:
        return os.pread(self._rows, ROW, number * ROW)

    def _fetched(self, query: str) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of an ordered query, some at a time; other statements may run in between."""
        with self._db.cursor() as reading:
            reading.execute(query)
            while rows := reading.fetchmany(FETCHED):
                yield rows

    def _write(self, name: str, digest: Any, pieces: Iterable[bytes]) -> int:
        """Append pieces to a file, durably; returns how many bytes."""
        with open(self._folder / name, "ab") as file:
            before = file.tell()
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            return file.tell() - before

    def close(self) -> None:
        self._db.close()
        os.close(self._rows)


class Firsts:
    """For each group of records with an equal key the number of the one that is kept; in a file without a name, for
    memory would need gigabytes if all of 100 M customers occurred twice."""

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - until `close`

    def get(self, group: int | None) -> int | None:
        found = int.from_bytes(os.pread(self._file.fileno(), 8, group * 8), "big") if group is not None else 0
        return found - 1 if found else None

    def put(self, group: int | None, number: int) -> None:
        if group is not None:
            os.pwrite(self._file.fileno(), (number + 1).to_bytes(8, "big"), group * 8)

    def close(self) -> None:
        self._file.close()
