"""The commands that lead on from the state of a run: one list for `status`, the end of `run`, and the report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from streammig.errors import counted

MOST_UNDECIDED = 5  # batches that get a command of their own


class Step(NamedTuple):
    """What is left to do, as a noun and a fact, and the exact command that does it."""

    why: str
    command: str


def next_steps(document: Mapping[str, Any]) -> list[Step]:
    """What is left to do of a run, most urgent first, from its `document`; nothing where all is done."""
    checkpoint = shlex.quote(document["checkpoint"])
    steps = []
    undecided = document["undecided"]
    for it in undecided[:MOST_UNDECIDED]:
        why = f"Batch {it['batch']:,} of {it['stage']}, {counted(it['units'], 'unit')}: {it['state']}"
        steps.append(Step(why, f"streammig resolve {checkpoint} {it['batch']} --stage {it['stage']}"))
    if len(undecided) > MOST_UNDECIDED:
        more = len(undecided) - MOST_UNDECIDED
        steps.append(Step(f"More undecided batches: {more:,}", f"streammig resolve {checkpoint}"))
    if dead := sum(stage["dead"] for stage in document["stages"].values()):
        steps.append(Step(f"See why: {counted(dead, 'dead letter')}", f"streammig dead-letters {checkpoint}"))
        if document["state"] != "running" and not document["dry_run"]:
            steps.append(Step("Send them again, corrected or as they are", f"streammig retry {checkpoint}"))
    if document["state"] == "running":
        steps.append(Step("The run is on; see how far it is", f"streammig status {checkpoint}"))
    if document["resume"]:
        steps.append(Step("Go on with the run", document["resume"]))
    return steps
