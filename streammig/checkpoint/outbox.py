"""The outbox: the bodies of batches that are not settled, each in a file of its own beside the checkpoint.

A file holds the request body, a table of its records, a table of a few of them, and a trailer of fixed length. So
sending reads only the body's bytes and decodes nothing, and settling reads only the few. `<stage>.samples` keeps some
records of each accepted batch, for read-backs. `<stage>-<seq>.answer` is what the target said of a batch, as it came.
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

PART = ".part"  # ends the name of a body that no batch owns yet
ANSWER = ".answer"  # ends the name of what the target said
_OURS = re.compile(
    r"[0-9a-f]{16}\.part|[a-z_]+-[0-9]+(\.answer)?|[a-z_]+\.samples"
)  # the names of what a run puts there
SAMPLE = 5  # records kept of an accepted batch
_TRAILER = Struct("!QQQ16s16s8s")  # as `_Trailer`
_MARK = b"smig-out"
_FRAME = Struct("!Q16s")  # length and hash of what follows in a file of samples
_ENCODER = msgspec.msgpack.Encoder()
_SAMPLES = msgspec.msgpack.Decoder(list[Record])


def outbox_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".outbox")


def write_body(folder: Path, draft: Draft) -> Draft:
    """Write a draft's body and table under a name of its own, durably; the same draft with that name in its place."""
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
    """How long the parts before it are, in bytes, the hashes of the tables, and a mark."""

    body: int
    table: int
    few: int
    of_table: bytes
    of_few: bytes
    mark: bytes


@dataclass(frozen=True, slots=True)
class _Stored:
    """The first `size` bytes of an open file, read slice by slice."""

    descriptor: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice, /) -> bytes:
        begin, end, _ = part.indices(self.size)
        return os.pread(self.descriptor, end - begin, begin)


