"""The window of a stream that is being framed, and the collection of its records into a span."""

from __future__ import annotations

import codecs

from streammig.errors import AFTER_A_BREAK, BrokenExport
from streammig.model import Span
from streammig.sources.open import Stream
from streammig.sources.valid import Fault

# Sizes of a span, for the processor's cache: up to 1,000 records and 64 to 192 KiB, or one larger record.
SPAN_RECORDS, MOST_RECORDS = 256, 1000
SPAN_BYTES, MOST_SPAN_BYTES = 64 * 1024, 192 * 1024


class Window:
    """A part of a stream: `data` are its bytes from the offset `base` on. Bytes come at the end and go at the front."""

    def __init__(self, file: str, stream: Stream, read_bytes: int) -> None:
        self.file = file
        self.base = stream.offset
        self.data = b""
        self._stream, self._read_bytes = stream, read_bytes
        self._broken: BrokenExport | None = None

    @property
    def end(self) -> int:
        """The offset after the last byte of `data`."""
        return self.base + len(self.data)

    def fill(self, keep: int, least: int = 0) -> bool:
        """Drop the bytes before the offset `keep`, and read on; return False at the end of the stream.

        Reads at least `least` bytes, and at least as many as it keeps: so the cost of searching the kept bytes again
        stays linear.
        """
        kept = self.data[keep - self.base :]
        parts, wanted = [kept] if kept else [], max(self._read_bytes, len(kept), least)
        while wanted > 0 and (part := self._read(wanted)):
            parts.append(part)
            wanted -= len(part)
        self.base, self.data = keep, b"".join(parts)  # copies nothing if it is one part
        return len(self.data) > len(kept)

    def _read(self, size: int) -> bytes:
        if self._broken is not None:
            return b""
        try:
            return self._stream.read(size)
        except BrokenExport as broken:
            self._broken = broken
            return b""

    def finish(self) -> None:
        """Raise the error that ended the stream early, if any; call it after the last record."""
        if self._broken is not None:
            raise self._broken

    def broken(self, offset: int, why: str) -> BrokenExport:
        """Return the error for text that can't be read on at an offset; at the end of a broken stream, the stream's."""
        if self._broken is not None and offset >= self.end:
            return self._broken
        return BrokenExport(self.file, offset, why, AFTER_A_BREAK)


class SpanBuilder:
    """Collects the positions of elements or lines for one span; their bytes stay in the window."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self._ends: list[int] = []
        self._ordinals: list[int] = []
        self._faults: dict[int, Fault] = {}
        self._offset = 0

    def put(self, begin: int, end: int, ordinal: int, fault: Fault | None) -> None:
        """Add the record between two offsets."""
        if not self.starts:
            self._offset = begin
        if fault is not None:
            self._faults[len(self.starts)] = fault
        self.starts.append(begin - self._offset)
        self._ends.append(end - self._offset)
        self._ordinals.append(ordinal)

    def is_full(self) -> bool:
        return self._ends[-1] >= SPAN_BYTES or len(self.starts) >= MOST_RECORDS

    def span(self, source: int, data: bytes, base: int) -> Span:
        """Make the span, from bytes that begin at the offset `base`."""
        low = self._offset - base
        taken = data[low : low + self._ends[-1]]
        return Span(source, self._offset, taken, self.starts, self._ends, self._ordinals, self._faults)


def skip_bom(window: Window) -> int:
    """Return the offset after a byte order mark at the window's beginning; fills the window as needed."""
    while len(window.data) < 3 and window.fill(window.base):
        pass
    return window.base + len(codecs.BOM_UTF8) * window.data.startswith(codecs.BOM_UTF8)
