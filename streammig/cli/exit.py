"""The end of a command: document or summary, and exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from streammig.cli import PILOT_DONE, STOPPED, fail
from streammig.errors import SAMPLES_MISSING, Held, Problem, Unusable, counted
from streammig.report.reports import Report
from streammig.report.text import state_sentence, summary


class Ended(NamedTuple):
    """How the work of a command ended. `began` is False where it was refused before a record was read; `pilot` is the
    number of records of each stage that a pilot has done, if this was one and it came to its end; `said` is what the
    command itself has to say, behind the books."""

    whole: bool
    problem: Problem | None = None
    began: bool = True
    pilot: int | None = None
    said: str = ""


def finish(path: Path, ended: Ended, *, as_json: bool, quiet: bool) -> int:
    """Print how a run ended, and return its exit code: first the totals, then the meaning and the next step."""
    problem = ended.problem
    if problem is None and not path.exists():
        click.echo("stopped before anything was done", err=True)
        return STOPPED
    if problem is not None and (isinstance(problem, Held) or not path.exists() or not (ended.began or as_json)):
        return fail(problem, as_json=as_json)
    try:
        found = Report.read(path).document
    except Problem as unreadable:
        return fail(problem or unreadable, as_json=as_json)
    code = exit_code(found, ended)
    if as_json:
        error = {"error": problem.json()} if problem is not None else {}
        click.echo(json.dumps(found | error, indent=2))
    elif not quiet:
        click.echo("\n" + summary(found) + "\n" + (f"\n{ended.said}" if ended.said else ""), err=True)
    if problem is not None:
        fail(problem)
    if not quiet and not as_json:
        click.echo(headline(code, found, ended), err=True)
    return code


def headline(code: int, found: Mapping[str, Any], ended: Ended) -> str:
    """A sentence on how a run ended and its exit code, then the command that goes on from here."""
    stages, checkpoint = found["stages"].values(), found["checkpoint"]
    dead, unknown = (sum(stage[name] for stage in stages) for name in ("dead", "unknown"))
    warned = ", with warnings" if found["warnings"] else ""
    said = {
        0: f"Complete: every record is accepted or left out on purpose{warned}",
        3: f"Complete, but for {counted(dead, 'dead letter')}: see streammig dead-letters {checkpoint}",
        4: f"The outcome of {counted(unknown, 'record')} is unknown: see streammig resolve {checkpoint}",
        5: "The target stopped this run: see the error above",
        STOPPED: "Stopped on request; nothing is lost",
    }.get(code, "This run failed: see the error above")
    if code == 3 and not dead:
        said = "Samples of what was accepted are not visible at the target: the same command looks again"
    if code == PILOT_DONE and ended.pilot is not None:
        done = max([ended.pilot, *(stage["source_records"] for stage in stages)])
        further = f" (an earlier run went further than the {ended.pilot:,} of this one)" if done > ended.pilot else ""
        said = f"The pilot is done, {counted(done, 'record')} a stage at most{further}; the rest waits for the full run"
    elif code == STOPPED and found["state"] == "complete":
        said = "Everything is sent, but was not yet looked for at the target: the same command does that"
    elif code == STOPPED and ended.whole:
        said = "The retry is done; what the run has not read yet waits for the run"
    elif code == 4 and not unknown:
        said = "It can't be told what the target holds: see the error above"
    said += f" (exit code {code})."
    # What can't be used as it is does not become usable by calling it again: the error above says what to do.
    resume = found["resume"] if code != Unusable.exit_code else None
    return f"{said}\nTo go on from here: {resume}" if resume else said


def exit_code(found: dict[str, Any], ended: Ended) -> int:
    """The exit code: a defect first, then a problem that stopped the run, then unfinished work."""
    stages = found["stages"].values()
    if not found["balanced"]:
        return 1
    if ended.problem is not None:
        return ended.problem.exit_code
    if ended.pilot is not None and not ended.whole:
        return PILOT_DONE
    if not ended.whole or found["state"] in ("interrupted", "failed"):
        # A retry may be done where its run is not. An undecided batch is what the same command goes on with.
        return STOPPED
    if any(stage["unknown"] for stage in stages):
        return 4
    return 3 if any(stage["dead"] or stage["code"] == SAMPLES_MISSING for stage in stages) else 0


def print_document(found: dict[str, Any], as_json: bool) -> None:
    """A document on stdout, for programs or for people."""
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    resume = f"\nTo go on: {found['resume']}" if found["resume"] else ""
    click.echo(f"{summary(found)}\n\n{state_sentence(found)}{resume}")
