"""Files chained into the source of a stage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from copy import copy
from typing import Any, NamedTuple

from streammig.address import is_address
from streammig.errors import BrokenExport, Unusable
from streammig.model import START, Place, Span
from streammig.sources.csv_rows import AS_NAMED, CsvRows, Form
from streammig.sources.cuts import next_record
from streammig.sources.documents import Documents
from streammig.sources.frame import Framer
from streammig.sources.handle import Standing, open_file, read_failed
from streammig.sources.identity import FEW, hash_before, sampled
from streammig.sources.lines import Lines
from streammig.sources.locate import (
    DOCUMENTS,
    JSON,
    KEYED,
    NDJSON,
    Layout,
    check_backend,
    check_rest,
    first_byte,
    locate,
    walk_to,
)
from streammig.sources.members import Members
from streammig.sources.open import COMPRESSED_BYTES, Input, Meter, Stream, path_text
from streammig.sources.packed import refuse_archive
from streammig.sources.source import Source, Told
from streammig.sources.window import Window
from streammig.target import Judge

MAX_RECORD_BYTES = 16 * 1024 * 1024
READ_BYTES = 1024 * 1024
HEAD_BYTES = 256 * 1024  # compared where one of two files is compressed; 256 KB hold some hundred records
LOOK_BYTES = 4 * 1024 * 1024  # inflated to tell how long a compressed file is: 15 ms


class _File(NamedTuple):
    """What a look into a file told. `head` is a digest of its beginning, decompressed; `mark` is its fingerprint."""

    name: str
    layout: Layout
    standing: Standing
    head: bytes
    mark: dict[str, Any]


class FileSource(Source):
    """A `Source` over regular files, read one behind the other. `meter` counts what its readings cost.

    Each file must stay what it was when this was made: every span is given out only after a look at it.
    """

    _judge: Judge | None = None

    def __init__(
        self,
        inputs: Sequence[Input],
        max_record_bytes: int,
        read_bytes: int,
        form: Form = AS_NAMED,
        *,
        accept_broken: bool = False,
    ) -> None:
        check_backend()
        self.meter = Meter()
        self._accept_broken = accept_broken
        self._max_record_bytes, self._read_bytes, self._form = max_record_bytes, read_bytes, form
        self._files = [self._look(wanted) for wanted in inputs]
        if any(file.layout.format == NDJSON for file in self._files):
            # A shard of one line may look like a document: what the others are decides.
            self._files = [
                file if file.layout.format == NDJSON or wanted.path is not None else self._look(wanted, lines=True)
                for wanted, file in zip(inputs, self._files, strict=True)
            ]
        _check_distinct(self._files)

    @property
    def header(self) -> frozenset[str] | None:
        headers = [file.layout.header for file in self._files]
        known = [header.names for header in headers if header is not None]
        return frozenset(name for names in known for name in names) if len(known) == len(headers) else None

    def _look(self, wanted: Input, *, lines: bool = False) -> _File:
        before = self.meter.read
        stream = Stream(wanted.file, self.meter)
        with closing(stream):
            standing = stream.standing()
            window = self._window(wanted.file, stream)
            while window.end < (LOOK_BYTES if stream.compression else HEAD_BYTES) and window.fill(0):
                pass
            head, ended = hashlib.sha256(window.data[:HEAD_BYTES]).digest(), window.end < LOOK_BYTES
            length = standing.size
            if stream.compression:
                # Half of what was fetched last is not yet inflated, on average.
                taken = max(self.meter.read - before - COMPRESSED_BYTES // 2, COMPRESSED_BYTES // 2)
                length = window.end if ended else window.end * length // taken
            refuse_archive(wanted.file, window.data[:512], stream.compression)
            layout = locate(window, wanted, self.meter, lines=lines, form=self._form)
            mark = {
                "file": wanted.file,
                "size": standing.size,
                "length": length,
                "modified": standing.modified,
                "changed": standing.changed,
                "inode": standing.inode,
                "sha256": sampled(wanted.file, FEW),
                "compression": stream.compression,
                "format": layout.format,
                "path": path_text(layout.path) if layout.format in (JSON, KEYED) else None,
            }
            if standing.etag:
                mark["etag"] = standing.etag
            if layout.header is not None:
                mark["form"] = f"{layout.header.delimiter!r} {layout.header.encoding}"
            elif layout.format == KEYED:
                mark["form"] = f"keyed {self._form.keyed}"
            standing.check(wanted.file, stream.standing())
        return _File(wanted.file, layout, standing, head, mark)

    def judged_by(self, judge: Judge | None) -> FileSource:
        """This source, whose spans hold what the judge finds of their records."""
        self._judge = judge
        return self

    def _window(self, file: str, stream: Stream) -> Window:
        return Window(file, stream, self._read_bytes)

    def spans(self, start: Place = START, told: Told | None = None) -> Iterator[Span]:
        for number in range(start.source, len(self._files)):
            yield from self.of_file(start if number == start.source else Place(number), told)

    def of_file(self, place: Place, told: Told | None = None) -> Iterator[Span]:
        """As `spans`, of the file that the place is in alone."""
        file = self._files[place.source]
        stream = Stream(file.name, self.meter)
        with closing(stream):
            file.standing.check(file.name, stream.standing())
            try:
                for span in self._framed(file, place, stream):
                    file.standing.check(file.name, stream.standing())
                    yield span
            except BrokenExport as broken:
                file.standing.check(file.name, stream.standing())  # cut while it was read, it is not broken
                if told is not None:
                    told(broken)
                elif not (broken.whole or self._accept_broken):
                    raise
            else:
                if told is not None and stream.behind:
                    told(BrokenExport(file.name, stream.offset, stream.behind, whole=True))
            file.standing.check(file.name, stream.standing())

    def next_record(self, number: int, offset: int) -> int | None:
        """Where a record of a file that is not compressed seems to begin behind an offset; see `cuts`."""
        file = self._files[number]
        with closing(open_file(file.name)) as handle:
            try:
                return next_record(handle, offset, file.layout.format)
            except OSError as error:
                raise read_failed(file.name, offset, error) from None

    def here(self, folder: str) -> FileSource:
        """The same source on another machine, which numbers devices and files in its own way; `folder` is where names
        are relative to. Raises `Unusable` where a file can't be opened, or has another size or time of change."""
        other = copy(self)
        other._files = []
        for file in self._files:
            name = file.name if is_address(file.name) else os.path.join(folder, file.name)
            with closing(open_file(name)) as handle:
                now = handle.standing()
            file.standing.check(name, now._replace(device=file.standing.device, inode=file.standing.inode))
            other._files.append(file._replace(name=name, standing=now))
        return other

    def _framed(self, file: _File, place: Place, stream: Stream) -> Iterator[Span]:
        resumed = place.offset > 0
        if resumed:
            stream.seek(place.offset)
        window = self._window(file.name, stream)
        at = place.offset if resumed else first_byte(window)
        what = window, place.source, place.ordinal, self._max_record_bytes, self.meter
        if (header := file.layout.header) is not None:
            line = place.ordinal + (0 if resumed else header.lines)
            rows = CsvRows(window, place.source, line, self._max_record_bytes, self.meter, header=header)
            yield from rows.spans(at if resumed else header.end)
            return
        if file.layout.format == DOCUMENTS:
            yield from Documents(*what).spans(at)
            return
        if file.layout.format == NDJSON:
            yield from Lines(*what, judge=self._judge).spans(at, resumed=resumed)
            return
        path, keyed = file.layout.path, file.layout.format == KEYED
        if not resumed:
            _, at = walk_to(window, at, [str(step) for step in path], self.meter, keyed=keyed)
        into = self._form.keyed if isinstance(self._form.keyed, str) else None
        framer = Members(*what, field=into) if keyed else Framer(*what, judge=self._judge)
        yield from framer.spans(at, resumed=resumed)
        check_rest(window, framer.at, path, self.meter, keyed=keyed)

    def before(self, place: Place) -> str:
        file = self._files[place.source]
        return hash_before(file.mark, place.offset, file.standing)

    def unchanged(self) -> None:
        for file in self._files:
            with closing(open_file(file.name)) as handle:
                file.standing.check(file.name, handle.standing())

    def fingerprints(self) -> list[dict[str, Any]]:
        """One per file: `file` as named, `size` in bytes as it lies there, its `length` decompressed (of a compressed
        one about), `modified` and `changed` in nanoseconds since the epoch, `inode`, `sha256` over its head, tail and
        samples, `compression` ("" if none), `format`, the `etag` of an object that has one, and the `path` of the array
        or the object (None for NDJSON and CSV)."""
        return [{**file.mark} for file in self._files]