class Outbox:
    """The folder, and what the open transaction of the checkpoint does to it.

    `place` comes before the commit and `drop` takes effect after it: at every moment each batch that is not settled
    has its body. `tellable` says which records of an accepted batch a read-back can say something of. `afterwards` does
    what may come later than the commit, in order: nothing waits for it.
    """

    def __init__(self, checkpoint: Path, tellable: Callable[[str, Record], bool] = lambda stage, record: True) -> None:
        self.folder = outbox_path(checkpoint)
        self.tellable = tellable
        self.afterwards: Callable[[Callable[[], None]], object] = at_once
        self._dropped: list[Path] = []
        self._sampled: set[Path] = set()  # files of samples that are not durable yet
        self._unsynced = False  # whether there are names that are not durable yet

    # -- reading -----------------------------------------------------------------------------------------------------

    def body(self, batch: Batch) -> bytes:
        """The body of a batch that is not settled. Raises `Unusable` where it is not what was sealed."""
        return self._read(batch, batch.size)

    def contents(self, batch: Batch, count: int | None = None) -> Contents:
        """The records of a batch that is not settled, or `count` of them, spread evenly. Raises like `body`."""
        data = self._read(batch, None)
        trailer = self._trailer(batch, len(data), data[-_TRAILER.size :])
        table = data[batch.size : batch.size + trailer.table]
        return self._taken_apart(batch, data[: batch.size], table, trailer.of_table, count)

    def _trailer(self, batch: Batch, length: int, data: bytes) -> _Trailer:
        """The trailer of a file of so many bytes, which tells what stands behind the body."""
        found = _Trailer(*_TRAILER.unpack(data.rjust(_TRAILER.size, b"\0")))
        if (found.mark, found.body, found.body + found.table + found.few + len(data)) != (_MARK, batch.size, length):
            raise self.lost([batch])
        return found

    def _taken_apart(self, batch: Batch, body: Body, table: bytes, check: bytes, count: int | None = None) -> Contents:
        if check != _hash(table):
            raise self.lost([batch])
        try:
            return decode_contents(body, table, count)
        except (msgspec.DecodeError, ValueError, IndexError):  # sound, but no table of a body
            raise self.lost([batch]) from None

    def holds(self, batch: Batch) -> bool:
        """Whether the body of a batch, and the table of its records, are what was sealed."""
        try:
            self.contents(batch, 0)
        except Unusable:
            return False
        return True

    def records(self, batch: Batch) -> list[Record]:
        """The records of a batch; of an accepted one the samples that were kept."""
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
        count = len(batches)
        names = ", ".join(f"{it.seq} of {it.stage}" for it in batches[:20])
        return Unusable(
            "body-lost",
            f"{self.folder}: bodies missing or altered: {count} (batch {names})",
            "Nothing of them was sent. Put the outbox back that belongs to this checkpoint. Where it is lost,"
            " let its `streammig run` go on once with --bodies-lost: these batches become dead letters, those of"
            " unknown outcome are parked.",
        )

    def _samples(self, batch: Batch) -> list[Record]:
        path = self._samples_path(batch.stage)
        with suppress(OSError, msgspec.DecodeError), open(path, "rb", opener=own) as file:
            file.seek(batch.sample or 0)
            length, check = _FRAME.unpack(file.read(_FRAME.size).ljust(_FRAME.size, b"\0"))
            data = file.read(min(length, batch.size + (1 << 20)))
            if len(data) == length and _hash(data) == check:
                return _SAMPLES.decode(data)
        return []  # they are evidence only: without it a batch is parked at worst

    def answer(self, batch: Batch) -> str:
        """What the target said of a batch that is not settled, as it came; "" where nothing is kept."""
        try:
            return read_own(self._answer_path(batch.stage, batch.seq)).decode()
        except (OSError, Problem):
            return ""

    def keep_answer(self, batch: Batch, said: str) -> None:
        """Keep what the target said until the body goes. Nothing depends on it: a disk that does not take it is no
        fault."""
        with suppress(OSError, Problem), open(self._answer_path(batch.stage, batch.seq), "wb", opener=own) as file:
            file.write(said.encode())

    # -- within a transaction ----------------------------------------------------------------------------------------

    def place(self, draft: Draft, stage: str, seq: int) -> None:
        """A draft's body is that of this batch from now on."""
        if not draft.file:
            draft = write_body(self.folder, draft)
        with _translated(self.folder):
            (self.folder / draft.file).replace(self._path(stage, seq))
        self._unsynced = True

    def drop(self, stage: str, seq: int) -> None:
        """The body is not needed any more once the transaction is committed."""
        self._dropped += [self._path(stage, seq), self._answer_path(stage, seq)]

    def settle(self, batch: Batch) -> int | None:
        """Keep samples of an accepted batch, and drop its body; where the samples stand, None without any."""
        self.drop(batch.stage, batch.seq)
        try:
            # Its hash was right as it was sent, and to read it again would cost more than all else here.
            with open(self._path(batch.stage, batch.seq), "rb", opener=own) as file:
                whole = _Stored(file.fileno(), os.fstat(file.fileno()).st_size)
                trailer = self._trailer(batch, whole.size, whole[-_TRAILER.size :])
                few = whole[-_TRAILER.size - trailer.few : -_TRAILER.size]
                body = _Stored(file.fileno(), batch.size)
                for count in (SAMPLE, FEW):  # mostly the first will do
                    records = self._taken_apart(batch, body, few, trailer.of_few, count).records
                    found = [it for it in records if self.tellable(batch.stage, it)]
                    if len(found) == SAMPLE:
                        break
        except (OSError, Problem):
            return None  # what was accepted is accepted, whatever became of the file since
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
        """No read-back needs the samples of this stage once the transaction is committed."""
        self._dropped.append(self._samples_path(stage))

    def sync(self) -> None:
        """Make new names durable: before the commit."""
        if self._unsynced:
            with _translated(self.folder):
                sync_names(self.folder)
        self._unsynced = False

    def committed(self) -> None:
        """Unlink what was dropped: after the commit, and behind a sync of the samples. Where either fails, the sweep at
        the run's end does it."""
        if self._dropped:
            self.afterwards(partial(_clear, self._sampled, self._dropped))
        self._dropped, self._sampled = [], set()

    def rolled_back(self) -> None:
        self._dropped, self._sampled, self._unsynced = [], set(), False

    def sweep(self, kept: Iterable[str]) -> None:
        """Unlink every body, with its answer, and file of samples but these, and the folder if it is empty. Only under
        the checkpoint's lock."""
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


def _clear(samples: Iterable[Path], dropped: Iterable[Path]) -> None:
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
