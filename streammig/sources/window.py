"""The part of a stream that is being framed."""

from __future__ import annotations

import codecs

from streammig.errors import AFTER_A_BREAK, BrokenExport
from streammig.sources.opening import Stream


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

    def fill(self, keep: int) -> bool:
        """Let go of what stands before the offset `keep` and read on; False if nothing was left to be read.

        At least as much is read as is kept, so that looking again at what is kept costs no more than reading it.
        """
        kept = self.data[keep - self.base :]
        parts, wanted = [kept], max(self._read_bytes, len(kept))
        while wanted > 0 and (part := self._read(wanted)):
            parts.append(part)
            wanted -= len(part)
        self.base, self.data = keep, b"".join(parts)
        return len(parts) > 1

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


def skip_bom(window: Window) -> int:
    """The offset of the first byte behind a byte order mark at the window's beginning, which is filled for it."""
    while len(window.data) < 3 and window.fill(window.base):
        pass
    return window.base + len(codecs.BOM_UTF8) * window.data.startswith(codecs.BOM_UTF8)
