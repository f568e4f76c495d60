"""How a run ends: its document or summary, and the exit code."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from streammig.budget import Use, account_path, budget_of, parse_limits
from streammig.checkpoint import Checkpoint, is_held
from streammig.cli import STOPPED, fail
from streammig.errors import Held, Problem
from streammig.reporting.document import document
from streammig.reporting.words import summary


class SystemClock:
    """The machine's wall clock."""

    def time(self) -> float:
        return time.time()


def read_document(path: Path) -> dict[str, Any]:
    """The document of a checkpoint, read without changing anything; raises `Unusable` if there is none."""
    file = Checkpoint.open(path, read_only=True)
    try:
        file.verify()
        now = time.time()
        return document(file, running=is_held(path), budget=_budget(file.run, now), now=now)
    finally:
        file.close()


def _budget(run: Any, now: float) -> list[Use]:
    context, account = run["context"], run["binding"].get("account", "")
    if run["binding"].get("dry_run") or "limits" not in context:
        return []
    limits = parse_limits(context["limits"], {})
    return budget_of(account_path(Path(context["state_dir"]), account), limits, now)


def finish(path: Path, problem: Problem | None, whole: bool, *, as_json: bool, quiet: bool) -> int:
    """Say how a run ended, and return its exit code."""
    if problem is not None:
        fail(problem)
    if problem is None and not path.exists():
        click.echo("stopped before anything was done", err=True)
        return STOPPED
    if problem is not None and (isinstance(problem, Held) or not path.exists()):
        return problem.exit_code
    try:
        found = read_document(path)
    except Problem as unreadable:
        if problem is None:
            fail(unreadable)
        return (problem or unreadable).exit_code
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not quiet:
        click.echo(summary(found), err=True)
    return exit_code(found, problem, whole)


def exit_code(found: dict[str, Any], problem: Problem | None, whole: bool) -> int:
    """The exit code of DESIGN: a defect first, then what stopped the run, then what is left undone."""
    stages = found["stages"].values()
    if not found["balanced"]:
        return 1
    if problem is not None:
        return problem.exit_code
    if not whole:
        return STOPPED  # an undecided batch is what the same command goes on with
    if any(stage["unknown"] for stage in stages):
        return 4
    return 3 if any(stage["dead"] for stage in stages) else 0


def print_document(found: dict[str, Any], as_json: bool) -> None:
    """A document on stdout, for programs or for people."""
    click.echo(json.dumps(found, indent=2) if as_json else summary(found), file=sys.stdout)
