"""The command line: the only place that prints. `--help` and `status` start without importing aiohttp."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from textwrap import indent
from typing import Any, TextIO, cast

import click

from streammig.disk import NO_ROOM
from streammig.errors import MachineFault, Problem, Unusable, defect

COMMANDS = {
    "init": "Look into an export, and write a first settings file.",
    "check": "Check an export, and plan its run.",
    "run": "Migrate an export, or go on with a migration.",
    "status": "Show how far a run is, also while it runs.",
    "dashboard": "Serve the page of a run, beside it or after it.",
    "pause": "Let a run that is on wait, without ending it.",
    "unpause": "Let a paused run go on.",
    "rate": "Change the limits of a run that is on.",
    "verify": "Read back what was accepted, and compare it with the export.",
    "report": "Write the report on a run as one HTML file, or check one.",
    "dead-letters": "Write the records that were not sent, with the reason.",
    "retry": "Send dead letters again, corrected or as they are.",
    "resolve": "Show a batch with an unknown outcome, and decide about it.",
    "revert": "Take a whole run back at the target, and read back what became of it.",
    "doctor": "Look whether this machine and the target are fit for a migration.",
    "sandbox": "Serve a local stand-in for Masivo, to practise.",
    "demo": "Show a migration that is interrupted and resumed, in under a minute.",
    "guide": "Show a page of the manual.",
}

STEERING = ("pause", "unpause", "rate")  # commands that share a module
CHECKPOINT = ".checkpoint"  # what the name of a checkpoint ends with unless the settings say otherwise
PILOT_DONE = 10
STOPPED = 130  # the exit code of what was stopped on request
WIDEST = 100  # columns of what people read


class Commands(click.Group):
    """Loads the module of a command when that command is called, and not to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        home, name = ("steer", cmd_name) if cmd_name in STEERING else (cmd_name.replace("-", "_"), "command")
        found: click.Command = getattr(importlib.import_module(f"streammig.cli.{home}"), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from streammig.targets import at_work  # as commands are imported: when asked for

        click.echo(f"streammig, version {version('streammig')}\njudge: {at_work('auto')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def streammig() -> None:
    """Move a very large export (JSON, NDJSON, CSV) into Masivo, under its rate limits, without losing or doubling a
    record.

    Exit codes: 0 all accepted or filtered; 1 a fault of this machine or of streammig; 2 settings, export or checkpoint
    can't be used; 3 done, with dead letters; 4 batches whose outcome is unknown; 5 stopped by the target; 10 a pilot
    is done; 11 the checkpoint is in use; 130 stopped on request. After 1, 4, 5 and 130 the same command goes on.
    """


def main() -> None:
    """Run the command line. A `Problem` becomes a message on stderr and its exit code; with --json also a document."""
    open_closed()
    out, err = Forgiving(sys.stdout, BrokenPipeError), Forgiving(sys.stderr, OSError)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        code = _called(as_json="--json" in sys.argv[1:])
    sys.exit(code)


def _called(*, as_json: bool) -> int:
    try:
        code = streammig.main(standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except Problem as problem:
        return fail(problem, as_json=as_json)
    except click.ClickException as mistake:
        mistake.show()
        if as_json:
            usage = Unusable("usage", mistake.format_message(), "See the command's --help.")
            click.echo(json.dumps({"error": usage.json()}, indent=2))
        return mistake.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return STOPPED
    except BrokenPipeError:  # the reader of our output is gone
        drop(sys.stdout)
        return 0
    except OSError as error:
        if error.errno not in NO_ROOM:  # our own files say so themselves: this is standard output
            return fail(defect(error), as_json=as_json)
        drop(sys.stdout)
        said = f"writing the output failed: {os.strerror(error.errno)}"
        return fail(MachineFault("output-failed", said, "Make room, and call it again."))
    except Exception as error:
        return fail(defect(error), as_json=as_json)
    return code if isinstance(code, int) else 0


def fail(problem: Problem, *, as_json: bool = False, hint: bool = True, said: bool = True) -> int:
    """Print on stderr, if it is to be `said`, what stopped a command, its code and, with `hint`, what to do; on stdout
    the JSON document, if asked. Return the exit code."""
    if as_json:
        click.echo(json.dumps({"error": problem.json()}, indent=2))
    first, newline, rest = problem.what.partition("\n")
    if said:
        say(f"error: {first} [{problem.code}]{newline}{rest}" + (f"\n{problem.hint}" if hint and problem.hint else ""))
    return problem.exit_code


def called() -> str:
    """The command line as it was called."""
    return shlex.join(["streammig", *sys.argv[1:]])


def say(text: str, stream: TextIO | None = None) -> None:
    """Print for people, on stderr unless told otherwise: in the columns of a terminal, elsewhere in those of COLUMNS.

    A line is at most 99 columns wide on a terminal: longer ones are hard to read.
    """
    from streammig.report.text import wrapped

    stream = stream or sys.stderr
    columns = shutil.get_terminal_size((WIDEST, 24)).columns
    click.echo(wrapped(text, (min(columns, WIDEST) if stream.isatty() else columns) - 1), file=stream)


# -- standard streams that are closed, full or gone: what people would have read is lost, no run stops for it ----------


class Forgiving:
    """A stream that drops text once it can't be written any more, for one of these reasons."""

    def __init__(self, stream: TextIO, reason: type[OSError]) -> None:
        self._stream = stream
        self._reason = reason

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except self._reason:
            drop(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except self._reason:
            drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop(stream: TextIO) -> None:
    """Send what is left in the buffer, and all that follows, to nowhere: it would fail again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def echo_json(document: Mapping[str, Any], name: str, items: Iterable[Any]) -> None:
    """Print a document one of whose members is a list of any length: its items are printed one by one."""
    head, empty, tail = json.dumps({**document, name: []}, indent=2).partition(f'"{name}": []')
    click.echo(f"{head}{empty[:-1]}", nl=False)
    end = ""
    for item in items:
        click.echo(f"{',' if end else ''}\n{indent(json.dumps(item, indent=2), '    ')}", nl=False)
        end = "\n  "
    click.echo(f"{end}]{tail}")


def open_closed() -> None:
    """Open standard streams that are closed: else the next file that is opened would take their place."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
            setattr(sys, name, open(descriptor, "w" if descriptor else "r"))  # noqa: SIM115  # open to the end
