"""The notices of a run. Each has a text for people and JSON for programs, and is passed to one callable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from streammig.errors import counted
from streammig.model import START, Batch, BatchState, Kind, Place, Receipt, Tally


class Expected(NamedTuple):
    """The estimate of a stage, made from its first records."""

    requests: float = 0.0  # total
    ratio: float = 1.0  # bytes of bodies for each byte of the export
    readable: bool = False  # whether samples are read back at the end of the stage
    units: float = 0.0  # total, including those left out; 0 if not known


class Account(NamedTuple):
    """How far a stage is, from the checkpoint. Counts are in units of the stage unless they say otherwise."""

    frontier: Place = START
    sizes: tuple[int, ...] | None = None  # bytes of each file, decompressed; an estimate if it is compressed
    read: int = 0
    accepted: int = 0
    dead: int = 0
    filtered: int = 0
    pending: int = 0  # sealed, and still to be sent
    unknown: int = 0
    complete: bool = False  # everything is read and settled
    waiting: int = 0  # batches still to be sent
    sent: int = 0  # batches accepted
    made: int = 0  # batches made from the export
    bytes: int = 0  # of the bodies of these batches
    requests: int = 0  # made so far
    settled: float | None = None  # time at which the last batch was accepted, in seconds since the epoch
    seen: bool = False  # whether its samples were seen at the target
    expected: Expected = Expected()


class Notice:
    """Something that happened in a run.

    `text` is one line for people, or "" for a notice that comes too often. `json` has no personal data.
    """

    def text(self) -> str:
        return ""

    def json(self) -> dict[str, Any]:
        name = type(self).__name__
        kind = "".join(f"-{each.lower()}" if each.isupper() else each for each in name).lstrip("-")
        found = {"notice": kind}
        for each in fields(self):  # type: ignore[arg-type]  # every kind is a dataclass
            found |= _plain(each.name, getattr(self, each.name))
        return found


@dataclass(frozen=True, slots=True)
class CheckpointOpened(Notice):
    """A command has opened a checkpoint."""

    run: str  # id of the migration, the same for every command on this checkpoint


@dataclass(frozen=True, slots=True)
class StageBegan(Notice):
    """A stage starts, or resumes."""

    stage: str
    account: Account = field(default_factory=Account)

    def text(self) -> str:
        it = self.account
        if it.frontier[:3] == START[:3]:
            return f"{self.stage}: starting"
        if it.complete and not it.waiting:
            return f"{self.stage}: all is read and sent"
        left = f", {counted(it.pending, 'sealed unit')} still to send" if it.pending else ""
        return f"{self.stage}: going on" + ("" if it.complete else f" at record {it.frontier.ordinal:,}") + left


@dataclass(frozen=True, slots=True)
class RunBegan(Notice):
    """A run is about to make its first request."""

    accounts: Mapping[str, Account]  # by stage
    limits: str
    account_file: str  # holds the shared limits; "" without one
    settle: float  # seconds for the target's queue after each stage
    lanes: int  # requests that may be under way at once
    hours: str = ""  # the timetable
    hours_zone: str = ""  # its time zone
    dry_run: bool = False

    def json(self) -> dict[str, Any]:
        accounts = {stage: account._asdict() for stage, account in self.accounts.items()}
        pace = {"limits": self.limits, "settle": self.settle, "concurrency": self.lanes, "hours": self.hours}
        return {"notice": "run-began", **pace, "stages": accounts}


@dataclass(frozen=True, slots=True)
class Decided(Notice):
    """The outcome of an unknown batch is known now, or the batch is parked for the operator."""

    batch: Batch
    state: BatchState


@dataclass(frozen=True, slots=True)
class Advanced(Notice):
    """More of a stage is read and in the checkpoint. `read` and `filtered` count units so far."""

    stage: str
    frontier: Place
    read: int
    filtered: int


@dataclass(frozen=True, slots=True)
class Sealed(Notice):
    """A batch is in the checkpoint."""

    stage: str
    batch: Batch


@dataclass(frozen=True, slots=True)
class Sending(Notice):
    """A request for a batch leaves."""

    batch: Batch
    attempt: int


@dataclass(frozen=True, slots=True)
class Answered(Notice):
    """A request ended in a receipt. Its message is redacted."""

    batch: Batch
    receipt: Receipt
    attempt: int = 0

    def text(self) -> str:
        receipt = self.receipt
        if receipt.kind is Kind.ACCEPTED:
            return ""
        status = f" ({receipt.status})" if receipt.status is not None else ""
        said = "not sent, no connection was made" if receipt.kind is Kind.NOT_SENT else receipt.kind
        why = " ".join(receipt.message.split())
        return f"{self.batch.stage}: batch {self.batch.seq}: {said}{status}" + (f": {why}" if why else "")


@dataclass(frozen=True, slots=True)
class DeadLettered(Notice):
    """Records became dead letters."""

    stage: str
    tally: Tally

    def text(self) -> str:
        became = "became a dead letter" if self.tally.records == 1 else "became dead letters"
        return f"{self.stage}: {counted(self.tally.records, 'record')} {became}"


@dataclass(frozen=True, slots=True)
class Waiting(Notice):
    """The run waits."""

    code: str  # stable
    reason: str  # in words
    seconds: float | None = None  # None if not known

    def text(self) -> str:
        return f"waiting: {self.reason}" + lasting(self.seconds)


@dataclass(frozen=True, slots=True)
class Verifying(Waiting):
    """The progress of a verify; `seconds` is the time left."""

    def text(self) -> str:
        return self.reason + (f", {spoken(self.seconds)} left" if self.seconds is not None else "")


@dataclass(frozen=True, slots=True)
class Steered(Notice):
    """The limits have changed, by the operator (`limits`) or the timetable (`hours`), or the operator ended a pause."""

    change: Literal["limits", "unpaused", "hours"]
    limits: str

    def text(self) -> str:
        if self.change == "hours":
            return f"the timetable changed the limits: {self.limits} from now on"
        if self.change == "limits":
            return f"the operator changed the limits: {self.limits} from now on"
        return f"the operator ended the pause: going on with limits {self.limits}"


@dataclass(frozen=True, slots=True)
class Judging(Notice):
    """Names the implementation of the rules in this process. Both make the same batches."""

    judge: str

    def text(self) -> str:
        return f"records are judged by {self.judge}"


@dataclass(frozen=True, slots=True)
class ArrayDetected(Notice):
    """No array was named for a file. This one was taken as the records of the stage."""

    stage: str
    file: str
    path: str  # as it is typed after `#`

    def text(self) -> str:
        return f"{self.stage}: the records of {self.file} were found at {self.path}"


@dataclass(frozen=True, slots=True)
class Grouping(Notice):
    """Rows are about to be grouped by customer."""

    stage: str
    folder: str
    room: int  # bytes that the folder may need at most

    def text(self) -> str:
        return (
            f"{self.stage}: rows are grouped by customer in {self.folder}, of up to {math.ceil(self.room / 1e6):,} MB"
        )


@dataclass(frozen=True, slots=True)
class Warned(Notice):
    """A warning for the operator. The run goes on."""

    code: str  # stable
    warning: str  # in words

    def text(self) -> str:
        return f"warning: {self.warning}"


@dataclass(frozen=True, slots=True)
class Stopping(Notice):
    """The run was asked to stop."""

    seconds: float  # that requests under way get to end

    def text(self) -> str:
        return f"stopping: requests under way may end, for at most {spoken(self.seconds)}; once more cuts them off"


@dataclass(frozen=True, slots=True)
class StageEnded(Notice):
    """A stage ends: complete, paused, failed or interrupted, with the code and the message of the reason."""

    stage: str
    state: str
    message: str = ""
    code: str = ""

    def text(self) -> str:
        state = "paused" if self.code == PILOT else self.state
        return f"{self.stage}: {state}" + (f": {self.message}" if self.message else "")


@dataclass(frozen=True, slots=True)
class RunEnded(Notice):
    """A command ends, with its exit code, and the problem that ended it or None."""

    exit_code: int
    error: Mapping[str, str | int] | None


PILOT = "pilot"  # code of a stage that a pilot has ended before the end of the export


class Output(NamedTuple):
    """What a command prints."""

    as_json: bool = False  # a JSON document on stdout
    quiet: bool = False  # on stderr, only errors
    log: Literal["text", "json"] = "text"  # on stderr, text or JSON lines


Notify = Callable[[Notice], None]


def ignore(notice: Notice) -> None:
    """A `Notify` that drops every notice."""


def _plain(name: str, value: object) -> dict[str, Any]:
    """The JSON members for one field of a notice. Of a batch, receipt or tally, only the useful parts."""
    match value:
        case Account():
            return value._asdict()
        case Batch(stage=stage, seq=seq, tally=tally, size=size):
            return {"stage": stage, "batch": seq, "records": tally.records, "units": tally.units, "bytes": size}
        case Receipt(kind=kind, status=status, code=code, latency=latency, message=message):
            return {"kind": kind, "status": status, "code": code, "latency": latency, "message": message}
        case Tally(records=records, units=units):
            return {"records": records, "units": units}
    return {name: value}


def lasting(seconds: float | None) -> str:
    """The length of a wait in brackets, for the end of a sentence; "" if it is too short to matter."""
    return f" ({spoken(seconds)})" if seconds is not None and seconds >= 0.05 else ""


def spoken(seconds: float) -> str:
    """Format a duration: 0.4 s, 12 s, 5 min, 3 h 20 min, 5 days 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 180:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{hours // 24} days {hours % 24} h"
