"""The fence: each checkpoint's newest request number, kept in the state folder, so that an older copy is refused."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from streammig.checkpoint.lock import holding, is_locked
from streammig.checkpoint.sqlite import Role, SharedFile, create_owner_only, translated
from streammig.errors import Unusable, counted
from streammig.model import Place


class Mark(NamedTuple):
    """The progress of a checkpoint's requests.

    `tick` is the number of its newest request, from 1. `stage` is the ordinal of the last stage with a request, and
    `place` the furthest place sent of it. `parts` is the tick of the newest request for a part of a batch or for dead
    letters: an older copy can't rebuild such a batch.
    """

    tick: int = 0
    stage: int = 0
    place: Place = Place()
    parts: int = 0

    def covers(self, stage: int, begin: Place) -> bool:
        """Tell whether a request may have carried the unit that begins there; `stage` is an ordinal."""
        return (stage, begin[:3]) < (self.stage, self.place[:3])

    def joined(self, other: Mark) -> Mark:
        """Return the maximum of both marks, part by part."""
        stage, place = max((self.stage, self.place), (other.stage, other.place))
        return Mark(max(self.tick, other.tick), stage, place, max(self.parts, other.parts))


class FenceFile(SharedFile):
    """The SQLite file of one checkpoint's fence.

    Only the holder of the fence's lock writes it, so it may use a WAL: a commit then syncs once, not four times.
    """

    role = Role(
        "the fence file", "fence", "Move it away. The next run of its checkpoint then asks for --checkpoint-is-current."
    )
    application = 0x734D466E  # "sMFn"
    format = 2
    # One row with the columns of `Mark`; the place is source, offset, unit and record. Values only rise.
    schema = """
CREATE TABLE fence (
    id INTEGER PRIMARY KEY, tick INTEGER NOT NULL, stage INTEGER NOT NULL, source INTEGER NOT NULL,
    offset INTEGER NOT NULL, unit INTEGER NOT NULL, record INTEGER NOT NULL, parts INTEGER NOT NULL)"""

    def mark(self) -> Mark | None:
        """Return the stored mark, or None before the first request."""
        rows = self.rows("SELECT tick, stage, source, offset, unit, record, parts FROM fence")
        return Mark(rows[0][0], rows[0][1], Place(*rows[0][2:6]), rows[0][6]) if rows else None

    def raise_to(self, mark: Mark) -> None:
        """Raise the stored mark to at least `mark`, durably."""
        self._log_ahead()
        with self.transaction():
            known = self.mark()
            mark = mark if known is None else mark.joined(known)
            row = 1, mark.tick, mark.stage, *mark.place, mark.parts
            self.change("INSERT OR REPLACE INTO fence VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)


def fence_path(state_folder: Path, run_id: str) -> Path:
    """Return the fence's path. It is named by the id inside the checkpoint, so copies and new API keys share it."""
    return state_folder / f"{run_id}.fence"


class Fence:
    """The fence of one checkpoint while a run holds it.

    `newer` is the mark of a lost newer copy, None if there was none. `known` is False where the state folder had no
    fence for an existing checkpoint.
    """

    def __init__(self, state_folder: Path, run_id: str, newer: Mark | None = None, *, known: bool = True) -> None:
        self.run_id = run_id
        self.newer = newer
        self.known = known
        self._path = fence_path(state_folder, run_id)
        self._file: FenceFile | None = None

    def raise_to(self, mark: Mark) -> None:
        """Raise the fence, after the commit that numbers a request and before the request's first byte (I2)."""
        if self._file is None:
            self._file = FenceFile(self._path)
        self._file.raise_to(mark)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def fenced(
    path: Path, state_folder: Path, copy: tuple[str, int] | None, command: str, *, current: bool, lost: bool
) -> Iterator[Fence]:
    """Hold the fence of the checkpoint at `path`. `copy` is its id and tick; None for a new checkpoint.

    `current` and `lost` are the operator's word: this copy is the newest, or the newest copy is lost. Changes no file
    but the lock. Raises `Unusable` if requests are newer than the copy, or if the state folder has no fence for it;
    raises `Held` while this host runs another copy.
    """
    run_id, tick = copy or (secrets.token_hex(8), 0)
    if copy is not None and not current and _known(state_folder, run_id) is None:
        raise Unusable(
            "fence-missing",
            f"the state folder {state_folder} has no fence for the checkpoint {path}: it comes from another host,"
            " or the folder was lost",
            "Nothing was sent. Restore the state folder. Or, if you know that this is the newest copy of the"
            " checkpoint, run the same command once with --checkpoint-is-current.",
        )
    lock = _lock_path(state_folder, run_id)
    with translated(lock, FenceFile.role):
        create_owner_only(lock)
    said = f"another copy of the checkpoint {path} is being run"
    hint = "Both would send the same records. Use only one of them, best the one that is running now."
    with holding(lock, command, said, hint):
        known = _known(state_folder, run_id)
        newer = known if known is not None and known.tick > tick else None
        if newer is not None:
            _refuse(path, newer, tick, lost)
        fence = Fence(state_folder, run_id, newer, known=copy is None or known is not None)
        try:
            yield fence
        finally:
            fence.close()


def refuse_stale(path: Path, state_folder: Path, run_id: str, tick: int) -> None:
    """Raise `Unusable` if requests are newer than this copy; for commands that only read. Changes no file."""
    known = _known(state_folder, run_id)
    if known is not None and known.tick > tick:
        _refuse(path, known, tick, lost=False)


def has_sent(state_folder: Path, run_id: str) -> bool:
    """Tell whether this host has begun a request of a checkpoint, or is running it now."""
    known = _known(state_folder, run_id)
    return (known is not None and known.tick > 0) or is_locked(_lock_path(state_folder, run_id))


def _lock_path(state_folder: Path, run_id: str) -> Path:
    return state_folder / f"{run_id}.lock"


def _known(state_folder: Path, run_id: str) -> Mark | None:
    """Read a checkpoint's mark from the state folder; None without one. Changes no file."""
    path = fence_path(state_folder, run_id)
    if not FenceFile.is_there(path):
        return None
    file = FenceFile(path, read_only=True)
    try:
        file.verify()  # a truncated file reads as NULLs, without an error
        return file.mark()
    finally:
        file.close()


def _refuse(path: Path, newer: Mark, tick: int, lost: bool) -> None:
    """Raise `Unusable`, unless the newest copy is lost and this one can rebuild every batch that was sent since."""
    what = f"{path} is an older copy of the checkpoint: {counted(newer.tick - tick, 'request')} newer than this copy"
    if not lost:
        raise Unusable(
            "checkpoint-stale",
            what,
            "Nothing was sent. Use the newest copy, with its -wal file. If it is lost, add --newest-is-lost to the"
            " `streammig run` command once.",
        )
    if newer.parts > tick:
        raise Unusable(
            "checkpoint-stale-for-good",
            f"{what}, some of them for parts of refused batches or for dead letters unknown to it",
            "Nothing was sent, and this copy can't go on: it can't tell which records those requests carried. Use the"
            " newest copy.",
        )
