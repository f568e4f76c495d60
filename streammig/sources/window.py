"""The part of a stream that is being framed, and records of it that are put together to a span."""

from __future__ import annotations

import codecs

from streammig.errors import AFTER_A_BREAK, BrokenExport
from streammig.model import Span
from streammig.sources.open import Stream
from streammig.sources.valid import Fault

# A span has 128 to 1,000 records and 64 to 192 KiB, which a processor's cache holds; more where one record is larger.
SPAN_RECORDS, MOST_RECORDS = 256, 1000
SPAN_BYTES, MOST_SPAN_BYTES = 64 * 1024, 192 * 1024


class Window:
    """`data` are the stream's bytes from offset `base` on; it grows at its end and is let go of at its front."""

    def __init__(self, file: str, stream: Stream, read_bytes: int) -> None:
        self.file = file
        self.base = stream.offset
        self.data = b""
        self._stream, self._read_bytes = stream, read_bytes
        self._broken: BrokenExport | None = None

    @property
    def end(self) -> int:
        """The offset behind `data`."""
        return self.base + len(self.data)

    def fill(self, keep: int, least: int = 0) -> bool:
        """Let go of what stands before the offset `keep` and read on; False if nothing was left to be read.

        At least as much is read as is kept, so that looking again at what is kept costs no more than reading it; and
        `least` bytes, where there are as many.
        """
        kept = self.data[keep - self.base :]
        parts, wanted = [kept] if kept else [], max(self._read_bytes, len(kept), least)
        while wanted > 0 and (part := self._read(wanted)):
            parts.append(part)
            wanted -= len(part)
        self.base, self.data = keep, b"".join(parts)  # which copies nothing where it is one part
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
        """Raise what broke the stream off, if anything did; to be asked behind its last record."""
        if self._broken is not None:
            raise self._broken

    def broken(self, offset: int, why: str) -> BrokenExport:
        """What to raise when the text can't be read on at an offset. Where that is the end of a stream that broke
        off, the reason is the stream's."""
        if self._broken is not None and offset >= self.end:
            return self._broken
        return BrokenExport(self.file, offset, why, AFTER_A_BREAK)


class Held:
    """Elements, or lines, that are put together to a span; their bytes stand elsewhere meanwhile."""

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
        """What was put, out of the bytes from the offset `base` on."""
        low = self._offset - base
        taken = data[low : low + self._ends[-1]]
        return Span(source, self._offset, taken, self.starts, self._ends, self._ordinals, self._faults)


def skip_bom(window: Window) -> int:
    """The offset of the first byte behind a byte order mark at the window's beginning, which is filled for it."""
    while len(window.data) < 3 and window.fill(window.base):
        pass
    return window.base + len(codecs.BOM_UTF8) * window.data.startswith(codecs.BOM_UTF8)
