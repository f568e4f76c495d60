"""What the findings of a scan mean for a run: what stops it before its first request, and what is only told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from streammig.dedup import KeyIndex
from streammig.errors import BrokenExport, Problem, Unusable
from streammig.model import Place
from streammig.scan.stage import Scanned, StageScan
from streammig.telemetry import Notify, Warned

SHOWN = 5  # places in a message
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
    owner_twice: Literal["stop", "dead-letter"] = "stop"


def judge(
    job: StageScan, scanned: Scanned, customers: KeyIndex | None, notify: Notify, policies: Policies
) -> Iterator[Problem]:
    """What stops a run of this stage; the rest is told. `customers` is the index of those that are sent, if known."""
    for it in scanned.found.breaks:
        broken = BrokenExport(it.file, it.offset, it.why, BEGUN if job.begun else FRESH)
        if it.whole:
            notify(Warned("text-behind-end", f"{it.file}: {it.why}, at byte {it.offset}: it is left out"))
        elif policies.accept_broken:
            notify(Warned("broken-end", f"{broken.what}; what is before it is delivered"))
        else:
            yield broken
    if job.policy == "all" and scanned.index is not None and policies.owner_twice == "stop":
        yield from _owners_twice(job, scanned.index, customers)


def _owners_twice(job: StageScan, index: KeyIndex, customers: KeyIndex | None) -> Iterator[Problem]:
    """Customers whose records would go in more than one request, though the target takes them once."""
    places: list[Place] = []
    count = 0
    for it, owner in index.owners_of_duplicates():
        if customers is None or not customers.lacks(owner):
            count += 1
            places += [it.place] if count <= SHOWN else []
    if count:
        files = [mark["file"] for mark in job.source.fingerprints()]
        shown = ", ".join(f"record {it.ordinal:,} of {files[it.source]}, byte {it.offset:,}" for it in places)
        yield Unusable(
            "owner-twice",
            f"{job.name}: records of customers that have more than one: {count:,}: {shown}"
            + (" ..." if count > SHOWN else ""),
            f"The target takes the {job.name} of a customer once. Bring those of a customer together in one record. Or"
            f' set owner_twice = "dead-letter" in the table [{job.name}]: all records of these customers become dead'
            " letters.",
        )
