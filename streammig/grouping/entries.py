"""The entries of the work files, one behind the other: a head of fixed width, the note, the body."""

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

# Place of a row in the export, or of the first row of a record: file, offset, length, number; kind; size of the note
# and of the body; CRC of both. Big-endian, so that the bytes of places sort as the places do.
HEAD = struct.Struct(">IQIQBIII")
SPOT = 12  # bytes of file and offset
BUFFER = 1 << 17  # of each open file: there are many at once


class Form(IntEnum):
    """What a body is: a row of the export, a record that rows were made into, or what is wrong with a row."""

    ROW = 0
    RECORD = 1
    FAULT = 2


class Entry(NamedTuple):
    """One entry. `note` is JSON: the owner of a row, or what is wrong with what is none; else empty."""

    source: int
    offset: int
    length: int
    ordinal: int
    form: Form
    note: bytes
    body: bytes

    @property
    def spot(self) -> tuple[int, int]:
        return self.source, self.offset

    def encoded(self) -> bytes:
        crc = zlib.crc32(self.body, zlib.crc32(self.note))
        return HEAD.pack(*self[:5], len(self.note), len(self.body), crc) + self.note + self.body

    @property
    def size(self) -> int:
        return HEAD.size + len(self.note) + len(self.body)


def entries(file: BinaryIO) -> Iterator[Entry]:
    """The entries of a file from where it stands. Raises `MachineFault` where they are not what was written."""
    while head := file.read(HEAD.size):
        if len(head) < HEAD.size:
            raise damaged(Path(file.name))
        source, offset, length, ordinal, form, note_size, size, crc = HEAD.unpack(head)
        note, body = file.read(note_size), file.read(size)
        if len(body) < size or zlib.crc32(body, zlib.crc32(note)) != crc:
            raise damaged(Path(file.name))
        yield Entry(source, offset, length, ordinal, Form(form), note, body)


def of_file(path: Path) -> Iterator[Entry]:
    """The entries of a whole file."""
    with open(path, "rb", BUFFER, opener=own) as file:
        yield from entries(file)


def merged(runs: Iterable[Path]) -> Iterator[Entry]:
    """The entries of files that are each in the order of the export, in that order."""
    return heapq.merge(*map(of_file, runs), key=lambda it: it.spot)


def damaged(path: Path) -> MachineFault:
    return MachineFault(
        "grouping-damaged",
        f"{path}: the work file of grouped rows is not what was written",
        f"Check the disk, delete the folder {path.parent}, then run the same command: the rows are grouped again.",
    )
