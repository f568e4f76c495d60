"""Judge the findings of a scan: which stop the run before its first request, and which are warnings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from streammig.dedup import KeyIndex
from streammig.errors import BrokenExport, Problem, Unusable
from streammig.model import Place
from streammig.scan.findings import Found, Spot
from streammig.scan.looks import A_VALUE
from streammig.scan.stage import ScanResult, StageScan
from streammig.telemetry import Notify, Warned

SHOWN = 5  # places in a message
FRESH = (
    "Nothing was sent. Export it again and run the same command, or send the records before this byte:"
    " --accept-broken-end."
)
BEGUN = (
    "Send the remaining records before this byte: --accept-broken-end. The missing ones can follow in a file of their"
    " own, with a checkpoint of its own."
)


@dataclass(frozen=True, slots=True)
class Policies:
    """The operator's decisions about findings, from the settings."""

    accept_broken: bool = False
    owner_twice: Literal["stop", "dead-letter"] = "stop"
    balances: Literal["stop", "send", "dead-letter"] = "stop"
    not_deleted: tuple[str, ...] = ()  # `field` or `field=value`, which mark no deleted customer


def judge(
    job: StageScan, scanned: ScanResult, customers: KeyIndex | None, notify: Notify, policies: Policies
) -> Iterator[Problem]:
    """Give the problems that stop a run of this stage; other findings become warnings.

    `customers` is the index of the customers that are sent, if there is one.
    """
    for it in scanned.found.breaks:
        broken = BrokenExport(it.file, it.offset, it.why, BEGUN if job.begun else FRESH)
        if it.whole:
            notify(Warned("text-behind-end", f"{it.file}: {it.why}, at byte {it.offset}: it is left out"))
        elif policies.accept_broken:
            notify(Warned("broken-end", f"{broken.what}; the records before it are sent"))
        else:
            yield broken
    marks = [it for it in scanned.found.marks if {it[0], f"{it[0]}={it[1]}"}.isdisjoint(policies.not_deleted)]
    if marks and job.owners:
        yield _unclear(job.name, scanned.found, marks)
    if scanned.found.refused:
        notify(Warned("stage-refused", _all_refused(job.name, scanned.found)))
    if job.policy == "all" and scanned.index is not None and policies.owner_twice == "stop":
        yield from _owners_twice(job, scanned.index, customers)


def _owners_twice(job: StageScan, index: KeyIndex, customers: KeyIndex | None) -> Iterator[Problem]:
    """Give a problem if a customer has several records in a stage that the target takes once."""
    places: list[Place] = []
    count = 0
    for it, owner in index.owners_of_duplicates():
        if customers is None or not customers.lacks(owner):
            count += 1
            places += [it.place] if count <= SHOWN else []
    if count:
        yield Unusable(
            "owner-twice",
            f"{job.name}: records of customers that have more than one: {count:,} ({_places(job, places, count)})",
            f"The target takes the {job.name} of a customer once. Bring them together in one record for each customer."
            f' Or set owner_twice = "dead-letter" in the table [{job.name}]: all records of these customers become'
            " dead letters.",
        )


def unbalanced(job: StageScan, scanned: ScanResult, customers: KeyIndex, stopped: Callable[[], bool]) -> list[Problem]:
    """Return a problem if records of customers do not add up to the balances that the customers are sent with."""
    if scanned.index is None:
        return []
    places: list[Place] = []
    count = 0
    for place in scanned.index.differing(customers, stopped):
        count += 1
        places += [place] if count <= SHOWN else []
    if not count:
        return []
    return [
        Unusable(
            "balance-differs",
            f"{job.name}: records that do not add up, by reward and brand, to the balance of their customer:"
            f" {count:,} ({_places(job, places, count)})",
            f"The target would drop them silently. Export both at the same moment; list the records with streammig"
            f' check. Or set balances = "dead-letter" to leave them out of the {job.name}; or balances = "send".',
        )
    ]


def _places(job: StageScan, places: Sequence[Place], count: int) -> str:
    """List the first of `count` places."""
    marks = job.source.fingerprints()
    shown = ", ".join(str(Spot.of(it, marks)) for it in places)
    return shown + (" ..." if count > SHOWN else "")


def _unclear(name: str, found: Found, marks: Sequence[tuple[str, str, int]]) -> Problem:
    """Make the problem of fields that may mark deleted customers and that no setting names."""
    shown = ", ".join(f"{field}: {value} ({count:,})" for field, value, count in marks[:SHOWN])
    as_set = ", ".join(f'"{field}"' if value == A_VALUE else f'"{field}={value}"' for field, value, _ in marks[:SHOWN])
    return Unusable(
        "deleted-unclear",
        f"{name}: fields that may mark deleted customers, with values and counts: {shown}; first in {found.marked}",
        f"If these customers are deleted, set deleted = [{as_set}] in the table [{name}]: they are left out then. Else"
        f" set not_deleted = [{as_set}].",
    )


def _all_refused(name: str, found: Found) -> str:
    codes = ", ".join(f"{code} {count:,}" for code, count in sorted(found.refused.items(), key=lambda it: -it[1]))
    said = f"{name}: every record is refused: {codes}; the first is {found.bad}: {found.example}"
    if found.refused.keys() == {"invalid-utf8"}:
        return f"{said}. The file is not UTF-8: convert it first, say with iconv"
    if found.refused.keys() == {"mapping-failed"}:
        return f"{said}. Correct the mapping, and look again with --dry-run"
    return f"{said}. No record has the form of the target: is a mapping missing, or is it the file of another stage?"
