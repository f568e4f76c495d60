"""Reads a stage once before the first request: its keys go into an index, its other findings into `Found`."""

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
from streammig.scan.findings import Break, Found, Spot, keep, kept
from streammig.scan.looks import Look
from streammig.scan.pieces import Map, Noting
from streammig.scan.progress import Pace
from streammig.scan.reading import Reading, Tell
from streammig.scan.tasks import Tasks
from streammig.scan.workers import Workers
from streammig.sources.source import Source
from streammig.target import Rules


@dataclass(frozen=True, slots=True)
class StageScan:
    """A stage to be scanned; its index and its findings go into `folder`.

    `owners`: what other stages hold belongs to its records. `policy` says which duplicates the index of owners notes;
    None: no index. `begun`: records of it may have been sent. `judged`: its findings may stop the run; else it is
    scanned for its index alone. `frontier` is how far a run has read it; None: in full. `made_by` is the version and
    the mapping of now, "" where these can't be told. Unless these made the index, keys before the frontier stay as they
    were indexed, and those behind it are scanned again. `key` is as in `Build`. `beside` is what else needs room on
    that disk, in bytes. Where there is something else to be noted of the spans, `noted` makes what notes it, out of the
    index of the customers. `take` gets each note, with how many records come before those that it counts from 0; then
    the stage is read even if its findings are kept.
    """

    name: str
    source: Source
    rules: Rules
    shape: Mapping[str, Any]
    folder: Path
    owners: bool = False
    policy: Policy | None = "first"
    begun: bool = False
    judged: bool = True
    frontier: Place | None = None
    made_by: str = ""
    key: bytes = b""
    beside: Mapping[str, int] = field(default_factory=dict)
    noted: Callable[[KeyIndex | None], Noting] | None = None
    noting: Noting | None = None
    take: Callable[[Any, int], None] | None = None


@dataclass(frozen=True, slots=True)
class Scanned:
    """The result: the index, or None where the stage has none, and the findings. The caller closes the index."""

    index: KeyIndex | None
    found: Found


def read_through(
    job: StageScan,
    build: Build | None,
    tell: Tell,
    tasks: Tasks,
) -> Found:
    """Scan every span of a stage. Raises `Halted` once the tasks are to halt, and `MachineFault`."""
    breaks: list[Break] = []
    records, look = 0, Look()
    if build is not None:
        build.keep()
    mapped = Map(job.source, job.rules, build.key if build is not None else b"", job.noting)
    for part in Reading(mapped, tasks, tell).parts(build.frontier if build is not None else START):
        records += part.records
        breaks += part.breaks
        look.absorb(part.look, part.counted)
        if build is not None:
            build.add(part.scanned())
        if job.take is not None:
            job.take(part.note, part.counted)
    whole = build is None or build.frontier == START
    return _findings(records, breaks, look, job.source.fingerprints(), whole=whole)


def _findings(
    records: int, breaks: Sequence[Break], look: Look, marks: Sequence[Mapping[str, Any]], *, whole: bool
) -> Found:
    """The findings of a stage; `whole`: it was read from its beginning."""
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


class Making:
    """One scan under way in the reader's thread. Another thread ends it with `stop`."""

    def __init__(self, job: StageScan, token: str, pace: Pace, workers: Workers | None = None) -> None:
        self._job, self._token, self._pace = job, token, pace
        self._build: Build | None = None
        self._tasks = Tasks(workers, Event(), pace.say)

    def work(self) -> Scanned:
        """The result that earlier calls kept; else scan now, and keep the result."""
        job, policy = self._job, self._job.policy
        own_folder(job.folder)
        bound, path = binding(self._token, policy or "none"), job.folder / f"{job.name}.found"
        earlier = open_index(job.folder / job.name, self._token, policy) if policy else None
        found = kept(path, bound)
        same = earlier is not None and bool(job.made_by) and job.made_by == earlier.about.made_by
        if found is not None and (same or (job.frontier is None and (earlier is not None or not policy))):
            if job.take is not None:
                self._read(None)
            return Scanned(earlier, found)
        if not policy:
            found = self._read(None)
            keep(path, bound, found)
            return Scanned(None, found)
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
            keep(path, bound, found)
            return Scanned(index, found)
        finally:
            if earlier is not None:
                earlier.close()

    def _read(self, build: Build | None) -> Found:
        what = f"scanning the {self._job.name} once"
        tell = self._pace.telling(what, self._job.source)
        return read_through(self._job, build, tell, self._tasks)

    def stop(self) -> None:
        self._tasks.halt.set()
        if self._build is not None:
            self._build.close()


async def scan_stage(job: StageScan, reader: Executor, pace: Pace, workers: Workers | None = None) -> Scanned:
    """The findings and the index of a stage: from an earlier call, or made now in the thread of `reader`.

    Raises `MachineFault` before it begins where the disk has too little room.
    """
    marks = [{**mark, "file": ""} for mark in job.source.fingerprints()]  # a moved export is the same export
    made_by = job.made_by if job.policy in (None, "all") else ""  # their result is kept in full or not at all
    token = json.dumps([marks, dict(job.shape), made_by, binding(job.key.hex(), "none")], sort_keys=True)
    making = Making(job, token, pace, workers)
    work = asyncio.get_running_loop().run_in_executor(reader, making.work)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        making.stop()  # the scan ends, and so does the work of its thread
        await asyncio.gather(work, return_exceptions=True)
        if work.done() and work.exception() is None and (index := work.result().index) is not None:
            index.close()
        raise
