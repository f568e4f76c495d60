"""The outbox: a folder beside the checkpoint with one file for the body of each batch that is not settled.

A file holds the request body, a table of its records, a table of a few of them, and a trailer of fixed length. So
sending reads the body alone and decodes nothing, and settling reads the few records alone. `<stage>.samples` keeps
sample records of accepted batches, for read-backs. `<stage>-<seq>.answer` is the target's answer for a batch, verbatim.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import msgspec

from streammig.checkpoint.contents import FEW, Body, Contents, decode_contents, spread
from streammig.disk import create, disk_fault, own, own_folder, read_own, remove_own, sync, sync_names
from streammig.errors import Problem, Unusable
from streammig.model import Batch, Draft, Record

PART = ".part"  # suffix of a body that belongs to no batch yet
ANSWER = ".answer"  # suffix of a target's answer
_OURS = re.compile(r"[0-9a-f]{16}\.part|[a-z_]+-[0-9]+(\.answer)?|[a-z_]+\.samples")  # names of a run's own files
SAMPLE = 5  # records kept of an accepted batch
_TRAILER = Struct("!QQQ16s16s8s")  # the fields of `_Trailer`
_MARK = b"smig-out"
_FRAME = Struct("!Q16s")  # length and hash of the entry that follows in a file of samples
_ENCODER = msgspec.msgpack.Encoder()
_SAMPLES = msgspec.msgpack.Decoder(list[Record])


def outbox_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".outbox")


def write_body(folder: Path, draft: Draft) -> Draft:
    """Write a draft's body and tables to a new file, durably; return the draft with that file's name instead."""
    with _translated(folder):
        own_folder(folder)
        name = secrets.token_hex(8) + PART
        parts = draft.body, draft.table, draft.few
        trailer = _TRAILER.pack(*map(len, parts), *map(_hash, parts[1:]), _MARK)
        with create(folder / name) as file:
            for piece in (*parts, trailer):
                file.write(piece)
            file.flush()
            os.fdatasync(file.fileno())
    return msgspec.structs.replace(draft, body=b"", table=b"", few=b"", file=name, size=len(draft.body))


class _Trailer(NamedTuple):
    """The end of a body's file: the lengths of its three parts in bytes, the hashes of the tables, and a mark."""

    body: int
    table: int
    few: int
    of_table: bytes
    of_few: bytes
    mark: bytes


@dataclass(frozen=True, slots=True)
class _Stored:
    """The first `size` bytes of an open file, read by slices."""

    descriptor: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice, /) -> bytes:
        begin, end, _ = part.indices(self.size)
        return os.pread(self.descriptor, end - begin, begin)


