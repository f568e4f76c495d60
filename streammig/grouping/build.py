"""Group the rows of a stage on the disk: split by a hash of the owner until a part fits into memory, then merge."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from streammig.disk import check_room, disk_fault, own, own_folder, read_own, refuse_foreign, sync, whole_file
from streammig.errors import BrokenExport
from streammig.grouping.entries import BUFFER, HEAD, Entry, Form, entries, merged, of_file
from streammig.grouping.rows import ROWS, OfRows
from streammig.model import START, Place, Span
from streammig.sources.source import Break, Source
from streammig.sources.valid import too_large

MEMORY = 48 << 20  # bytes; about what the rows of one part may take in memory
BESIDE = 300  # bytes; overhead of a row in memory
MOST_PARTS, FEWER = 96, 16  # files of the first split, and of a later one
MEMORIES = 3  # the first split saves its progress after so many times `MEMORY` written
EVERY = 1 << 16  # bytes of the finished file between two marks of its index
MARK = struct.Struct(">IQQ")  # file and offset of a record in the export, offset in the finished file
FINISHED = "records", "marks", "about"  # the files that are kept until the stage is sent


class About(msgspec.Struct, frozen=True):
    """The header of a work file, written last. `export` binds it to its source; `made_by` is the mapping's hash."""

    export: str
    made_by: str
    records: int
    size: int
    breaks: tuple[Break, ...] = ()


class Split(msgspec.Struct, frozen=True):
    """The progress of the first split: the place after the last row in the parts, and the sizes of the parts."""

    export: str
    made_by: str
    place: Place
    sizes: tuple[int, ...]
    breaks: tuple[Break, ...] = ()
    done: bool = False


class Job(NamedTuple):
    """Rows to be grouped in a folder. A record of more than `limit` bytes becomes a fault."""

    source: Source
    rows: OfRows
    stage: str
    folder: Path
    limit: int
    export: str
    made_by: str
    names: Sequence[str]  # of the export's files
    memory: int = MEMORY


class Stopped(Exception):
    """The work was stopped. The next call goes on from there."""


def room_of(source: Source) -> int:
    """Estimate the most bytes of disk that grouping needs: the split rows, and the records that they become."""
    return 2 * _size_of_rows(source)


def _size_of_rows(source: Source) -> int:
    """Estimate the bytes of all rows as entries, from the first ones."""
    spans = source.spans()
    try:
        first = next(spans, None)
    finally:
        getattr(spans, "close", int)()
    if first is None:
        return 0
    read = first.end.offset - first.position(0).offset
    taken = first.ends[-1] - first.starts[0] + len(first) * (HEAD.size + 20)
    length: int = sum(mark["length"] for mark in source.fingerprints())
    return length * taken // max(read, 1)


