"""The protocol of a source: the records of one stage."""

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
    earlier iterator is open. Each call opens the files, and closes them when its iterator ends or is closed. The same
    place always yields the same records, but perhaps in other spans.

    Raises `Unusable` before the first span if a file can't be opened or has no such array. Raises `Unusable` and yields
    no more records if a file has changed since this source was made. Raises `BrokenExport` after the last good record
    if a file can't be read on; if `told` is given, calls it instead, and goes on with the next file. Also calls it for
    text after a complete document (`BrokenExport.whole`), which is ignored otherwise. A bad record with a known end is
    a fault in its span, not an error.
    """

    def spans(self, start: Place = START, told: Told | None = None) -> Iterator[Span]:
        """Return spans from the first source record at or after `start`; no span is empty.

        `start.offset` is the first byte of a record, or lies between two records. `start.ordinal` is the ordinal of the
        next record. Files before that of `start` are not opened.
        """
        ...

    @property
    def header(self) -> Collection[str] | None:
        """The names of the fields in the headers of all files; None if a file is no table."""
        return None

    def fingerprints(self) -> Sequence[dict[str, Any]]:
        """Return a fingerprint of each file, in order: JSON-ready, cheap at any size, without content."""
        ...

    def before(self, place: Place) -> str:
        """Return a hash of the bytes before a place in its file; "" if that is not cheap."""
        return ""

    def unchanged(self) -> None:
        """Raise `Unusable` if a file has changed since this source was made."""
        ...
