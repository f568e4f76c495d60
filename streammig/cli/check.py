"""`streammig check`: everything that is wrong with an export, and the plan of its run, before any of it is sent."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from streammig.cli import STOPPED, fail, options, say
from streammig.cli.outputs import Outputs
from streammig.cli.run import given, one
from streammig.errors import Problem, Unusable
from streammig.stages import STAGES
from streammig.telemetry import Output

if TYPE_CHECKING:
    from streammig.check.work import Check
    from streammig.inputs import StageInput
    from streammig.migration import Ask, Migration
    from streammig.scan import Workers
    from streammig.settings import Settings

PROBLEMS = 3
ALL = "all"


class Asked(NamedTuple):
    """Whether the account is asked at all, and for how many customers: a number, `ALL`, or None for none."""

    offline: bool
    against: int | str | None


class Done(NamedTuple):
    """Of which stages a read-back can prove anything, and what was found at the target."""

    readable: dict[str, bool]
    at_target: dict[str, Any] | None


def _count(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | str | None:
    if text is None or text == ALL:
        return text
    if not text.isdecimal() or not int(text):
        raise click.BadParameter(f"a number of customers, or {ALL}, is expected; found {text}")
    return int(text)


@click.command()
@options.settings
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.ndjson",
    help="Write every problem with its customer's id to a new file, readable by you alone.",
)  # fmt: skip
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE.html",
    help="Write a report to sign, with ids of customers as examples, readable by you alone.",
)  # fmt: skip
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
    against_target: int | str | None,
    save: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Check an export by the rules of its run, and plan that run. Nothing is sent.

    Exits with 0 where nothing is wrong, 3 where anything is, 2 where a file can't be read.
    """
    from streammig.settings import load

    if offline and against_target is not None:
        raise click.UsageError("--against-target asks the account: give it without --offline")
    if save is not None:
        flags["checkpoint"] = save
    migration = one(settings_file)
    settings = load(migration, given(flags, maps))
    folder = migration.parent if migration is not None else Path()
    hire = partial(_hired, workers, dask)
    asked = Asked(offline, against_target)
    sys.exit(_check(settings, folder, Outputs(out, report), asked, Output(as_json, quiet), hire))


def _hired(count: int | None, cluster: str, size: int) -> Workers | None:
    from streammig.scan import hired

    return hired(count, cluster, size)


def _check(
    settings: Settings,
    folder: Path,
    outputs: Outputs,
    asked: Asked,
    output: Output,
    hire: Callable[[int], Workers | None],
) -> int:
    from streammig.check.text import in_words
    from streammig.check.work import Check
    from streammig.cli.runtime import driven
    from streammig.context import until_stopped
    from streammig.migration import Ask, Migration, one_thread
    from streammig.planned import keep_plan
    from streammig.report.live import watching

    ask = Ask(shlex.join(["streammig", *sys.argv[1:]]), accept_broken=True)
    refused: list[Problem] = []
    begun = Path(settings.checkpoint).exists()
    with ExitStack() as stack:
        settings = stack.enter_context(_held(settings, ask.command))
        inputs = dict(_opened(settings, folder, ask, refused))
        notify = stack.enter_context(watching(sys.stderr, output))
        check = Check(settings, inputs, notify, stack.enter_context(one_thread()), outputs.write, hire)
        run = Migration(settings, ask, notify=notify, folder=folder)
        with outputs:
            done = driven(run, lambda: until_stopped(run.stop, _all(check, run, asked)), notify)
    if done is None:
        say("Stopped on request: nothing was sent.")
        return STOPPED
    told = _told(settings, check, refused, done)
    if not (refused or begun) and len(check.stages) == len(inputs):
        with suppress(OSError):  # a run without it plans by what it reads first
            keep_plan(settings, inputs, {name: _planned(it) for name, it in check.document()["stages"].items()})
    outputs.report(check.document(ids=True) | told)
    found = check.document() | told | {"unwritten": [it.json() for it in outputs.failed]}
    code = PROBLEMS if check.found else 0
    if output.as_json:
        click.echo(json.dumps(found, indent=2))
    elif not output.quiet:
        say("\n".join([in_words(found), *outputs.told()]))
        if not outputs.lists and any(it["problems"] for it in found["stages"].values()):
            say("To list every problem with its place and its customer's id: --out FILE.ndjson")
    for problem in (*outputs.failed, *refused):
        code = fail(problem)
    return code


def _planned(stage: Mapping[str, Any]) -> tuple[int, int]:
    """The requests of a stage, and its units with those left out."""
    return stage["requests"], sum(stage["in_units"].values())


def _told(settings: Settings, check: Check, refused: list[Problem], done: Done) -> dict[str, Any]:
    """What the document of a check holds beside what the check itself has found."""
    from importlib.metadata import version

    from streammig.check.plan import disk, paces, plan
    from streammig.migration import PRESETS

    return {
        "target": settings.base_url,
        "version": version("streammig"),
        "files": check.files(),
        "unreadable": [it.json() for it in refused],
        "at_target": done.at_target,
        "plan": plan(check.stages, paces(settings, PRESETS), done.readable, disk(settings, check.inputs), time.time()),
    }


async def _all(check: Check, run: Migration, asked: Asked) -> Done:
    from streammig.doctor.export import advise

    await check.all()
    against = asked.against
    count = False if against is None else None if against == ALL else int(against)
    at_target = await advise(check, run.settings, os.environ, asked.offline, count)
    return Done(await run.readable(), at_target)


@contextmanager
def _held(settings: Settings, command: str) -> Iterator[Settings]:
    """The settings, with a checkpoint that is ours: what the scan keeps beside one is for the run that comes. Where a
    run has begun, it is kept elsewhere, and deleted at the end."""
    import msgspec

    from streammig.checkpoint import locked
    from streammig.grouping import forget as forget_grouped
    from streammig.scan import forget, scan_folder
    from streammig.settings import check_folder
    from streammig.spool import forget as forget_stdin
    from streammig.spool import reads_stdin, stdin_spooled

    checkpoint = Path(settings.checkpoint)
    check_folder(checkpoint)
    begun = checkpoint.exists()
    with ExitStack() as stack:
        if reads_stdin(settings):
            settings = stack.enter_context(stdin_spooled(settings, sys.stdin.buffer, command))
            if not begun:
                stack.callback(forget_stdin, checkpoint)
        if begun:
            checkpoint = checkpoint.with_name(checkpoint.name + ".check")
            settings = msgspec.structs.replace(settings, checkpoint=str(checkpoint))
            stack.callback(forget, scan_folder(checkpoint), STAGES)
            stack.callback(forget_grouped, checkpoint, STAGES)
        if begun or not reads_stdin(settings):
            stack.enter_context(locked(checkpoint, command))
        yield settings


def _opened(settings: Settings, folder: Path, ask: Ask, refused: list[Problem]) -> Iterator[tuple[str, StageInput]]:
    """The stages that can be opened; why others can't is added to `refused`."""
    from msgspec.structs import replace

    from streammig.migration import Migration

    started = time.time()
    if not settings.stages:
        Migration(settings, ask, folder=folder).inputs(started)  # raises what a run would
    for name in settings.stages:
        others = {other: replace(settings.stage(other), files=()) for other in STAGES if other != name}
        try:
            yield from Migration(replace(settings, **others), ask, folder=folder).inputs(started).items()
        except Unusable as problem:
            refused.append(problem)