def group(job: Job, tell: Callable[[Span], None], stopped: Callable[[], bool]) -> About:
    """Make the work file, or go on with an earlier call.

    Raises `Stopped`; `Unusable` for a link in place of one of our files; `MachineFault` for an error of the disk, or
    before it begins if the disk has too little room.
    """
    try:
        for folder in (job.folder.parent, job.folder):
            own_folder(folder)
        split = _saved(job)
        if split is None:
            clear(job.folder)
            room = room_of(job.source)
            check_room(job.folder, {f"grouping the {job.stage}": room})
            parts = min(max(room // job.memory, 1), MOST_PARTS)
            split = Split(job.export, job.made_by, START, (0,) * (parts + 1))
        if not split.done:
            split = _split(job, split, tell, stopped)
        return _finished(job, split, stopped)
    except OSError as error:
        what = f"{job.folder}: the {job.stage} can't be grouped there"
        raise disk_fault("grouping-io", what, "Check the disk, then run the same command.", error) from None


def _saved(job: Job) -> Split | None:
    try:
        found = msgspec.json.decode(read_own(job.folder / "split"), type=Split)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if (found.export, found.made_by) == (job.export, job.made_by) else None


def clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Delete our files in a folder except those to `keep`. Other files stay. Raises `Unusable` for a link."""
    for path in folder.glob("*"):
        if is_ours(path.name) and path.name not in keep:
            refuse_foreign(path)
            path.unlink()


def is_ours(name: str) -> bool:
    """Whether grouping gives this name to a file."""
    return name in (*FINISHED, "split") or name.endswith((".rows", ".run", ".part"))


def _split(job: Job, split: Split, tell: Callable[[Span], None], stopped: Callable[[], bool]) -> Split:
    """Write each row to the part of its owner. Rows without an owner, and faults, go to the last file."""
    breaks = [*split.breaks]
    paths = [job.folder / f"{at}.rows" for at in range(len(split.sizes) - 1)] + [job.folder / "alone.run"]
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path, size)) for path, size in zip(paths, split.sizes, strict=True)]

        def save(place: Place, *, done: bool = False) -> Split:
            for file, path in zip(files, paths, strict=True):
                file.flush()
                sync(path)
            now = Split(job.export, job.made_by, place, tuple(it.tell() for it in files), tuple(breaks), done)
            _write(job.folder / "split", now)
            return now

        def broken(it: BrokenExport) -> None:
            breaks.append(Break.of(it))

        place, written = split.place, 0
        spans = job.source.spans(place, broken)
        try:
            for span in spans:
                if stopped():
                    save(place)
                    raise Stopped
                for entry in _entries(job, span):
                    data = entry.encoded()
                    at = _part_of(entry.note, 0, len(files) - 1) if entry.form is Form.ROW else -1
                    files[at].write(data)
                    written += len(data)
                place = span.end
                tell(span)
                if written >= MEMORIES * job.memory:
                    save(place)
                    written = 0
        finally:
            getattr(spans, "close", int)()
        return save(place, done=True)


def _opened(path: Path, size: int) -> BinaryIO:
    """Open a file to append to its first `size` bytes, which are known to be whole."""
    file = os.fdopen(own(path, os.O_RDWR | os.O_CREAT), "r+b", BUFFER)
    file.truncate(size)
    file.seek(size)
    return file


def _entries(job: Job, span: Span) -> Iterator[Entry]:
    bodies = span.cut(0, len(span))
    for at, body in enumerate(bodies):
        place = span.position(at)
        head = place.source, place.offset, place.length, place.ordinal
        if at in span.faults:
            yield Entry(*head, Form.FAULT, msgspec.json.encode(span.faults[at]), body)
            continue
        owners = job.rows.owners(body)
        for owner in owners:
            yield Entry(*head, Form.ROW, owner, body)
        if not owners:
            yield _alone(job, Entry(*head, Form.ROW, b"", body))


def _part_of(owner: bytes, level: int, parts: int) -> int:
    """Return the number of an owner's part. The hash differs at each level, so that a part splits again."""
    digest = hashlib.blake2b(owner, digest_size=4, salt=level.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") % parts


def _finished(job: Job, split: Split, stopped: Callable[[], bool]) -> About:
    runs = [job.folder / "alone.run"]
    for at in range(len(split.sizes) - 1):
        runs.append(job.folder / f"{at}.run")
        if not runs[-1].exists():
            _group_part(job, job.folder / f"{at}.rows", runs[-1], 1, stopped)
        (job.folder / f"{at}.rows").unlink(missing_ok=True)
    with whole_file(job.folder / "marks") as marks, whole_file(job.folder / "records") as records:
        count, size = _merge(merged(runs), records, marks, stopped)
    about = About(job.export, job.made_by, count, size, split.breaks)
    _write(job.folder / "about", about)
    for path in (*runs, job.folder / "split"):
        path.unlink(missing_ok=True)
    return about


def _merge(found: Iterable[Entry], records: Path, marks: Path, stopped: Callable[[], bool]) -> tuple[int, int]:
    """Write the finished file and its index; return the number of records and the size in bytes."""
    count = size = 0
    marked = -EVERY
    with records.open("wb", BUFFER) as file, marks.open("wb") as index:
        for entry in found:
            if size - marked >= EVERY:
                index.write(MARK.pack(*entry.key, size))
                marked = size
                if stopped():
                    raise Stopped
            file.write(entry.encoded())
            size += entry.size
            count += 1
    return count, size


def _group_part(job: Job, rows: Path, run: Path, level: int, stopped: Callable[[], bool]) -> None:
    """Write the records of the owners in a part to `run`, in the order of their first rows."""
    if stopped():
        raise Stopped
    found = _in_memory(job, rows)
    with whole_file(run) as part:
        if found is not None:
            with part.open("wb", BUFFER) as file:
                file.writelines(entry.encoded() for entry in found)
            return
        parts = _split_part(rows, level)
        runs = [path.with_suffix(".run") for path in parts]
        for path, own in zip(parts, runs, strict=True):
            _group_part(job, path, own, level + 1, stopped)
            path.unlink()
        with part.open("wb", BUFFER) as file:
            file.writelines(entry.encoded() for entry in merged(runs))
        for own in runs:
            own.unlink()


def _split_part(rows: Path, level: int) -> list[Path]:
    """Split a part that is too large."""
    paths = [rows.with_name(f"{rows.stem}-{at}.rows") for at in range(FEWER)]
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path, 0)) for path in paths]
        for entry in of_file(rows):
            files[_part_of(entry.note, level, FEWER)].write(entry.encoded())
    return paths


def _in_memory(job: Job, rows: Path) -> Sequence[Entry] | None:
    """Make the records of a part in memory; return None if it does not fit.

    Of an owner whose record is too large, only the first row is held.
    """
    groups: dict[bytes, list[Entry]] = {}
    sizes: dict[bytes, int] = {}
    held = 0
    for entry in of_file(rows):
        sizes[entry.note] = size = sizes.get(entry.note, 0) + len(entry.body) + 1
        group = groups.setdefault(entry.note, [])
        if size <= job.limit or not group:
            group.append(entry)
            held += entry.size + BESIDE
        else:
            held -= sum(it.size + BESIDE for it in group[1:])
            del group[1:]
        if held > max(job.memory, 2 * job.limit) and len(groups) > 1:
            return None
    return [_record(job, owner, group, sizes[owner]) for owner, group in groups.items()]


def _record(job: Job, owner: bytes, rows: Sequence[Entry], size: int) -> Entry:
    head = rows[0][:4]
    if size > job.limit:
        return Entry(*head, Form.FAULT, msgspec.json.encode(too_large(size, job.limit)), b"null")
    body = b'{"id":%b,"%b":[%b]' % (owner, job.stage.encode(), b",".join(row.body for row in rows))
    return Entry(*head, Form.RECORD, b"", body + _places(job, rows))


def _alone(job: Job, row: Entry) -> Entry:
    body = b'{"%b":[%b]' % (job.stage.encode(), row.body) + _places(job, [row])
    return row._replace(form=Form.RECORD, body=body)


def _places(job: Job, rows: Sequence[Entry]) -> bytes:
    """Return the end of a record: the places of its rows, for people."""
    places = [f"{job.names[it.source]}:{it.ordinal}" for it in rows]
    return b',"%b":%b}' % (ROWS.encode(), msgspec.json.encode(places))


def _write(path: Path, value: Split | About) -> None:
    with whole_file(path) as part:
        part.write_bytes(msgspec.json.encode(value))


def read_from(path: Path, at: int) -> Iterator[Entry]:
    """Read the entries of a finished file from an offset on."""
    with open(path, "rb", BUFFER, opener=own) as file:
        file.seek(at)
        yield from entries(file)
