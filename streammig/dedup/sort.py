"""Sort the rows of a scan by their keys, out of core: find records that share a key, and write the roster.

The entries of the rows are partitioned by the first bits of their hashes. So each part fits into little memory, and
any process can work on it alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from heapq import merge
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple

from streammig.dedup import compiled
from streammig.dedup.lookup import DUPLICATE
from streammig.dedup.parts import SHARED, Partitions, partition, roster_entries, shared
from streammig.dedup.roster import ENTRIES, KINDS, OWNERS, UNIQUES
from streammig.dedup.scan import OWNER, REASON, ROW, SAME_OWNER, SAME_UNIQUE, SUM
from streammig.disk import own

LOADED = 1 << 14  # rows partitioned at once
PART = 1 << 14  # entries of a part, up to 2**MOST_BITS parts; then parts grow
MOST_BITS = 8
READ = 1 << 13  # bytes read at once from a run


class Stopped(ValueError):
    """The sort was stopped."""


Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function of a module with each of some arguments; gives the results in order."""


class Counts(NamedTuple):
    """The result of a sort: distinct keys of both kinds, duplicates, and the digests of the files."""

    owners: int
    uniques: int
    duplicates: int
    roster_digest: str
    duplicates_digest: str


def here(work: Callable[..., Any], each: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """An `Each` in this process."""
    return (work(*it) for it in each)


class Sorting:
    """One sort of the file `rows` in a folder, which writes the files `roster` and `duplicates` beside it.

    Raises `OSError` for an error of the disk or rows that don't have the `digest`, and `Stopped` once `stopped`.
    """

    def __init__(self, folder: Path, policy: str, digest: str, each: Each, stopped: Callable[[], bool]) -> None:
        self._folder, self._policy, self._digest = folder, policy, digest
        self._each, self._stopped = each, stopped

    def result(self, *, roster: bool) -> Counts:
        """Sort, and write the files. Without `roster` that file is empty."""
        with ExitStack() as stack:
            self._rows = os.open(self._folder / "rows", os.O_RDONLY)
            stack.callback(os.close, self._rows)
            count, rest = divmod(os.fstat(self._rows).st_size, ROW)
            if rest:
                raise OSError(errno.EIO, "the rows are cut")
            self._bits = min((count // PART).bit_length(), MOST_BITS)
            spooled = stack.enter_context(TemporaryFile(dir=self._folder))
            self._spool = _Spool(spooled, 1 << self._bits)
            # Compiled code partitions rows in less time than it takes to send them to another process.
            for made in self._every(partition, self._loads(count), here if compiled.rows is not None else self._each):
                self._spool.add(made)
            of_duplicates, of_roster = hashlib.sha256(), hashlib.sha256()
            size = self._write("duplicates", of_duplicates, self._duplicates())
            sizes = [self._write("roster", of_roster, self._roster(kind) if roster else ()) for kind in KINDS]
            owners, uniques = (size // entry for size, entry in zip(sizes, ENTRIES, strict=True))
            return Counts(owners, uniques, size // DUPLICATE, of_roster.hexdigest(), of_duplicates.hexdigest())

    def _every(
        self, work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], each: Each | None = None
    ) -> Iterator[Any]:
        for it in (each or self._each)(work, arguments):
            if self._stopped():
                raise Stopped
            yield it

    def _loads(self, count: int) -> Iterator[tuple[bytes, range, int]]:
        digest = hashlib.sha256()
        for number in range(0, count, LOADED):
            rows = os.pread(self._rows, min(LOADED, count - number) * ROW, number * ROW)
            digest.update(rows)
            yield rows, range(number, number + len(rows) // ROW), self._bits
        if digest.hexdigest() != self._digest:
            raise OSError(errno.EIO, "the rows read back as something else")

    def _duplicates(self) -> Iterator[bytes]:
        """Give the duplicates, in reading order."""
        if self._policy == "first":
            return self._all_but_first()
        return self._all_of_owners() if self._policy == "all" else iter(())

    def _all_but_first(self) -> Iterator[bytes]:
        """Give each record whose id or e-mail an earlier kept record has."""
        dropped, numbers = list[bytes](), list[int]()
        with closing(_KeptByGroup(self._folder)) as owners, closing(_KeptByGroup(self._folder)) as uniques:
            for number, groups in self._sharing(KINDS):
                owner, unique = groups.get(OWNERS), groups.get(UNIQUES)
                first, why = owners.get(owner), SAME_OWNER
                if first is None:
                    first, why = uniques.get(unique), SAME_UNIQUE
                if first is None:
                    owners.put(owner, number)
                    uniques.put(unique, number)
                    continue
                row = self._row(number)
                dropped.append(row[:REASON] + bytes([why]) + row[SUM:])
                numbers.append(number)
                yield row[:OWNER] + self._row(first)[:OWNER] + bytes([why])
                if len(numbers) >= LOADED:
                    self._spool.add(partition(b"".join(dropped), numbers, self._bits))
                    dropped, numbers = [], []
        self._spool.add(partition(b"".join(dropped), numbers, self._bits))

    def _all_of_owners(self) -> Iterator[bytes]:
        """Give each record whose id another record has, with the first of these."""
        with closing(_KeptByGroup(self._folder)) as owners:
            for number, groups in self._sharing([OWNERS]):
                if (first := owners.get(groups[OWNERS])) is None:
                    owners.put(groups[OWNERS], first := number)
                yield self._row(number)[:OWNER] + self._row(first)[:OWNER] + bytes([SAME_OWNER])

    def _sharing(self, kinds: Iterable[int]) -> Iterator[tuple[int, dict[int, int]]]:
        """Give the row numbers of records that share a key, in reading order, each with its group number by kind."""
        with TemporaryFile(dir=self._folder) as file:
            runs = []
            for kind in kinds:
                groups = 0
                parts = ((kind, data) for data in self._spool.parts(kind))
                for run, count in self._every(shared, parts):
                    if run:
                        runs.append(_Run(file, len(run), kind, groups))
                        file.write(run)
                    groups += count
            file.flush()
            for number, found in groupby(merge(*map(iter, runs)), key=itemgetter(0)):
                yield number, {kind: nth for _, kind, nth in found}

    def _roster(self, kind: int) -> Iterator[bytes]:
        alone = self._policy == "all"
        return self._every(roster_entries, ((kind, data, alone) for data in self._spool.parts(kind)))

    def _row(self, number: int) -> bytes:
        return os.pread(self._rows, ROW, number * ROW)

    def _write(self, name: str, digest: Any, pieces: Iterable[bytes]) -> int:
        """Append pieces to a file in the folder, durably; return their length in bytes."""
        with open(self._folder / name, "ab", opener=own) as file:
            before = file.tell()
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            return file.tell() - before


class _Spool:
    """All entries, in a temporary file, read part by part."""

    def __init__(self, file: BinaryIO, parts: int) -> None:
        self._file, self._parts, self._end = file, parts, 0
        self._begins: list[list[array[int]]] = [[] for _ in KINDS]  # by kind and addition, where each part begins

    def add(self, made: Partitions) -> None:
        for begins, data, lengths in zip(self._begins, made.data, made.lengths, strict=True):
            begins.append(array("Q", accumulate(lengths, initial=self._end)))
            self._end += len(data)
            self._file.write(data)

    def parts(self, kind: int) -> Iterator[bytes]:
        self._file.flush()
        file = self._file.fileno()
        for part in range(self._parts):
            yield b"".join([os.pread(file, it[part + 1] - it[part], it[part]) for it in self._begins[kind]])


class _Run:
    """The records of one part that share a key, about to be written to a file; read in small pieces."""

    def __init__(self, file: BinaryIO, length: int, kind: int, groups: int) -> None:
        """`groups` is the number of groups in earlier parts."""
        self._file, self._begin = file, file.tell()
        self._end, self._kind, self._groups = self._begin + length, kind, groups

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        piece = READ // SHARED.size * SHARED.size
        for at in range(self._begin, self._end, piece):
            data = os.pread(self._file.fileno(), min(piece, self._end - at), at)
            for number, nth in SHARED.iter_unpack(data):
                yield number, self._kind, self._groups + nth


class _KeptByGroup:
    """The row number of the kept record of each group, in a temporary file.

    In memory it would take gigabytes if each of 100 M customers occurred twice.
    """

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
