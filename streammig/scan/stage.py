"""Scan a stage once before the first request: its keys go into an index, its other findings into `Found`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from msgspec.structs import replace

from streammig.dedup import (
    Build,
    KeyIndex,
    Policy,
    binding,
    most_customers,
    open_index,
    room_of_index,
)
from streammig.disk import check_room, own_folder
from streammig.model import START, Place
from streammig.scan.findings import Found, Spot, load, save
from streammig.scan.looks import Look
from streammig.scan.pieces import Map, NoteMaker
from streammig.scan.progress import ScanProgress
from streammig.scan.reading import Reading, Tell
from streammig.scan.tasks import Tasks
from streammig.scan.workers import Workers
from streammig.sources.source import Break, Source
from streammig.target import Rules


@dataclass(frozen=True, slots=True)
class StageScan:
    """A stage to be scanned. Its index and its findings go into `folder`.

    An index of an earlier call may have been made by another version or mapping than `made_by`. Then its keys before
    `frontier` stay, and the rest is scanned again.
    """

    name: str
    source: Source
    rules: Rules
    shape: Mapping[str, Any]  # the settings that the findings depend on
    folder: Path
    owners: bool = False  # whether the records of other stages belong to its records
    policy: Policy | None = "first"  # which duplicates the index notes; None: no index
    begun: bool = False  # whether records of it may have been sent
    judged: bool = True  # whether findings may stop the run; else only the index is wanted
    frontier: Place | None = None  # how far a run has read it; None: to the end
    made_by: str = ""  # version and mapping of this call; "" if unknown
    key: bytes = b""  # as in `Build`
    beside: Mapping[str, int] = field(default_factory=dict)  # other needs on the folder's disk, in bytes
    note_maker_of: Callable[[KeyIndex | None], NoteMaker] | None = None  # makes `note_maker`, from the customers' index
    note_maker: NoteMaker | None = None
    take_note: Callable[[Any, int], None] | None = None
    """Gets each note, and the number of records before its piece. With it, a stage with findings is read again."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The index, None if the stage has none, and the findings. The caller closes the index."""

    index: KeyIndex | None
    found: Found


def read_through(
    job: StageScan,
    build: Build | None,
    tell: Tell,
    tasks: Tasks,
) -> Found:
    """Scan every span of a stage. Raises `Halted` and `MachineFault`."""
    breaks: list[Break] = []
    records, look = 0, Look()
    if build is not None:
        build.keep()
    start, key = (build.frontier, build.key) if build is not None else (START, b"")
    mapped = Map(job.source, job.rules, key, job.note_maker)
    for part in Reading(mapped, tasks, tell).parts(start):
        records += part.records
        breaks += part.breaks
        look.absorb(part.look, part.counted)
        if build is not None:
            build.add(part.scanned())
        if job.take_note is not None:
            job.take_note(part.note, part.counted)
    return _findings(records, breaks, look, job.source.fingerprints(), whole=start == START)


def _findings(
    records: int, breaks: Sequence[Break], look: Look, marks: Sequence[Mapping[str, Any]], *, whole: bool
) -> Found:
    """Sum up the findings of a stage; `whole`: it was read from its beginning."""
    found = Found(
        records=records,
        breaks=tuple(breaks),
        marks=tuple((field, value, count) for (field, value), count in look.marks.most_common()),
        marked=Spot.of(look.marked, marks) if look.marked is not None else None,
    )
    if not whole or look.kept or look.bad is None:
        return found
    position, message = look.bad
    return replace(found, refused=dict(look.refused), bad=Spot.of(position, marks), example=message)


class Scanning:
    """One scan: `work` runs in the reader's thread, and another thread may `stop` it."""

    def __init__(self, job: StageScan, token: str, progress: ScanProgress, workers: Workers | None = None) -> None:
        self._job, self._token, self._progress = job, token, progress
        self._build: Build | None = None
        self._tasks = Tasks(workers, Event(), progress.say)

    def work(self) -> ScanResult:
        """Return the result of an earlier call; else scan now, and save the result."""
        job, policy = self._job, self._job.policy
        own_folder(job.folder)
        bound, path = binding(self._token, policy or "none"), job.folder / f"{job.name}.found"
        earlier = open_index(job.folder / job.name, self._token, policy) if policy else None
        found = load(path, bound)
        same = earlier is not None and bool(job.made_by) and job.made_by == earlier.about.made_by
        if found is not None and (same or (job.frontier is None and (earlier is not None or not policy))):
            if job.take_note is not None:
                self._read(None)
            return ScanResult(earlier, found)
        if not policy:
            found = self._read(None)
            save(path, bound, found)
            return ScanResult(None, found)
        try:
            marks = job.source.fingerprints()
            most = sum(most_customers(mark) for mark in marks)
            hint = " A new one with --unchecked does without the index."
            check_room(job.folder, {**room_of_index(most), **job.beside}, hint)
            start = job.frontier if job.frontier is not None and earlier is not None else START
            with Build(
                job.folder / job.name,
                self._token,
                policy=policy,
                earlier=earlier,
                frontier=start,
                made_by=job.made_by,
                key=job.key,
            ) as build:
                self._build = build
                found = self._read(build)
                index = build.finish(self._tasks.each)
            save(path, bound, found)
            return ScanResult(index, found)
        finally:
            if earlier is not None:
                earlier.close()

    def _read(self, build: Build | None) -> Found:
        what = f"scanning the {self._job.name} once"
        tell = self._progress.tracker(what, self._job.source)
        return read_through(self._job, build, tell, self._tasks)

    def stop(self) -> None:
        self._tasks.halt.set()
        if self._build is not None:
            self._build.close()


async def scan_stage(
    job: StageScan, reader: Executor, progress: ScanProgress, workers: Workers | None = None
) -> ScanResult:
    """Scan a stage in the thread of `reader`, or return the result of an earlier call.

    Raises `MachineFault` before it begins if the disk has too little room.
    """
    marks = [{**mark, "file": ""} for mark in job.source.fingerprints()]  # a moved export is the same export
    made_by = job.made_by if job.policy in (None, "all") else ""  # no part of such a result outlives a change
    token = json.dumps([marks, dict(job.shape), made_by, binding(job.key.hex(), "none")], sort_keys=True)
    scanning = Scanning(job, token, progress, workers)
    work = asyncio.get_running_loop().run_in_executor(reader, scanning.work)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        scanning.stop()  # the scan ends, and so does the work of its thread
        await asyncio.gather(work, return_exceptions=True)
        if work.done() and work.exception() is None and (index := work.result().index) is not None:
            index.close()
        raise