def _check_distinct(files: Sequence[_File]) -> None:
    """Raise `Unusable` if an array is named twice, by whatever names or links, or as it is and compressed: its records
    would be sent twice. Shards that are alike in holding no record may be named; one file twice may be a mistake."""
    named: dict[object, _File] = {}
    for file in files:
        where = file.layout.format, file.layout.path
        same: list[tuple[object, ...]] = [(where, file.standing[:2])]
        if not file.layout.empty:
            same.append((where, (file.standing.size, file.mark["sha256"])))
        if first := next((named[key] for key in same if key in named), None):
            raise Unusable(
                "export-twice",
                f"{first.name} and {file.name} are the same export: each of its records would be sent twice",
                "Name it once. Several arrays of one file may be named, each by its path: FILE#path.to.it.",
            )
        packed = bool(file.mark["compression"])
        alike = [(*where, file.head, other) for other in ((True, False) if packed else (True,))]
        if not file.layout.empty and (first := next((named[key] for key in alike if key in named), None)):
            raise Unusable(
                "export-twice",
                f"{first.name} and {file.name} begin with the same records: each would be sent twice",
                "Name one of them: a compressed file and what it was made of are one export.",
            )
        named.update(dict.fromkeys([*same, (*where, file.head, packed)], file))


def open_source(
    inputs: Sequence[Input],
    *,
    max_record_bytes: int = MAX_RECORD_BYTES,
    read_bytes: int = READ_BYTES,
    form: Form = AS_NAMED,
    accept_broken: bool = False,
) -> FileSource:
    """The source of a stage from its files in order. Looks at how each begins.

    `form` is how CSV is written. A record of more than `max_record_bytes` is one at fault. `read_bytes` is what is read
    and held at once, in bytes. `accept_broken`: where a file can't be read on it ends.
    Raises Unusable, and Problem if ijson lacks its C backend.
    """
    return FileSource(inputs, max_record_bytes, read_bytes, form, accept_broken=accept_broken)
