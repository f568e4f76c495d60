"""The findings of a scan, kept beside the checkpoint until the stage is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from streammig.disk import read_own, whole_file
from streammig.model import Place, Position
from streammig.sources.source import Break


class Spot(msgspec.Struct, frozen=True):
    """The place of a record, for people."""

    file: str
    ordinal: int
    offset: int
    what: str = "record"

    @classmethod
    def of(cls, at: Position | Place, marks: Sequence[Mapping[str, Any]]) -> Spot:
        """Make the spot of a place in files with these fingerprints. In a table it is a line."""
        mark = marks[at.source]
        return cls(mark["file"], at.ordinal, at.offset, "line" if mark["format"] == "csv" else "record")

    def __str__(self) -> str:
        return f"{self.what} {self.ordinal:,} of {self.file}, byte {self.offset:,}"


class Found(msgspec.Struct, frozen=True):
    """The findings of one stage: places, counts, codes, and values such as "yes". They hold no personal data.

    `marks` are fields that may mark deleted customers, as (field, value, count); `marked` is the first such record.
    If every record of the stage is refused, `refused` counts their codes, `bad` is the first, `example` its message.
    """

    records: int = 0
    breaks: tuple[Break, ...] = ()
    marks: tuple[tuple[str, str, int], ...] = ()
    marked: Spot | None = None
    refused: Mapping[str, int] = {}
    bad: Spot | None = None
    example: str = ""


class _Kept(msgspec.Struct, frozen=True):
    binding: str
    found: Found


def load(path: Path, binding: str) -> Found | None:
    """Load findings; None if the file is missing, damaged or bound to another export."""
    try:
        read = msgspec.json.decode(read_own(path), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return None
    return read.found if read.binding == binding else None


def save(path: Path, binding: str, found: Found) -> None:
    """Save findings in an owner-only file, whole or not at all. Raises `OSError`."""
    with whole_file(path) as part:
        part.write_bytes(msgspec.json.encode(_Kept(binding, found)))