class Outbox:
    """The outbox folder, and the changes of the open transaction to it.

    Bodies appear before the commit and go after it, so that each batch that is not settled always has its body.
    `can_tell(stage, record)` says whether a read-back can look for a record: only such records make samples.
    `afterwards` runs the deletions that follow a commit, in order; nothing waits for them.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.folder = outbox_path(checkpoint)
        self.can_tell: Callable[[str, Record], bool] = lambda stage, record: True
        self.afterwards: Callable[[Callable[[], None]], object] = at_once
        self._dropped: list[Path] = []  # files to delete after the commit
        self._sampled: set[Path] = set()  # files of samples to sync before that
        self._unsynced = False  # whether the folder has new names to sync before the commit

    # -- reading -----------------------------------------------------------------------------------------------------

    def body(self, batch: Batch) -> bytes:
        """Return the body of a batch that is not settled. Raises `Unusable` if it is missing or altered."""
        return self._read(batch, batch.size)

    def contents(self, batch: Batch, count: int | None = None) -> Contents:
        """Return the records of a batch that is not settled, or `count` of them, spread evenly. Raises as `body`."""
        data = self._read(batch, None)
        trailer = self._trailer(batch, len(data), data[-_TRAILER.size :])
        table = data[batch.size : batch.size + trailer.table]
        return self._decode(batch, data[: batch.size], table, trailer.of_table, count)

    def _trailer(self, batch: Batch, length: int, data: bytes) -> _Trailer:
        """Decode the trailer of a file of `length` bytes. Raises `Unusable` if the parts don't add up to that."""
        found = _Trailer(*_TRAILER.unpack(data.rjust(_TRAILER.size, b"\0")))
        if (found.mark, found.body, found.body + found.table + found.few + len(data)) != (_MARK, batch.size, length):
            raise self.lost([batch])
        return found

    def _decode(self, batch: Batch, body: Body, table: bytes, check: bytes, count: int | None) -> Contents:
        """Decode a body by its table. Raises `Unusable` if the table has another hash, or does not fit the body."""
        if check != _hash(table):
            raise self.lost([batch])
        try:
            return decode_contents(body, table, count)
        except (msgspec.DecodeError, ValueError, IndexError):  # the hash is right, yet it is no table of this body
            raise self.lost([batch]) from None

    def holds(self, batch: Batch) -> bool:
        """Tell whether the body of a batch and the table of its records are there and unaltered."""
        try:
            self.contents(batch, 0)
        except Unusable:
            return False
        return True

    def records(self, batch: Batch) -> list[Record]:
        """Return the records of a batch that is not settled, or the samples of an accepted one."""
        return self._samples(batch) if batch.sample is not None else self.contents(batch).records

    def _read(self, batch: Batch, size: int | None) -> bytes:
        try:
            with open(self._path(batch.stage, batch.seq), "rb", opener=own, buffering=0) as file:
                data = file.read() if size is None else file.read(size)
        except OSError:
            raise self.lost([batch]) from None
        body = data if len(data) == batch.size else data[: batch.size]
        if hashlib.sha256(body).digest() != batch.digest:
            raise self.lost([batch])
        return data

    def lost(self, batches: list[Batch]) -> Unusable:
        """Return the error for batches whose bodies are missing or altered."""
        count = len(batches)
        names = ", ".join(f"{it.seq} of {it.stage}" for it in batches[:20])
        return Unusable(
            "body-lost",
            f"{self.folder}: bodies missing or altered: {count} (batch {names})",
            "Nothing was sent. Restore the outbox that belongs to this checkpoint. If it is lost, add --bodies-lost to"
            " the `streammig run` command once: these batches become dead letters, unknown ones are parked.",
        )

    def _samples(self, batch: Batch) -> list[Record]:
        path = self._samples_path(batch.stage)
        with suppress(OSError, msgspec.DecodeError), open(path, "rb", opener=own) as file:
            file.seek(batch.sample or 0)
            length, check = _FRAME.unpack(file.read(_FRAME.size).ljust(_FRAME.size, b"\0"))
            data = file.read(min(length, batch.size + (1 << 20)))
            if len(data) == length and _hash(data) == check:
                return _SAMPLES.decode(data)
        return []  # samples are only evidence: without them a batch is parked at worst

    def answer(self, batch: Batch) -> str:
        """Return the target's answer for a batch that is not settled, verbatim; "" without one."""
        try:
            return read_own(self._answer_path(batch.stage, batch.seq)).decode()
        except (OSError, Problem):
            return ""

    def keep_answer(self, batch: Batch, said: str) -> None:
        """Keep the target's answer as long as the body. Ignores a full disk: nothing depends on the answer."""
        with suppress(OSError, Problem), open(self._answer_path(batch.stage, batch.seq), "wb", opener=own) as file:
            file.write(said.encode())

    # -- within a transaction ----------------------------------------------------------------------------------------

    def place(self, draft: Draft, stage: str, seq: int) -> None:
        """Rename a draft's body to that of a batch; writes it first if it has no file yet."""
        if not draft.file:
            draft = write_body(self.folder, draft)
        with _translated(self.folder):
            (self.folder / draft.file).replace(self._path(stage, seq))
        self._unsynced = True

    def drop(self, stage: str, seq: int) -> None:
        """Delete the body and the answer of a batch after the commit."""
        self._dropped += [self._path(stage, seq), self._answer_path(stage, seq)]

    def settle(self, batch: Batch) -> int | None:
        """Keep samples of an accepted batch, and drop its body.

        Returns the byte offset of the samples in their file; None if the batch gives none.
        """
        self.drop(batch.stage, batch.seq)
        try:
            # The hash was checked when it was sent; to read the whole body again would be the main cost here.
            with open(self._path(batch.stage, batch.seq), "rb", opener=own) as file:
                whole = _Stored(file.fileno(), os.fstat(file.fileno()).st_size)
                trailer = self._trailer(batch, whole.size, whole[-_TRAILER.size :])
                few = whole[-_TRAILER.size - trailer.few : -_TRAILER.size]
                body = _Stored(file.fileno(), batch.size)
                for count in (SAMPLE, FEW):  # the first is enough in most cases
                    records = self._decode(batch, body, few, trailer.of_few, count).records
                    found = [it for it in records if self.can_tell(batch.stage, it)]
                    if len(found) == SAMPLE:
                        break
        except (OSError, Problem):
            return None  # the batch is accepted, even if its file is damaged by now
        chosen = spread(found, SAMPLE)
        if not chosen:
            return None
        data = _ENCODER.encode(chosen)
        path = self._samples_path(batch.stage)
        with _translated(self.folder), open(path, "ab", opener=own) as file:
            at = file.tell()
            file.write(_FRAME.pack(len(data), _hash(data)) + data)
        self._sampled.add(path)
        self._unsynced |= not at
        return at

    def forget_samples(self, stage: str) -> None:
        """Delete the samples of a stage after the commit."""
        self._dropped.append(self._samples_path(stage))

    def sync(self) -> None:
        """Make new names durable, before the commit."""
        if self._unsynced:
            with _translated(self.folder):
                sync_names(self.folder)
        self._unsynced = False

    def committed(self) -> None:
        """Delete the dropped files, after the commit and a sync of the samples.

        If either fails, the sweep at the end of the run deletes them.
        """
        if self._dropped:
            self.afterwards(partial(_delete, self._sampled, self._dropped))
        self._dropped, self._sampled = [], set()

    def rolled_back(self) -> None:
        self._dropped, self._sampled, self._unsynced = [], set(), False

    def sweep(self, kept: Iterable[str]) -> None:
        """Delete all bodies, answers and samples except those `kept`, and the folder if it is empty.

        The caller must hold the checkpoint's lock.
        """
        names = set(kept)
        remove_own(self.folder, lambda it: it.removesuffix(ANSWER) not in names and bool(_OURS.fullmatch(it)))

    def _path(self, stage: str, seq: int) -> Path:
        return self.folder / f"{stage}-{seq}"

    def _answer_path(self, stage: str, seq: int) -> Path:
        return self.folder / f"{stage}-{seq}{ANSWER}"

    def _samples_path(self, stage: str) -> Path:
        return self.folder / f"{stage}.samples"


def at_once(work: Callable[[], None]) -> None:
    work()


def _delete(samples: Iterable[Path], dropped: Iterable[Path]) -> None:
    with suppress(OSError, Problem):
        for path in samples:
            sync(path)
        for path in dropped:
            with suppress(FileNotFoundError):
                path.unlink()


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Nothing was sent that it does not hold. Mend the disk, then run the same command."
        raise disk_fault("outbox-not-writable", f"{folder}: the outbox can't be written", hint, error) from None
