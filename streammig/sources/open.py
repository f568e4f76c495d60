"""Opening an export: the parser of FILE#path, and a plain or compressed file as one stream of bytes."""

from __future__ import annotations

import bz2
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from streammig.errors import AFTER_A_BREAK, BrokenExport, Problem, Unusable
from streammig.sources.handle import FileIdentity, no_entry, open_file, read_failed
from streammig.sources.packed import BZIP2, GZIP, MOST_WINDOW, XZ, ZSTD, compression, refuse_frame

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

# Bytes to fetch at once. Small, because all output of one call is lost if its frame is damaged.
COMPRESSED_BYTES = 64 * 1024
HEADER_BYTES = 18  # enough of a file or a frame to detect its format
# Most output bytes of one call: 64 KiB of gzip may hold 64 MiB.
PIECE_BYTES = 256 * 1024


@dataclass(slots=True)
class Meter:
    """Counts the cost of reading: bytes from files, and bytes parsed (a byte that is parsed twice counts twice)."""

    read: int = 0
    parsed: int = 0


class _Decompressor(Protocol):
    """A decompressor of one member or frame, as in the standard library's bz2, lzma and zstd."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Member:
    """A decompressor of one gzip member with the interface of `ZstdDecompressor`."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        # After a full output some may be left inside, even if all input was taken.
        self.needs_input = len(out) < max_length and not self._inflate.unconsumed_tail
        return out


_FRAMES: dict[str, Callable[[], _Decompressor]] = {
    GZIP: _Member,
    ZSTD: zstd.ZstdDecompressor,
    XZ: lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MOST_WINDOW),
    BZIP2: bz2.BZ2Decompressor,
}
_DAMAGED = (zlib.error, zstd.ZstdError, lzma.LZMAError, OSError, EOFError)  # bz2 has no error of its own


class Stream:
    """The decompressed bytes of a file: all its members or frames, one after the other.

    `offset` is that of the next byte. `compression` is "", "gzip", "zstd", "xz" or "bzip2". `behind` says what was
    skipped after the last frame, or "". Raises Unusable if the file can't be opened.
    """

    def __init__(self, file: str, meter: Meter) -> None:
        self.offset, self.behind = 0, ""
        self._file, self._meter, self._handle = file, meter, open_file(file)
        try:
            head = self._handle.read(HEADER_BYTES) or b""
            self._handle.seek(0)
            refuse_frame(file, head)
        except OSError as error:
            self._handle.close()
            raise no_entry(file, error) from None
        except Problem:
            self._handle.close()
            raise
        self.compression = compression(head)
        self._pieces = self._inflate()
        self._piece = memoryview(b"")
        self._broken: BrokenExport | None = None

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes, b"" at the end.

        If the file can't be read on, raises BrokenExport, now and at each later call; all bytes before were returned.
        """
        if not self.compression:
            data = self._fetch(size)
        else:
            self._piece = self._piece or memoryview(self._next())
            data, self._piece = bytes(self._piece[:size]), self._piece[size:]
        self.offset += len(data)
        return data

    def seek(self, offset: int) -> None:
        """Go forward to an offset, or to the end if that comes first."""
        if not self.compression:
            self._handle.seek(offset)
            self.offset = offset
        while self.offset < offset and self.read(offset - self.offset):
            pass

    def identity(self) -> FileIdentity:
        """Return the identity of the file now."""
        return self._handle.identity()

    def close(self) -> None:
        self._handle.close()

    def _next(self) -> bytes:
        if self._broken is None:
            try:
                return next(self._pieces, b"")
            except BrokenExport as broken:
                self._broken = broken
        raise self._broken

    def _inflate(self) -> Iterator[bytes]:
        kind = self.compression
        waiting, taken = b"", 0  # bytes read, but not given to a frame yet, and their offset in the file
        while True:
            while True:
                if taken:
                    taken += len(waiting)
                    waiting = self._unpadded(waiting)
                    taken -= len(waiting)
                if len(waiting) >= 4 or not (more := self._fetch(COMPRESSED_BYTES)):
                    break
                waiting += more
            if not waiting:
                return
            if compression(waiting[:4]) != kind:
                raise self._break(f"garbage follows the {kind} data at byte {taken} of the compressed file")
            frame, self.behind = _FRAMES[kind](), ""
            while not frame.eof:
                given = b""
                if frame.needs_input:
                    given, waiting = waiting or self._fetch(COMPRESSED_BYTES), b""
                    if not given:
                        raise self._break(f"the compressed file is cut: it ends at byte {taken} inside its {kind} data")
                try:
                    data = frame.decompress(given, PIECE_BYTES)
                except _DAMAGED:
                    why = f"the {kind} data is damaged after byte {taken} of the compressed file"
                    raise self._break(why) from None
                taken += len(given)
                if data:
                    yield data
            waiting = frame.unused_data
            taken -= len(waiting)

    def _unpadded(self, data: bytes) -> bytes:
        """Remove padding after a member. Tapes and some tools pad with zeros, which gzip and xz allow.

        Transfers in text mode add line breaks. No member begins with any of these bytes.
        """
        left = data.lstrip(b"\0\r\n" if self.compression in (GZIP, XZ) else b"\r\n")
        if data[: len(data) - len(left)].strip(b"\0"):
            self.behind = f"line breaks after the {self.compression} data"
        return left

    def _fetch(self, size: int) -> bytes:
        try:
            data = self._handle.read(size) or b""
        except OSError as error:
            raise read_failed(self._file, self.offset, error) from None
        self._meter.read += len(data)
        return data

    def _break(self, why: str) -> BrokenExport:
        # All output was returned before: pieces are made one at a time, on demand.
        return BrokenExport(self._file, self.offset, why, AFTER_A_BREAK)


# -- names and paths --------------------------------------------------------------------------------------------------

Path = tuple[str | int, ...]
"""The path of a value in a document: keys of objects and indexes of arrays; () is the document itself."""

# A JSON string (for empty keys, or keys with dots, quotes or outer spaces), or any text without a dot.
_SEGMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^."][^.]*')


class Input(NamedTuple):
    """One file of a stage. `path` has the segments of the array's path; None: the array must be found."""

    file: str
    path: tuple[str, ...] | None = None


