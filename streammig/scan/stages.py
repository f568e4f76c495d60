"""Scans the stages of a run before its first request: what they hold, and what of it stops the run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

from streammig.dedup import KeyIndex
from streammig.dedup import forget as forget_index
from streammig.errors import Problem
from streammig.scan.progress import Pace
from streammig.scan.stage import Scanned, StageScan, scan_stage
from streammig.scan.verdict import Policies, judge, unbalanced
from streammig.telemetry import Notify, Warned


async def scan_stages(
    stack: AsyncExitStack, jobs: Iterable[StageScan], reader: Executor, notify: Notify, policies: Policies
) -> dict[str, KeyIndex]:
    """The index of each stage that has one, open until the stack is left.

    What was found is told. Raises the first `Problem` that it makes, after all stages were scanned.
    """
    indexes, problems = await problems_of(stack, jobs, reader, notify, policies)
    for problem in problems[1:]:
        notify(Warned(problem.code, problem.what))
    if problems:
        raise problems[0]
    return indexes


async def problems_of(
    stack: AsyncExitStack, jobs: Iterable[StageScan], reader: Executor, notify: Notify, policies: Policies
) -> tuple[dict[str, KeyIndex], list[Problem]]:
    """As `scan_stages`, with the problems beside the indexes."""
    indexes: dict[str, KeyIndex] = {}
    problems: list[Problem] = []
    pace = Pace(notify)
    customers: KeyIndex | None = None
    for job in jobs:
        if customers is not None:
            job = replace(job, key=bytes.fromhex(customers.about.key))
        scanned = await scan_stage(job, reader, pace)
        if scanned.index is not None:
            stack.callback(scanned.index.close)
            indexes[job.name] = scanned.index
        if job.policy != "all":
            customers = customers or scanned.index
        if job.judged:
            problems += judge(job, scanned, customers, notify, policies)
            if job.policy == "all" and customers is not None and policies.balances == "stop":
                problems += await _unbalanced(job, scanned, customers, reader)
    return indexes, problems


async def _unbalanced(job: StageScan, scanned: Scanned, customers: KeyIndex, reader: Executor) -> Sequence[Problem]:
    """What the sums of a stage and those of its customers say, compared in the reader's thread."""
    halt = Event()
    work = asyncio.get_running_loop().run_in_executor(reader, partial(unbalanced, job, scanned, customers, halt.is_set))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        halt.set()
        await asyncio.gather(work, return_exceptions=True)
        raise


def scan_folder(checkpoint: Path) -> Path:
    """Where the findings lie: counts, places, and keyed hashes of ids and e-mails; owner-only, deleted after use."""
    return checkpoint.with_name(checkpoint.name + ".scan")


def forget(folder: Path, names: Sequence[str]) -> None:
    """Delete what scans of these stages have kept in a folder. What else is in it is left."""
    for name in names:
        forget_index(folder / name)
        for path in (folder / f"{name}.found", folder / f"{name}.found.part"):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
