"""The source of a stage: its files, read one after the other."""

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
from streammig.sources.handle import FileIdentity, open_file, read_failed
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
HEAD_BYTES = 256 * 1024  # compared if one of two files is compressed; 256 KB hold some hundred records
LOOK_BYTES = 4 * 1024 * 1024  # inflated to estimate the length of a compressed file, in 15 ms


class _File(NamedTuple):
    """A file after a first look. `head` is a digest of its decompressed beginning, `mark` is its fingerprint."""

    name: str
    layout: Layout
    identity: FileIdentity
    head: bytes
    mark: dict[str, Any]


class FileSource(Source):
    """A `Source` over files, read one after the other. `meter` counts the bytes read and parsed.

    No file may change after this was made: that is checked before each span is returned.
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
            # A shard of one line may look like a document: the other files decide.
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
            identity = stream.identity()
            window = Window(wanted.file, stream, self._read_bytes)
            while window.end < (LOOK_BYTES if stream.compression else HEAD_BYTES) and window.fill(0):
                pass
            head, ended = hashlib.sha256(window.data[:HEAD_BYTES]).digest(), window.end < LOOK_BYTES
            length = identity.size
            if stream.compression:
                # On average, half of the last fetch is not inflated yet.
                taken = max(self.meter.read - before - COMPRESSED_BYTES // 2, COMPRESSED_BYTES // 2)
                length = window.end if ended else window.end * length // taken
            refuse_archive(wanted.file, window.data[:512], stream.compression)
            layout = locate(window, wanted, self.meter, lines=lines, form=self._form)
            mark = {
                "file": wanted.file,
                "size": identity.size,
                "length": length,
                "modified": identity.modified,
                "changed": identity.changed,
                "inode": identity.inode,
                "sha256": sampled(wanted.file, FEW),
                "compression": stream.compression,
                "format": layout.format,
                "path": path_text(layout.path) if layout.format in (JSON, KEYED) else None,
            }
            if identity.etag:
                mark["etag"] = identity.etag
            if layout.header is not None:
                mark["form"] = f"{layout.header.delimiter!r} {layout.header.encoding}"
            elif layout.format == KEYED:
                mark["form"] = f"keyed {self._form.keyed}"
            identity.check(wanted.file, stream.identity())
        return _File(wanted.file, layout, identity, head, mark)

    def judged_by(self, judge: Judge | None) -> FileSource:
        """Set the judge of the records, and return this source: its spans then hold the judge's columns."""
        self._judge = judge
        return self

    def spans(self, start: Place = START, told: Told | None = None) -> Iterator[Span]:
        for number in range(start.source, len(self._files)):
            yield from self.of_file(start if number == start.source else Place(number), told)

    def of_file(self, place: Place, told: Told | None = None) -> Iterator[Span]:
        """Return spans as `spans`, of the place's file alone."""
        file = self._files[place.source]
        stream = Stream(file.name, self.meter)
        with closing(stream):
            file.identity.check(file.name, stream.identity())
            try:
                for span in self._framed(file, place, stream):
                    file.identity.check(file.name, stream.identity())
                    yield span
            except BrokenExport as broken:
                file.identity.check(file.name, stream.identity())  # a file that was changed meanwhile is not broken
                if told is not None:
                    told(broken)
                elif not (broken.whole or self._accept_broken):
                    raise
            else:
                if told is not None and stream.behind:
                    told(BrokenExport(file.name, stream.offset, stream.behind, whole=True))
            file.identity.check(file.name, stream.identity())

    def next_record(self, number: int, offset: int) -> int | None:
        """Guess where a record begins after an offset of an uncompressed file; see `cuts`."""
        file = self._files[number]
        with closing(open_file(file.name)) as handle:
            try:
                return next_record(handle, offset, file.layout.format)
            except OSError as error:
                raise read_failed(file.name, offset, error) from None

    def here(self, folder: str) -> FileSource:
        """Return this source on another machine, where devices and inodes differ. Names are relative to `folder`.

        Raises `Unusable` if a file can't be opened, or has another size or time of change.
        """
        other = copy(self)
        other._files = []
        for file in self._files:
            name = file.name if is_address(file.name) else os.path.join(folder, file.name)
            with closing(open_file(name)) as handle:
                now = handle.identity()
            file.identity.check(name, now._replace(device=file.identity.device, inode=file.identity.inode))
            other._files.append(file._replace(name=name, identity=now))
        return other

    def _framed(self, file: _File, place: Place, stream: Stream) -> Iterator[Span]:
        resumed = place.offset > 0
        if resumed:
            stream.seek(place.offset)
        window = Window(file.name, stream, self._read_bytes)
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
        return hash_before(file.mark, place.offset, file.identity)

    def unchanged(self) -> None:
        for file in self._files:
            with closing(open_file(file.name)) as handle:
                file.identity.check(file.name, handle.identity())

    def fingerprints(self) -> list[dict[str, Any]]:
        """Return a fingerprint of each file.

        `file` is its name, `size` its bytes, `length` its decompressed bytes (estimated if it is compressed).
        `modified` and `changed` are in nanoseconds since the epoch. `sha256` is over its head, tail and samples.
        `compression` is "" without one. `path` leads to the array or object (None for NDJSON and CSV). Also `inode`,
        `format`, and the `etag` of an object that has one.
        """
        return [{**file.mark} for file in self._files]


def _check_distinct(files: Sequence[_File]) -> None:
    """Raise `Unusable` if an array is named twice: by any names or links, or once plain and once compressed.

    Different empty shards may be equal; one file may not be named twice even if it is empty.
    """
    named: dict[object, _File] = {}
    for file in files:
        where = file.layout.format, file.layout.path
        same: list[tuple[object, ...]] = [(where, file.identity[:2])]
        if not file.layout.empty:
            same.append((where, (file.identity.size, file.mark["sha256"])))
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
    """Return the source of a stage from its files in order, after a look at the beginning of each.

    A record of more than `max_record_bytes` is at fault. `read_bytes` are read and held at once. `accept_broken`: a
    file that can't be read on counts as ended. Raises Unusable, and Problem if ijson lacks its C backend.
    """
    return FileSource(inputs, max_record_bytes, read_bytes, form, accept_broken=accept_broken)
