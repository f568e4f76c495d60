"""Files chained into the source of a stage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from typing import Any, Literal, NamedTuple

from streammig.errors import BrokenExport, Unusable
from streammig.records import START, Place, Run
from streammig.sources.cuts import Cuts
from streammig.sources.elements import Elements
from streammig.sources.finding import NDJSON, Layout, find_layout, first_byte
from streammig.sources.inputs import Input, path_text
from streammig.sources.lines import Lines
from streammig.sources.opening import COMPRESSED_BYTES, Meter, Stream, open_file, open_stream
from streammig.sources.sameness import Sameness, Standing, sampled
from streammig.sources.tour import check_rest, walk_to
from streammig.sources.walking import backend
from streammig.sources.window import Window

MAX_RECORD_BYTES = 16 * 1024 * 1024
READ_BYTES = 1024 * 1024
LOOK_BYTES = 8 * 1024 * 1024  # inflated to tell how long compressed files are, over all of them: 30 ms
HEAD_BYTES = 256 * 1024  # compared where one of two files is compressed; 256 KB hold some hundred records

Reader = Literal["fast", "plain"]


class FileSource:
    """A `Source` over regular files, read one behind the other. `meter` counts what its readings cost.

    Each file must stay what it was when this was made: every run of slices is given out only after a look at it.
    """

    def __init__(self, inputs: Sequence[Input], reader: Reader, max_record_bytes: int, read_bytes: int) -> None:
        backend()
        self.reader = reader
        self.meter = Meter()
        self._inputs, self._max_record_bytes, self._read_bytes = tuple(inputs), max_record_bytes, read_bytes
        self._found = [self._find(wanted) for wanted in self._inputs]
        if any(layout.format == NDJSON for layout, _, _ in self._found):
            # A shard of one line may look like a document: what the others are decides.
            self._found = [
                it if it[0].format == NDJSON or wanted.path is not None else self._find(wanted, lines=True)
                for wanted, it in zip(self._inputs, self._found, strict=True)
            ]
        packed = sum(bool(compression) for _, compression, _ in self._found)
        most = LOOK_BYTES // max(packed, 1)
        self._begins = [
            _Begin.of(it.file, standing.size, most, self.meter) if packed else _Begin(b"", standing.size)
            for it, (_, _, standing) in zip(self._inputs, self._found, strict=True)
        ]
        self._check_distinct()

    def _check_distinct(self) -> None:
        """Raise `Unusable` if an array is named twice, by whatever names or links, or as it is and compressed: its
        records would be sent twice."""
        heads = {it.file: begin.digest for it, begin in zip(self._inputs, self._begins, strict=True)}
        sameness, empty = Sameness(), cache(self._is_empty)
        for number, (wanted, (layout, packed, standing)) in enumerate(zip(self._inputs, self._found, strict=True)):
            for other, (its_layout, its, its_standing) in zip(self._inputs[:number], self._found, strict=False):
                if layout != its_layout:
                    continue
                alike = (packed or its) and heads[wanted.file] == heads[other.file]
                same = alike or sameness.same(wanted.file, standing, other.file, its_standing)
                # Shards may well be alike in holding no record; but for one named twice that may be a mistake, too.
                if not same or (standing[:2] != its_standing[:2] and empty(number)):
                    continue
                if alike:
                    raise Unusable(
                        "export-twice",
                        f"{other.file} and {wanted.file} begin with the same records: each would be sent twice",
                        "Name one of them: a compressed file and what it was made of are one export.",
                    )
                raise Unusable(
                    "export-twice",
                    f"{other.file} and {wanted.file} are the same export: each of its records would be sent twice",
                    "Name it once. Several arrays of one file may be named, each by its path: FILE#path.to.it.",
                )

    def _is_empty(self, number: int) -> bool:
        """Whether a file holds no record, as far as it can be read."""
        stream, _ = open_stream(self._inputs[number].file, self.meter)
        with closing(stream), suppress(BrokenExport):
            return next(self._framed(Place(number), stream), None) is None
        return False

    def _find(self, wanted: Input, *, lines: bool = False) -> tuple[Layout, str, Standing]:
        stream, compression = open_stream(wanted.file, self.meter)
        with closing(stream):
            standing = Standing.of(stream.fileno())
            return find_layout(self._window(wanted, stream), wanted, self.meter, lines=lines), compression, standing

    def _window(self, wanted: Input, stream: Stream) -> Window:
        return Window(wanted.file, stream, self._read_bytes)

    def runs(self, start: Place = START) -> Iterator[Run]:
        for source in range(start.source, len(self._inputs)):
            place = start if source == start.source else Place(source)
            stream, _ = open_stream(self._inputs[source].file, self.meter)
            with closing(stream):
                yield from self._watched(place, stream)

    def _watched(self, place: Place, stream: Stream) -> Iterator[Run]:
        file, standing = self._inputs[place.source].file, self._found[place.source][2]
        standing.check(file, Standing.of(stream.fileno()))
        try:
            for run in self._framed(place, stream):
                standing.check(file, Standing.of(stream.fileno()))
                yield run
        except BrokenExport:
            standing.check(file, Standing.of(stream.fileno()))  # cut while it was read, it is not broken
            raise
        standing.check(file, Standing.of(stream.fileno()))

    def unchanged(self) -> None:
        for wanted, (_, _, standing) in zip(self._inputs, self._found, strict=True):
            with open_file(wanted.file) as handle:
                standing.check(wanted.file, Standing.of(handle.fileno()))

    def _framed(self, place: Place, stream: Stream) -> Iterator[Run]:
        wanted, (layout, _, _) = self._inputs[place.source], self._found[place.source]
        resumed = place.offset > 0
        if resumed:
            stream.seek(place.offset)
        window, at = self._window(wanted, stream), place.offset
        if not resumed:
            at = first_byte(window)
        if layout.format == NDJSON:
            lines = Lines(window, place.source, place.ordinal, self._max_record_bytes, self.meter)
            yield from lines.runs(at, resumed)
            return
        if not resumed:
            at = walk_to(window, at, [str(step) for step in layout.path], self.meter)[1]
        framer = Cuts if self.reader == "fast" else Elements
        elements = framer(window, place.source, place.ordinal, self._max_record_bytes, self.meter)
        yield from elements.runs(at, resumed=resumed)
        check_rest(window, elements.at, layout.path, self.meter)

    def fingerprints(self) -> list[dict[str, Any]]:
        """One per file: `file` as named, `size` in bytes as it lies there, its `length` decompressed (of a compressed
        one about), `modified` and `changed` in nanoseconds since the epoch, `inode`, `sha256` over its head, tail and
        samples, `compression` ("" if none), `format`, and the `path` of the array (None for NDJSON)."""
        return [
            {
                "file": wanted.file,
                "size": standing.size,
                "length": begin.length,
                "modified": standing.modified,
                "changed": standing.changed,
                "inode": standing.inode,
                "sha256": sampled(wanted.file, standing),
                "compression": compression,
                "format": layout.format,
                "path": None if layout.format == NDJSON else path_text(layout.path),
            }
            for wanted, begin, (layout, compression, standing) in zip(
                self._inputs, self._begins, self._found, strict=True
            )
        ]


class _Begin(NamedTuple):
    """What a look into a file tells, decompressed: a digest of what it begins with, and its length; of a compressed
    file about."""

    digest: bytes
    length: int

    @classmethod
    def of(cls, file: str, size: int, most: int, meter: Meter) -> _Begin:
        """Look into the first bytes of a file of this size, `most` or a few more."""
        before, head, ended = meter.read, b"", False
        stream, compression = open_stream(file, meter)
        with closing(stream), suppress(BrokenExport):
            # What is fetched as a whole is inflated to its end: 64 KiB are left at most.
            while not ended and (
                len(head) < HEAD_BYTES or (compression and (stream.offset < most or meter.read - before >= size))
            ):
                piece = stream.read(READ_BYTES)
                head += piece[: HEAD_BYTES - len(head)]
                ended = not piece
        digest = hashlib.sha256(head).digest()
        if not compression:
            return cls(digest, size)
        # Half of what was fetched last is not yet inflated, on average.
        about = stream.offset * size // max(meter.read - before - COMPRESSED_BYTES // 2, COMPRESSED_BYTES // 2)
        return cls(digest, stream.offset if ended else about)


def open_source(
    inputs: Sequence[Input],
    *,
    reader: Reader = "fast",
    max_record_bytes: int = MAX_RECORD_BYTES,
    read_bytes: int = READ_BYTES,
) -> FileSource:
    """The source of a stage from its files in order. Looks at how each begins.

    `reader`: "fast" cuts arrays into records many at once wherever it can, "plain" one by one and asks a second
    parser about each; both yield the same. A record of more than `max_record_bytes` is a slice with its fault set.
    `read_bytes` is what is read and held at once, in bytes. Raises Unusable, and Problem if ijson lacks its C backend.
    """
    return FileSource(inputs, reader, max_record_bytes, read_bytes)
