"""`streammig run`: migrate an export, or go on with a migration."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from streammig.cli import options, say
from streammig.errors import AFTER_A_BREAK, BrokenExport, Problem, Unusable
from streammig.stages import STAGES
from streammig.telemetry import Output, ignore

if TYPE_CHECKING:
    from streammig.migration import Migration
    from streammig.settings import Settings

# Options for one call only, and whether a value follows.
FOR_ONE_CALL = {
    "--first": True, "--i-accept-doubles": True, "--checkpoint-is-current": False, "--newest-is-lost": False,
    "--bodies-lost": False, "--export-again": False,
}  # fmt: skip


@click.command()
@options.settings
@click.option(
    "--first",
    type=click.IntRange(min=1),
    metavar="N",
    help="A pilot: only the first N customers, and what is theirs.",
)
@options.path("--dry-run", "DIR", "Write the bodies to DIR, send nothing.")
@click.option(
    "--i-accept-doubles", "accept_doubles", multiple=True, type=click.Choice(STAGES), metavar="STAGE",
    help='Confirms unknown = "resend" of a stage: its records may be sent twice.',
)  # fmt: skip
@click.option("--not-in", metavar="OLD.checkpoint", help="Leave out what this older run has left at the target.")
@click.option("--since", metavar="MOMENT", help="Leave out events that were issued before.")
@options.current
@options.newest_lost
@click.option("--bodies-lost", is_flag=True, help="Make dead letters of batches whose bodies in the outbox are lost.")
@click.option(
    "--accept-broken-end", "accept_broken", is_flag=True,
    help="Where a file breaks off, deliver what is before that, and count the file as read.",
)  # fmt: skip
@click.option("--export-again", is_flag=True, help="Send what another checkpoint of this host was given to send.")
@click.option("--unchecked", is_flag=True, help="Do not scan the export first: no look for customers that occur twice.")
@click.option(
    "--dashboard", is_flag=False, flag_value="127.0.0.1:8790", metavar="[HOST:PORT]",
    help="Serve a page and /metrics, on this machine unless told otherwise. [127.0.0.1:8790]",
)  # fmt: skip
@options.path("--metrics-file", "FILE", "Write the numbers for Prometheus to FILE, every 15 seconds.")
@options.on_event
@options.as_json()
@options.quiet()
@options.log
def command(settings_file: tuple[Path, ...], maps: tuple[str, ...], **flags: Any) -> None:
    """Migrate an export, or go on with a migration: the same command line resumes.

    The API key comes from MASIVO_API_KEY, or from a file or a command named in the settings. Ctrl-C once lets the
    requests under way end; twice cuts them off. Either way the same command goes on from there.
    """
    from streammig.delivery.folder import dry_checkpoint
    from streammig.settings import api_key, check_texts, load

    asked = ("first", "dry_run", "unchecked", "current", "newest_lost", "bodies_lost", "accept_doubles",
             "accept_broken", "export_again")  # fmt: skip
    ask = {name: flags.pop(name) for name in asked}
    output = Output(*(flags.pop(name) for name in Output._fields))
    beside = flags.pop("dashboard"), flags.pop("metrics_file")
    migration = one(settings_file)
    settings = load(migration, given(flags, maps))
    if ask["dry_run"] is not None:
        check_texts({"--dry-run": str(ask["dry_run"])})
        # Its checkpoint and its work file are its own: those of a migration under way must not be touched.
        settings = msgspec.structs.replace(settings, checkpoint=str(dry_checkpoint(ask["dry_run"])))
    key = "" if ask["dry_run"] is not None else api_key(settings, os.environ)
    folder = migration.parent if migration is not None else Path()
    sys.exit(_migrate(settings, key, folder, ask, output, beside))


def one(files: tuple[Path, ...]) -> Path | None:
    """The settings file, if one is named."""
    if others := [str(file) for file in files if file.suffix != ".toml"]:
        raise click.UsageError(
            f"{others[0]} is taken for the settings,\nwhich are a .toml file. A file of an export needs a flag of its"
            f" stage, like\n--customers {others[0]}. To name several, put each behind a\nflag of its own, or a"
            " pattern in quotes (--customers 'part*.ndjson')."
        )
    if len(files) > 1:
        raise click.UsageError(f"{len(files)} settings files are named. Name one.")
    return files[0] if files else None


def given(flags: dict[str, Any], maps: tuple[str, ...]) -> dict[str, Any]:
    """The flags that were given, nested like a settings file."""
    found: dict[str, Any] = {name: value for name, value in flags.items() if value is not None and name not in STAGES}
    for name in STAGES:
        if flags[name]:
            found[name] = {"files": list(flags[name])}
    for text in maps:
        stage, equals, function = text.partition("=")
        if not equals or stage not in STAGES:
            raise Unusable(
                "map-invalid", f"--map {text}: it must be STAGE=MODULE:FUNCTION, with a stage of {', '.join(STAGES)}"
            )
        found.setdefault(stage, {})["map"] = function
    return found


def _migrate(
    settings: Settings, key: str, folder: Path, asked: dict[str, Any], output: Output,
    beside: tuple[str | None, Path | None],
) -> int:  # fmt: skip
    from contextlib import ExitStack

    from streammig.cli.announce import announcing
    from streammig.cli.exit import Ended, finish
    from streammig.cli.runtime import driven
    from streammig.migration import Ask, Migration
    from streammig.report.live import JsonLines, watching
    from streammig.report.reports import Report
    from streammig.spool import forget, is_gone, reads_stdin, stdin_spooled

    checkpoint = Path(settings.checkpoint)
    if is_gone(settings) and Report.read(checkpoint).document["state"] == "complete":
        click.echo(
            f"{checkpoint} is complete already: standard input was not read. Another export needs a --checkpoint of its"
            " own.", err=True,
        )  # fmt: skip
        return finish(checkpoint, Ended(True), output, JsonLines(sys.stderr) if output.log == "json" else ignore)
    if output.log == "text" and not output.quiet:
        for name in settings.stages:
            _list_files(name, settings.stage(name).files)
    ask = Ask(resume_command(sys.argv[1:]), held=reads_stdin(settings), **asked)
    problem: Problem | None = None
    shown = _shown(checkpoint, *beside, output)
    with watching(sys.stderr, output) as notify, ExitStack() as stack:
        notify = announcing(settings, key, checkpoint, "run", notify)
        if ask.held:
            settings = stack.enter_context(stdin_spooled(settings, sys.stdin.buffer, ask.command))
        run = Migration(settings, ask, key, notify=notify, folder=folder)
        try:
            whole = driven(run, shown(run), notify)
        except Problem as caught:
            whole, problem = False, caught
            # Found when a file was opened, or without a scan; else its hint is to the point already.
            early = ask.dry_run is not None or not run.assembled
            if isinstance(caught, BrokenExport) and caught.hint == AFTER_A_BREAK and early:
                caught.hint = _nothing_sent(ask.dry_run is not None, checkpoint)
    pilot = None if run.stop.is_set() else ask.first
    ended = Ended(whole, problem, run.assembled, pilot)
    code = finish(checkpoint, ended, output, notify)
    if code == 0:
        forget(checkpoint)
    return code


def _shown(
    checkpoint: Path, address: str | None, metrics_file: Path | None, output: Output
) -> Callable[[Migration], Callable[[], Awaitable[bool]]]:
    """The run as a function to call, with what is shown beside it; it says where. The token is taken out of the
    environment: no child inherits it."""
    from streammig.dashboard.door import TOKEN, opened

    token = os.environ.pop(TOKEN, "")
    if address is None and metrics_file is None:
        return lambda run: run.run  # a server takes 50 ms to import
    from streammig.dashboard.server import beside

    door = opened(address, "dashboard", token) if address is not None else None
    if door is not None and output.log == "text" and not output.quiet:
        say(f"dashboard: {door.url}")
    return partial(beside, checkpoint=checkpoint, door=door, metrics_file=metrics_file)


def _list_files(stage: str, files: Sequence[str]) -> None:
    """Say which files are read, in their order, where a stage has several."""
    if len(files) > 1:
        names = [Path(file).name for file in files]
        listed = names if len(names) <= 6 else [*names[:3], "…", names[-1]]
        say(f"{stage}: {len(files):,} files, in this order: {', '.join(listed)}")


def _nothing_sent(dry: bool, checkpoint: Path) -> str:
    """The hint for an export that breaks off before this call has sent any of it."""
    if dry:
        return "Nothing was sent. Export it again, and look at the new file by another dry run."
    if not checkpoint.exists():
        return "Nothing was sent. Export it again, and run the same command."
    return "Put back the export that the checkpoint was begun with, and run the same command."


def resume_command(arguments: list[str]) -> str:
    """The command line that goes on from here: the same one, without the options for one call only."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if skip or name in FOR_ONE_CALL:
            skip = not skip and FOR_ONE_CALL[name] and not equals
            continue
        kept.append(argument)
    return shlex.join(["streammig", *kept])
