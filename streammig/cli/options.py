"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from streammig.cli import CHECKPOINT
from streammig.errors import Unusable

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _named(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """The path of a checkpoint. Raises `Unusable` for a settings file."""
    if path is not None and path.suffix == ".toml":
        said = f"{path} holds settings; this command needs the checkpoint"
        raise Unusable("settings-given", said, f"Try {path.with_suffix(CHECKPOINT)}")
    return path


checkpoint: Decorator = click.argument("checkpoint", type=click.Path(path_type=Path), callback=_named)
checkpoint_or_none: Decorator = click.argument(
    "checkpoint", required=False, type=click.Path(path_type=Path), callback=_named
)

current: Decorator = click.option(
    "--checkpoint-is-current", "current", is_flag=True,
    help="You know that the checkpoint is the newest copy, though the state folder was lost.",
)  # fmt: skip
newest_lost: Decorator = click.option(
    "--newest-is-lost", "newest_lost", is_flag=True,
    help="This checkpoint is an older copy, and there is no newer one any more: go on from it.",
)  # fmt: skip


def settings_on_top(what_for: str = "") -> Decorator:
    return click.option(
        "--settings", "toml", type=click.Path(path_type=Path), metavar="MIGRATION.toml",
        help=f"Settings that replace some of the run's{what_for}.",
    )  # fmt: skip


def as_json(what: str = "Print the result as one JSON document on stdout.") -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=what)


def quiet(but: str = "errors") -> Decorator:
    return click.option("--quiet", is_flag=True, help=f"Print only {but}.")


log: Decorator = click.option(
    "--log", type=click.Choice(["text", "json"]), default="text",
    help="What goes to stderr: text, or one JSON object a line for each thing that happens.",
)  # fmt: skip
