"""Scans the stages of a run before its first request, and collects the problems that stop the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

from streammig.context import in_thread
from streammig.dedup import KeyIndex
from streammig.dedup import forget as forget_index
from streammig.errors import Problem
from streammig.scan.progress import Pace
from streammig.scan.stage import Scanned, StageScan, scan_stage
from streammig.scan.verdict import Policies, judge, unbalanced
from streammig.scan.workers import Workers
from streammig.telemetry import Notify, Warned

OUTLINES = ".outlines"  # the end of the name of a file in which a check keeps the sizes of a stage's records


async def scan_stages(
    stack: AsyncExitStack, jobs: Iterable[StageScan], reader: Executor, notify: Notify, policies: Policies
) -> dict[str, KeyIndex]:
    """The index of each stage that has one, open until the stack is left.

    Raises the first `Problem` after all stages were scanned. The other problems become warnings.
    """
    indexes, problems = await problems_of(stack, jobs, reader, notify, policies)
    for problem in problems[1:]:
        notify(Warned(problem.code, problem.what))
    if problems:
        raise problems[0]
    return indexes


async def problems_of(
    stack: AsyncExitStack,
    jobs: Iterable[StageScan],
    reader: Executor,
    notify: Notify,
    policies: Policies,
    workers: Workers | None = None,
) -> tuple[dict[str, KeyIndex], list[Problem]]:
    """As `scan_stages`, but returns all problems beside the indexes, and raises none."""
    indexes: dict[str, KeyIndex] = {}
    problems: list[Problem] = []
    pace = Pace(notify)
    customers: KeyIndex | None = None
    for job in jobs:
        if customers is not None:
            job = replace(job, key=bytes.fromhex(customers.about.key))
        if job.noted is not None:
            job = replace(job, noting=job.noted(customers))
        scanned = await scan_stage(job, reader, pace, workers)
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
    """The problems of `unbalanced`, found in the reader's thread."""
    halt = Event()
    return await in_thread(reader, partial(unbalanced, job, scanned, customers, halt.is_set), halt)


def scan_folder(checkpoint: Path) -> Path:
    """The folder of the findings. It holds counts, places, and keyed hashes of ids and e-mails; it is owner-only, and
    deleted after use."""
    return checkpoint.with_name(checkpoint.name + ".scan")


def forget(folder: Path, names: Sequence[str]) -> None:
    """Delete the findings of these stages from a folder, and leave any other file in it."""
    for name in names:
        forget_index(folder / name)
        for end in (".found", ".found.part", OUTLINES):
            (folder / f"{name}{end}").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
