"""The commands that lead on from the state of a run: one list for `status`, the end of `run`, and the report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from operator import or_
from typing import Any, NamedTuple

from streammig.errors import counted
from streammig.telemetry import PILOT

MOST_UNDECIDED = 5  # batches that get a command of their own


class Step(NamedTuple):
    """What is left to do, as a noun and a fact or as an imperative, and the exact command that does it."""

    why: str
    command: str


def next_steps(document: Mapping[str, Any]) -> list[Step]:
    """What is left to do of a run, most urgent first, from its `document`; nothing where all is done."""
    checkpoint = shlex.quote(document["checkpoint"])
    stages, undecided = document["stages"].values(), document["undecided"]
    steps = [Step(undecided_words(it), undecided_command(it, checkpoint)) for it in undecided[:MOST_UNDECIDED]]
    if len(undecided) > MOST_UNDECIDED:
        more = len(undecided) - MOST_UNDECIDED
        steps.append(Step(f"More batches with an unknown outcome: {more:,}", f"streammig resolve {checkpoint}"))
    if dead := sum(stage["dead"] for stage in stages):
        steps.append(Step(f"Dead letters, with their reasons: {dead:,}", f"streammig dead-letters {checkpoint}"))
    if document["state"] == "reverting":
        return [*steps, Step("A revert is under way. Read back what became of it", f"streammig revert {checkpoint}")]
    if document["state"] == "reverted":  # such a checkpoint sends nothing any more
        return steps
    if document["state"] == "running":
        return [*steps, Step("The run is on. Watch it", f"streammig status --watch {checkpoint}")]
    if dead and not document["dry_run"]:
        steps.append(
            Step("Send them again as they are, or corrected with --input FILE", f"streammig retry {checkpoint}")
        )
    if missing := sum(stage["missing"] for stage in stages):
        said = f"Records that are missing at the target: {missing:,}. Send them again"
        steps.append(Step(said, f"streammig retry {checkpoint} --missing"))
    if not document["dry_run"] and any(stage["accepted"] for stage in stages):
        steps += _looks(document, checkpoint)
    if document["resume"]:
        steps.append(Step("Go on with the run", document["resume"]))
    return steps


def _looks(document: Mapping[str, Any], checkpoint: str) -> list[Step]:
    """What shows whether all that was accepted arrived; of a pilot, what takes it back, too."""
    found, is_pilot = document["verification"], pilot_is_done(document)
    steps = []
    if found is None or found["outdated"]:
        if is_pilot:
            steps.append(Step("Read back all that the pilot sent", f"streammig verify {checkpoint} --all"))
        elif document["state"] == "complete":
            steps.append(Step("Read back a sample of what was accepted", f"streammig verify {checkpoint}"))
    if is_pilot:
        steps.append(Step("Take the pilot back, if it is not right", f"streammig revert {checkpoint}"))
    return steps


def pilot_is_done(document: Mapping[str, Any]) -> bool:
    """Whether the run stands behind a pilot, and its other records are still to be sent."""
    stages = document["stages"].values()
    paused = [it["state"] == "interrupted" and it["code"] == PILOT for it in stages]
    ended = [it["state"] == "complete" for it in stages]
    return document["state"] == "interrupted" and any(paused) and all(map(or_, paused, ended))


def undecided_words(it: Mapping[str, Any]) -> str:
    """A batch with an unknown outcome: what it holds, its state, and since when."""
    units = f", {counted(it['units'], 'unit')}" if it["units"] != it["records"] else ""
    held = counted(it["records"], "record") + units
    since = f" since {it['since']}" if it["since"] else ""  # a part of a batch may never have been sent
    return f"{it['stage']}: batch {it['batch']}, {held}, {it['state']}{since}"


def undecided_command(it: Mapping[str, Any], checkpoint: str) -> str:
    return f"streammig resolve {checkpoint} {it['batch']} --stage {it['stage']}"
