"""What an export is to those who read it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from streammig.errors import BrokenExport
from streammig.model import START, Place, Span

Told = Callable[[BrokenExport], None]


class Break(msgspec.Struct, frozen=True):
    """A `BrokenExport` as it is kept in a file."""

    file: str
    offset: int
    why: str
    whole: bool

    @classmethod
    def of(cls, broken: BrokenExport) -> Break:
        return cls(broken.path, broken.offset, broken.why, broken.whole)


class Source(Protocol):
    """The records of one stage, in a stable order, from any place on.

    Synchronous: it is read in a thread or another process. `spans` may be called any number of times, also while an
    earlier iterator is open; each call opens the files and closes them when its iterator is closed or ends. The same
    place always yields the same records, however they are cut into spans.

    Raises `Unusable` before the first span if a file can't be opened or has no such array, and `BrokenExport` behind
    the last good record where a file can't be read on; with `told` that is told to it, and the next file goes on. It is
    also told what stands behind a whole document (`BrokenExport.whole`), which else is passed over. A record that is no
    record but whose end is known is one of the span's faults, not an error. Raises `Unusable` too, and hands out no
    record more, once a file is not what it was when this source was made.
    """

    def spans(self, start: Place = START, told: Told | None = None) -> Iterator[Span]:
        """Spans beginning with the source record that `start` lies in or before; no span is empty.

        `start.offset` is either the offset of a record's first byte or lies between the end of one record and the
        beginning of the next. `start.ordinal` is the ordinal of the next record to be yielded. A place in a later file
        passes over the earlier ones without opening them.
        """
        ...

    @property
    def header(self) -> Collection[str] | None:
        """The names of the fields in the headers of all files; None where a file is no table."""
        return None

    def fingerprints(self) -> Sequence[dict[str, Any]]:
        """For each file, in order, what binds a checkpoint to it: JSON-ready, cheap at any size, no content."""
        ...

    def before(self, place: Place) -> str:
        """A hash of what stands before a place in its file, "" where that can't be told cheaply."""
        return ""

    def unchanged(self) -> None:
        """Raise `Unusable` unless every file is still what it was when this source was made."""
        ...
