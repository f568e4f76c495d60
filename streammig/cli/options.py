"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from streammig.cli import CHECKPOINT
from streammig.errors import Unusable
from streammig.stages import STAGES

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _named(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """The path of a checkpoint. Raises `Unusable` for a settings file."""
    if path is not None and path.suffix == ".toml":
        said = f"{path} holds settings; this command needs the checkpoint"
        raise Unusable("settings-given", said, f"Try {path.with_suffix(CHECKPOINT)}")
    return path


PATH = click.Path(path_type=Path)


def path(flag: str, metavar: str, told: str, *name: str) -> Decorator:
    """An option that names a file or folder. `name` is that of its parameter, where the flag does not say it."""
    return click.option(flag, *name, type=PATH, metavar=metavar, help=told)


checkpoint: Decorator = click.argument("checkpoint", type=PATH, callback=_named)
checkpoint_or_none: Decorator = click.argument("checkpoint", required=False, type=PATH, callback=_named)

current: Decorator = click.option(
    "--checkpoint-is-current", "current", is_flag=True,
    help="You know that the checkpoint is the newest copy, though the state folder was lost.",
)  # fmt: skip
newest_lost: Decorator = click.option(
    "--newest-is-lost", "newest_lost", is_flag=True,
    help="This checkpoint is an older copy, and there is no newer one any more: go on from it.",
)  # fmt: skip

stages: Decorator = click.option(
    "--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only those of this stage."
)
codes: Decorator = click.option("--code", "codes", multiple=True, metavar="CODE", help="Only those with this code.")
concurrency: Decorator = click.option(
    "--concurrency", type=click.IntRange(1, 64), metavar="N", help="Most reads under way at once. [as the run had]"
)

FILE = "FILE[#path.to.array]"
_SETTINGS: tuple[Decorator, ...] = (
    click.argument("settings_file", nargs=-1, type=PATH, metavar="[MIGRATION.toml]"),
    click.option("--customers", multiple=True, metavar=FILE, help="Customers, from JSON, NDJSON or CSV; - is stdin."),
    click.option("--events", multiple=True, metavar=FILE, help="Purchase and other events."),
    click.option("--transactions", multiple=True, metavar=FILE, help="Points transactions, grouped by customer."),
    click.option("--base-url", metavar="URL", help="Where the API answers."),
    click.option(
        "--checkpoint", metavar="FILE", help="The file that makes the run resumable. [<migration>.checkpoint]"
    ),
    click.option(
        "--state-dir", metavar="DIR", help="Where the account's requests are noted, and the fences, for all runs."
    ),
    click.option("--limits", metavar="LIMITS", help="dev, prod, off, or like 1/5s,250/1h;general=1000/1d. [prod]"),
    click.option("--concurrency", type=int, metavar="N", help="Most requests under way at once. [4]"),
    click.option(
        "--settle-time", type=float, metavar="SECONDS", help="Time for the target's queue after each stage. [300]"
    ),
    click.option(
        "--verify-sample", type=int, metavar="N", help="Customers that are read back and compared at the end. [100]"
    ),
    click.option("--request-timeout", type=float, metavar="SECONDS", help="Time for one request. [120]"),
    click.option("--max-bytes", type=int, metavar="BYTES", help="The largest request body. [4000000]"),
    click.option("--map", "maps", multiple=True, metavar="STAGE=MODULE:FUNCTION", help="Map the records of a stage."),
)


def settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """The settings of a migration: a file, and the flags that go on top of it."""
    for decorate in reversed(_SETTINGS):
        function = decorate(function)
    return function


def settings_on_top(what_for: str = "") -> Decorator:
    said = f"Settings that replace some of the run's{what_for}."
    return path("--settings", "MIGRATION.toml", said, "toml")


def as_json(what: str = "Print the result as one JSON document on stdout.") -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=what)


def quiet(but: str = "errors") -> Decorator:
    return click.option("--quiet", is_flag=True, help=f"Print only {but}.")


on_event: Decorator = click.option(
    "--on-event", metavar="CMD", help="Call CMD for what matters: its standard input is one JSON object."
)
log: Decorator = click.option(
    "--log", type=click.Choice(["text", "json"]), default="text",
    help="What goes to stderr: text, or one JSON object a line for each thing that happens.",
)  # fmt: skip
