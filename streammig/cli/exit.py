"""The end of a command: document or summary, and exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from streammig.cli import PILOT_DONE, STOPPED, called, fail, say
from streammig.errors import SAMPLES_MISSING, Held, Problem, TooManyDead, UnknownOutcome, Unusable, counted
from streammig.report.reports import Report
from streammig.report.text import differs, state_sentence, summary, what_is_left
from streammig.telemetry import Notify, Output, RunEnded


class Ended(NamedTuple):
    """How the work of a command ended. `began` is False where it was refused before a record was read; `pilot` is the
    number of records of each stage that a pilot has done, if this was one and it came to its end; `said` is what the
    command itself has to say, after the totals."""

    whole: bool
    problem: Problem | None = None
    began: bool = True
    pilot: int | None = None
    said: str = ""


def finish(path: Path, ended: Ended, output: Output, notify: Notify) -> int:
    """Print how a run ended, and return its exit code: first the totals, then the meaning and the next step."""
    code = _finished(path, ended, output)
    notify(RunEnded(code, ended.problem.json() if ended.problem is not None else None))
    return code


def _finished(path: Path, ended: Ended, output: Output) -> int:
    problem, as_json = ended.problem, output.as_json
    said = output.log == "text"  # else the last line of the log tells how it ended
    in_words = said and not (output.quiet or as_json)
    if problem is None and not path.exists():
        if said:
            click.echo("stopped before anything was done", err=True)
        return STOPPED
    if problem is not None and (isinstance(problem, Held) or not path.exists() or not (ended.began or as_json)):
        return fail(problem, as_json=as_json, said=said)
    try:
        found = Report.read(path).document
    except Problem as unreadable:
        return fail(problem or unreadable, as_json=as_json, said=said)
    code = exit_code(found, ended)
    if as_json:
        error = {"error": problem.json()} if problem is not None else {}
        click.echo(json.dumps(found | error, indent=2))
    if in_words:
        say("\n" + summary(found) + "\n" + (f"\n{ended.said}" if ended.said else ""))
    if problem is not None:
        # What to do about a batch of unknown outcome stands beside that batch, in the summary above.
        listed = isinstance(problem, UnknownOutcome) and found["undecided"] and in_words
        fail(problem, hint=not listed, said=said)
    if in_words:
        say(headline(code, found, ended))
    return code


def headline(code: int, found: Mapping[str, Any], ended: Ended) -> str:
    """A sentence on how a run ended and its exit code, then the command that goes on from here."""
    stages = found["stages"].values()
    accepted = "written" if found["dry_run"] else "accepted"
    warned = ", with warnings" if found["warnings"] else ""
    said = {
        0: f"Complete: every record is {accepted} or filtered{warned}",
        3: f"Complete, with {what_is_left(found)}",
        4: "Everything else is sent" if found["state"] == "complete" else "Other records are still to be sent",
        5: "The target stopped this run: see the error above",
        STOPPED: "Stopped on request; nothing is lost",
    }.get(code, "This run failed: see the error above")
    if code == PILOT_DONE and ended.pilot is not None:
        done = max([ended.pilot, *(stage["source_records"] for stage in stages)])
        what = f"at most {counted(done, 'record')}, with all that belongs to their customers"
        said = f"The pilot is done: {what}; the full run sends the rest"
    elif code == STOPPED and found["state"] == "complete":
        said = "Everything is sent; the last look at the target is left"
    elif code == STOPPED and ended.whole:
        said = "The retry is done; the run itself is not"
    elif code == TooManyDead.exit_code and isinstance(ended.problem, TooManyDead):
        said = "Stopped: too many records became dead letters; nothing is lost"
    said += f" (exit code {code})."
    # What can't be used as it is does not become usable by calling it again: the error above says what to do.
    resume = found["resume"] if code != Unusable.exit_code else None
    if code == STOPPED and found["state"] == "complete":
        resume = resume or called()
    return f"{said}\nTo go on: {resume}" if resume else said


def exit_code(found: dict[str, Any], ended: Ended) -> int:
    """The exit code: a defect first, then a problem that stopped the run, then unfinished work."""
    stages = found["stages"].values()
    if not found["balanced"]:
        return 1
    if ended.problem is not None:
        return ended.problem.exit_code
    if ended.pilot is not None and not ended.whole:
        return PILOT_DONE
    if not ended.whole or found["state"] in ("interrupted", "failed", "reverting"):
        # A retry may be done where its run is not. An undecided batch is what the same command goes on with.
        return STOPPED
    if any(stage["unknown"] for stage in stages):
        return 4
    return (
        3
        if differs(found["verification"]) or any(stage["dead"] or stage["code"] == SAMPLES_MISSING for stage in stages)
        else 0
    )


def print_document(found: dict[str, Any], as_json: bool) -> None:
    """A document on stdout, for programs or for people."""
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    resume = f"\nTo go on: {found['resume']}" if found["resume"] else ""
    say(f"{summary(found)}\n\n{state_sentence(found)}{resume}", sys.stdout)
