"""The entries of the work files: a head of fixed width, the note, the body."""

from __future__ import annotations

import heapq
import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

from streammig.disk import own
from streammig.errors import MachineFault

# File, offset, length and ordinal of a row in the export, or of a record's first row; form; bytes of the note and of
# the body; CRC of both.
HEAD = struct.Struct(">IQIQBIII")
BUFFER = 1 << 17  # bytes for each open file; there are many at once


class Form(IntEnum):
    """The kind of an entry: a row of the export, a record made of rows, or a fault."""

    ROW = 0
    RECORD = 1
    FAULT = 2


class Entry(NamedTuple):
    """One entry. `note` is JSON: the owner of a row, the fault (as in `Span.faults`), or empty for a record."""

    source: int
    offset: int
    length: int
    ordinal: int
    form: Form
    note: bytes
    body: bytes

    @property
    def key(self) -> tuple[int, int]:
        """The key by which entries sort into reading order."""
        return self.source, self.offset

    def encoded(self) -> bytes:
        crc = zlib.crc32(self.body, zlib.crc32(self.note))
        return HEAD.pack(*self[:5], len(self.note), len(self.body), crc) + self.note + self.body

    @property
    def size(self) -> int:
        return HEAD.size + len(self.note) + len(self.body)


def entries(file: BinaryIO) -> Iterator[Entry]:
    """Read entries from the current position of a file. Raises `MachineFault` if the file is damaged."""
    while head := file.read(HEAD.size):
        if len(head) < HEAD.size:
            raise damaged(Path(file.name))
        source, offset, length, ordinal, form, note_size, size, crc = HEAD.unpack(head)
        note, body = file.read(note_size), file.read(size)
        if len(body) < size or zlib.crc32(body, zlib.crc32(note)) != crc:
            raise damaged(Path(file.name))
        yield Entry(source, offset, length, ordinal, Form(form), note, body)


def of_file(path: Path) -> Iterator[Entry]:
    """Read the entries of a whole file."""
    with open(path, "rb", BUFFER, opener=own) as file:
        yield from entries(file)


def merged(runs: Iterable[Path]) -> Iterator[Entry]:
    """Merge the entries of files that are each in reading order."""
    return heapq.merge(*map(of_file, runs), key=lambda it: it.key)


def damaged(path: Path) -> MachineFault:
    return MachineFault(
        "grouping-damaged",
        f"{path}: the work file of grouped rows is damaged",
        f"Check the disk, delete the folder {path.parent}, then run the same command: the rows are grouped again.",
    )
