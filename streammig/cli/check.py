"""`streammig check`: everything that is wrong with an export, and the plan of its run, before any of it is sent."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from streammig import grouping, scan, spool
from streammig.check import plan
from streammig.check.report import rendered
from streammig.check.text import in_words
from streammig.check.work import Check
from streammig.checkpoint import locked
from streammig.cli import STOPPED, called, fail, options, say
from streammig.cli.run import given, one
from streammig.cli.runtime import driven
from streammig.context import until_stopped
from streammig.disk import new_file
from streammig.errors import Problem, Unusable, counted
from streammig.inputs import StageInput
from streammig.migration import PRESETS, Ask, Migration, one_thread
from streammig.planned import keep_plan
from streammig.report.audit import is_report
from streammig.report.live import watching
from streammig.settings import Settings, check_folder, load
from streammig.stages import STAGES
from streammig.telemetry import Output

if TYPE_CHECKING:
    from streammig.doctor.export import Count

PROBLEMS = 3
ALL = "all"


class Written:
    """A file that a check writes in a `with` block: behind it the file is whole, or not there. Without a path there is
    none.

    A file that can't be written ends nothing: `failed` has why.
    """

    def __init__(self, path: Path | None, may_replace: Callable[[Path], bool] = lambda _: False) -> None:
        self.path = path
        self.lines = 0
        self.failed: Problem | None = None
        self._stack = ExitStack()
        self._file: BinaryIO | None = None
        self._may_replace = may_replace

    def __enter__(self) -> Written:
        if self.path is not None:
            try:
                self._file = self._stack.enter_context(new_file(self.path, self._may_replace))
            except Problem as problem:
                self.failed = problem
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end(error)

    def add(self, line: object) -> None:
        """Write it as a line of JSON."""
        if self._file is not None:
            self.write(msgspec.json.encode(line) + b"\n")

    def write(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.write(data)
            self.lines += 1
        except OSError as error:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Close the file; for an error it is removed."""
        self._file = None
        try:
            self._stack.__exit__(type(error) if error else None, error, None)
        except Problem as problem:
            self.failed = problem


