"""The source of a stage whose rows are grouped."""

from __future__ import annotations

import hashlib
import json
import shutil
import weakref
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec

from streammig.disk import read_own, refuse_foreign, remove_own
from streammig.errors import BrokenExport
from streammig.grouping.build import FINISHED, MARK, About, Job, clear, group, is_ours, read_from, room_of
from streammig.grouping.entries import Entry, Form, damaged
from streammig.grouping.rows import OfRows
from streammig.model import START, Place, Span
from streammig.sources.source import Source, Told

FORMAT = 2
SPAN_BYTES, SPAN_RECORDS = 1 << 20, 1000


class GroupedSource(Source):
    """The rows of another source as records `{"id": …, "<stage>": [row, …]}` of whole customers.

    The place of a record is that of its first row, and records come in that order. A row that names no customer is a
    record of its own without an id. A fault stays a fault. `make` groups the rows in `folder`. Without that, as in
    commands beside a run, the first reading groups them in a temporary folder that is deleted with the source.
    """

    def __init__(
        self, rows: Source, mapping: OfRows, stage: str, folder: Path, *, limit: int, mark: str, accept_broken: bool
    ) -> None:
        self.rows, self.stage, self.folder = rows, stage, folder
        self._mapping, self._limit, self._mark, self._accept_broken = mapping, limit, mark, accept_broken
        self._about: About | None = None
        self._aside: Path | None = None

    @property
    def header(self) -> Collection[str] | None:
        return self.rows.header

    def is_made(self, *, begun: bool) -> bool:
        """Whether the rows are grouped. Once records may have been sent (`begun`), any mapping will do."""
        found = self._read(self.folder)
        if found is None or (found.made_by != self._mark and not begun):
            return False
        clear(self.folder, keep=FINISHED)
        self._about = found
        return True

    def make(self, tell: Callable[[Span], None], stopped: Callable[[], bool]) -> None:
        """Group the rows, or go on with an earlier call. Raises as `group`."""
        self._about = group(self._job(self.folder), tell, stopped)

    def room(self) -> int:
        """Estimate the most bytes of disk that grouping needs."""
        return room_of(self.rows)

    def spans(self, start: Place = START, told: Told | None = None) -> Iterator[Span]:
        about = self._known()
        self.unchanged()
        held: list[Entry] = []
        size = 0
        for entry in self._entries(start):
            if held and (entry.source != held[0].source or size >= SPAN_BYTES or len(held) == SPAN_RECORDS):
                yield _span(held)
                held, size = [], 0
            held.append(entry)
            size += entry.size
        if held:
            yield _span(held)
        self.unchanged()
        for it in about.breaks:
            broken = BrokenExport(it.file, it.offset, it.why, whole=it.whole)
            if told is not None:
                told(broken)
            elif not (it.whole or self._accept_broken):
                raise broken

    def share_before(self, place: Place) -> float:
        """Return the share of the records' bytes before a place, from 0 to 1.

        The place itself does not tell: later rows of a customer may be anywhere in the export.
        """
        about = self._known()
        before = self._offset(place)
        for entry in read_from(self._folder / "records", before):
            if entry.key >= place[:2]:
                break
            before += entry.size
        return before / about.size if about.size else 1.0

    def fingerprints(self) -> Sequence[dict[str, Any]]:
        return self.rows.fingerprints()

    def before(self, place: Place) -> str:
        return self.rows.before(place)

    def unchanged(self) -> None:
        self.rows.unchanged()

    def _entries(self, start: Place) -> Iterator[Entry]:
        for entry in read_from(self._folder / "records", self._offset(start)):
            if entry.key >= start[:2]:
                yield entry

    def _offset(self, place: Place) -> int:
        """Return the offset in the finished file from which to read for the records from a place on."""
        marks = read_own(self._folder / "marks")
        count = range(len(marks) // MARK.size)
        at = bisect_right(count, place[:2], key=lambda it: MARK.unpack_from(marks, it * MARK.size)[:2])
        found: int = MARK.unpack_from(marks, (at - 1) * MARK.size)[2] if at else 0
        return found

    @property
    def _folder(self) -> Path:
        return self.folder if self._aside is None else self._aside / self.stage

    def _known(self) -> About:
        """Return the header of the finished file; group the rows first if need be."""
        if self._about is None:
            self._about = self._read(self.folder)
        if self._about is None:
            self._aside = Path(mkdtemp(prefix=".grouping-", dir=self.folder.parent.parent))
            weakref.finalize(self, shutil.rmtree, self._aside, ignore_errors=True)
            self._about = group(self._job(self._folder), lambda _: None, lambda: False)
        return self._about

    def _read(self, folder: Path) -> About | None:
        """What is finished in a folder, if it is of this export. Raises `MachineFault` where the files do not fit, and
        `Unusable` for a link in place of one, or of the folder."""
        for there in (folder.parent, folder):
            refuse_foreign(there, "folder")
        try:
            found = msgspec.json.decode(read_own(folder / "about"), type=About)
        except (OSError, msgspec.MsgspecError):
            return None
        if found.export != self._export():
            return None
        path = folder / "records"
        refuse_foreign(path)
        if not path.exists() or path.stat().st_size != found.size:
            raise damaged(path)
        return found

    def _job(self, folder: Path) -> Job:
        names = [Path(mark["file"]).name for mark in self.rows.fingerprints()]
        return Job(
            source=self.rows, rows=self._mapping, stage=self.stage, folder=folder, limit=self._limit,
            export=self._export(), made_by=self._mark, names=names,
        )  # fmt: skip

    def _export(self) -> str:
        """Return the digest that binds a work file to the export, which may be moved."""
        marks = [{**mark, "file": ""} for mark in self.rows.fingerprints()]
        text = json.dumps([FORMAT, self.stage, self._limit, self._mapping.owner, marks], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _span(held: Sequence[Entry]) -> Span:
    bodies, faults = [], {}
    for at, it in enumerate(held):
        if it.form is Form.FAULT:
            faults[at] = msgspec.json.decode(it.note, type=tuple[int, str, str])
        bodies.append(it.body)
    lengths = list(map(len, bodies))
    starts = list(accumulate((length + 1 for length in lengths[:-1]), initial=0))
    return Span(
        held[0].source, held[0].offset, b",".join(bodies), starts,
        [start + length for start, length in zip(starts, lengths, strict=True)], [it.ordinal for it in held],
        faults=faults, origins=[(it.offset, it.length) for it in held],
    )  # fmt: skip


def grouped_folder(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint's work files. They hold records, so it is owner-only, and deleted after use."""
    return checkpoint.with_name(checkpoint.name + ".grouped")


def forget(checkpoint: Path, stages: Iterable[str]) -> None:
    """Delete the work files of a checkpoint; other files stay."""
    home = grouped_folder(checkpoint)
    if home.is_symlink():
        return
    for folder in (*(home / name for name in stages), home):
        remove_own(folder, is_ours)
