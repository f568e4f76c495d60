"""What the findings of a scan mean for a run: what stops it before its first request, and what is only told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from streammig.errors import BrokenExport, Problem
from streammig.scan.stage import Scanned, StageScan
from streammig.telemetry import Notify, Warned

FRESH = (
    "Nothing was sent. Export it again and run the same command, or deliver what is before this byte:"
    " --accept-broken-end."
)
BEGUN = (
    "Deliver the rest of what is before this byte: --accept-broken-end. What is missing can follow as a file of its"
    " own, with a checkpoint of its own."
)


@dataclass(frozen=True, slots=True)
class Policies:
    """What becomes of the findings that an operator decides about."""

    accept_broken: bool = False


def judge(job: StageScan, scanned: Scanned, notify: Notify, policies: Policies) -> Iterator[Problem]:
    """What stops a run of this stage; the rest is told."""
    for it in scanned.found.breaks:
        broken = BrokenExport(it.file, it.offset, it.why, BEGUN if job.begun else FRESH)
        if it.whole:
            notify(Warned("text-behind-end", f"{it.file}: {it.why}, at byte {it.offset}: it is left out"))
        elif policies.accept_broken:
            notify(Warned("broken-end", f"{broken.what}; what is before it is delivered"))
        else:
            yield broken