def _count(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Count:
    """For how many customers to ask: None for all, False for none."""
    if text is None:
        return False
    if text == ALL:
        return None
    if not text.isdecimal() or not int(text):
        raise click.BadParameter(f"a number of customers, or {ALL}, is expected; found {text}")
    return int(text)


@click.command()
@options.settings
@options.path(
    "--out", "FILE.ndjson", "Write every problem with its customer's id to a new file, readable by you alone."
)
@options.path(
    "--report", "FILE.html", "Write a report to sign, with ids of customers as examples, readable by you alone."
)
@click.option("--offline", is_flag=True, help="Do not ask the account which rewards and tiers it has; needs no key.")
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N",
    help="Processes that read at the same time. [one for each core, for large exports]",
)  # fmt: skip
@click.option(
    "--dask", default="", metavar="ADDRESS",
    help="Read on the workers of this Dask cluster, like tcp://host:8786, which see the files at the same paths.",
)  # fmt: skip
@click.option(
    "--against-target", is_flag=False, flag_value="100", metavar="[N|all]", callback=_count,
    help="Look for N customers, or all, at the target: are they there before the first request? [100]",
)  # fmt: skip
@click.option("--save", metavar="CHECKPOINT", help="Keep scan and plan for the run with this checkpoint.")
@options.as_json()
@options.quiet()
def command(
    settings_file: tuple[Path, ...],
    maps: tuple[str, ...],
    out: Path | None,
    report: Path | None,
    offline: bool,
    workers: int | None,
    dask: str,
    against_target: Count,
    save: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Check an export by the rules of its run, and plan that run. Nothing is sent.

    Exits with 0 where nothing is wrong, 3 where anything is, 2 where a file can't be read.
    """
    if offline and against_target is not False:
        raise click.UsageError("--against-target asks the account: give it without --offline")
    if save is not None:
        flags["checkpoint"] = save
    migration = one(settings_file)
    settings = load(migration, given(flags, maps))
    folder = migration.parent if migration is not None else Path()
    hire = partial(scan.hired, workers, dask)
    files, output = (Written(out), Written(report, is_report)), Output(as_json, quiet)
    sys.exit(_check(settings, folder, files, output, hire, offline, against_target))


def _check(
    settings: Settings,
    folder: Path,
    files: tuple[Written, Written],
    output: Output,
    hire: Callable[[int], scan.Workers | None],
    offline: bool,
    against: Count,
) -> int:
    """Check an export, and return the exit code. `files` are the list of problems and the report."""
    problems, report = files
    ask = Ask(called(), accept_broken=True)
    refused: list[Problem] = []
    begun = Path(settings.checkpoint).exists()
    with ExitStack() as stack:
        settings = stack.enter_context(_held(settings, ask.command))
        inputs = dict(_opened(settings, folder, ask, refused))
        notify = stack.enter_context(watching(sys.stderr, output))
        check = Check(settings, inputs, notify, stack.enter_context(one_thread()), problems.add, hire)
        run = Migration(settings, ask, notify=notify, folder=folder)
        with problems, report:
            done = driven(run, lambda: until_stopped(run.stop, _all(check, run, offline, against)), notify)
            if done is None:
                say("Stopped on request: nothing was sent.")
                sys.exit(STOPPED)
            told = _told(settings, check, refused, *done)
            if report.path is not None:
                report.write(rendered(check.document(ids=True) | told))
    if not (refused or begun) and len(check.stages) == len(inputs):
        with suppress(OSError):  # a run without it plans by what it reads first
            stages = check.document()["stages"].items()
            # With the units that are left out.
            keep_plan(settings, inputs, {name: (it["requests"], sum(it["in_units"].values())) for name, it in stages})
    unwritten = [it.failed for it in files if it.failed is not None]
    found = check.document() | told | {"unwritten": [it.json() for it in unwritten]}
    if output.as_json:
        click.echo(json.dumps(found, indent=2))
    elif not output.quiet:
        _show(found, problems, report)
    code = PROBLEMS if check.found else 0
    for problem in (*unwritten, *refused):
        code = fail(problem)
    return code


async def _all(
    check: Check, run: Migration, offline: bool, against: Count
) -> tuple[dict[str, bool], dict[str, Any] | None]:
    """Check everything. Returns which stages a read-back can prove, and what was found at the target."""
    from streammig.doctor.export import advise  # it imports aiohttp, which --help can do without

    await check.all()
    at_target = await advise(check, run.settings, os.environ, offline, against)
    return await run.readable(), at_target


def _show(found: Mapping[str, Any], problems: Written, report: Written) -> None:
    lines = [in_words(found)]
    if problems.path is None and any(it["problems"] for it in found["stages"].values()):
        lines.append("To list every problem with its place and its customer's id: --out FILE.ndjson")
    elif problems.path is not None and problems.failed is None:
        lines.append(f"problems: {problems.path}, {counted(problems.lines, 'line')}")
    if report.path is not None and report.failed is None:
        lines.append(f"report: {report.path}")
    say("\n".join(lines))


def _told(
    settings: Settings,
    check: Check,
    refused: list[Problem],
    readable: dict[str, bool],
    at_target: dict[str, Any] | None,
) -> dict[str, Any]:
    """What the document of a check holds beside what the check itself has found."""
    paces, disk = plan.paces(settings, PRESETS), plan.disk(settings, check.inputs)
    return {
        "target": settings.base_url,
        "version": version("streammig"),
        "files": check.files(),
        "unreadable": [it.json() for it in refused],
        "at_target": at_target,
        "plan": plan.plan(check.stages, paces, readable, disk, time.time()),
    }


@contextmanager
def _held(settings: Settings, command: str) -> Iterator[Settings]:
    """The settings, with a checkpoint that is ours: what the scan keeps beside one is for the run that comes. Where a
    run has begun, it is kept elsewhere, and deleted at the end."""
    checkpoint = Path(settings.checkpoint)
    check_folder(checkpoint)
    begun = checkpoint.exists()
    with ExitStack() as stack:
        if spool.reads_stdin(settings):
            settings = stack.enter_context(spool.stdin_spooled(settings, sys.stdin.buffer, command))
            if not begun:
                stack.callback(spool.forget, checkpoint)
        if begun:
            checkpoint = checkpoint.with_name(checkpoint.name + ".check")
            settings = msgspec.structs.replace(settings, checkpoint=str(checkpoint))
            stack.callback(scan.forget, scan.scan_folder(checkpoint), STAGES)
            stack.callback(grouping.forget, checkpoint, STAGES)
        if begun or not spool.reads_stdin(settings):
            stack.enter_context(locked(checkpoint, command))
        yield settings


def _opened(settings: Settings, folder: Path, ask: Ask, refused: list[Problem]) -> Iterator[tuple[str, StageInput]]:
    """The stages that can be opened; why others can't is added to `refused`."""
    started = time.time()
    if not settings.stages:
        Migration(settings, ask, folder=folder).inputs(started)  # raises what a run would
    for name in settings.stages:
        others = {it: msgspec.structs.replace(settings.stage(it), files=()) for it in STAGES if it != name}
        alone = msgspec.structs.replace(settings, **others)
        try:
            yield from Migration(alone, ask, folder=folder).inputs(started).items()
        except Unusable as problem:
            refused.append(problem)