def parse_input(text: str) -> Input:
    """Parse `FILE` or `FILE#path.to.array`; `FILE#` means that the whole document is the array.

    Segments are separated by dots. A segment in double quotes is a JSON string (`export.json#data."odd.key"`). One of
    digits is a key or an index. A text that is the name of an existing file is that file. Else the path begins after
    the last `#` that follows the name of an existing file. Raises Unusable for an invalid path.
    """
    if "#" not in text or os.path.lexists(text):
        return Input(text)
    cuts = [index for index, sign in enumerate(text) if sign == "#"]
    cut = next((index for index in reversed(cuts) if os.path.lexists(text[:index])), cuts[0])
    return Input(text[:cut], _segments(text, text[cut + 1 :]))


def _segments(text: str, path: str) -> tuple[str, ...]:
    segments: list[str] = []
    at = 0
    while path and at <= len(path):
        match = _SEGMENT.match(path, at)
        if match is None or (match.end() < len(path) and path[match.end()] != "."):
            raise Unusable(
                "path-invalid",
                f"{text}: the path after # can't be read at its character {at + 1}",
                'Write it like data.customers; put a key with a dot or a quote in double quotes: data."odd.key".',
            )
        segments.append(_segment(text, match.group()))
        at = match.end() + 1
    return tuple(segments)


def _segment(text: str, segment: str) -> str:
    if not segment.startswith('"'):
        return segment
    try:
        return msgspec.json.decode(segment.encode(), type=str)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise Unusable(
            "path-invalid", f"{text}: {segment} is no JSON string", 'Escape as JSON does: \\" and \\\\.'
        ) from None


def path_text(path: Path) -> str:
    """Return the path as a user types it after `#`."""
    return ".".join(_typed(str(segment)) for segment in path)


def _typed(segment: str) -> str:
    plain = segment and segment.isprintable() and segment.strip() == segment and not re.search(r'[."#\\]', segment)
    return segment if plain else msgspec.json.encode(segment).decode()


def leads_to(wanted: tuple[str, ...], path: Path) -> bool:
    """Tell whether the typed segments mean this path."""
    return len(wanted) == len(path) and all(segment == str(step) for segment, step in zip(wanted, path, strict=True))
