"""Scan the stages of a run before its first request, and collect the problems that stop the run."""

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
from streammig.scan.progress import ScanProgress
from streammig.scan.stage import ScanResult, StageScan, scan_stage
from streammig.scan.verdict import Policies, judge, unbalanced
from streammig.scan.workers import Workers
from streammig.telemetry import Notify, Warned

OUTLINES = ".outlines"  # suffix of the file with a stage's outlines, which a check makes


async def scan_stages(
    stack: AsyncExitStack, jobs: Iterable[StageScan], reader: Executor, notify: Notify, policies: Policies
) -> dict[str, KeyIndex]:
    """Scan stages, and return the index of each one that has one, open until the stack is left.

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
    """As `scan_stages`, but return the indexes with all problems, and raise none."""
    indexes: dict[str, KeyIndex] = {}
    problems: list[Problem] = []
    progress = ScanProgress(notify)
    customers: KeyIndex | None = None
    for job in jobs:
        if customers is not None:
            job = replace(job, key=bytes.fromhex(customers.about.key))
        if job.note_maker_of is not None:
            job = replace(job, note_maker=job.note_maker_of(customers))
        scanned = await scan_stage(job, reader, progress, workers)
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


async def _unbalanced(job: StageScan, scanned: ScanResult, customers: KeyIndex, reader: Executor) -> Sequence[Problem]:
    """Run `unbalanced` in the reader's thread."""
    halt = Event()
    return await in_thread(reader, partial(unbalanced, job, scanned, customers, halt.is_set), halt)


def scan_folder(checkpoint: Path) -> Path:
    """Return the owner-only folder of the findings: counts, places, and keyed hashes of ids and e-mails.

    It is deleted after use.
    """
    return checkpoint.with_name(checkpoint.name + ".scan")


def forget(folder: Path, names: Sequence[str]) -> None:
    """Delete the findings of these stages from a folder; any other file stays."""
    for name in names:
        forget_index(folder / name)
        for end in (".found", ".found.part", OUTLINES):
            (folder / f"{name}{end}").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
