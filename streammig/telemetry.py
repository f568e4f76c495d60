"""The notices of a run: frozen values, passed to one callable, each with a text for people and JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from streammig.errors import counted
from streammig.model import START, Batch, BatchState, Kind, Place, Receipt, Tally


class Expected(NamedTuple):
    """What a stage will take, told by its first records."""

    requests: float = 0.0  # in all
    ratio: float = 1.0  # bytes of bodies for a byte of the export
    readable: bool = False  # whether samples of it are read back at its end
    units: float = 0.0  # in all, those left out included; 0 where they are not known: how far the reading is tells more


class Account(NamedTuple):
    """How far a stage is: what is read, and what of it is settled, in units of the stage; from the checkpoint."""

    frontier: Place = START
    sizes: tuple[int, ...] | None = None  # bytes of each file, decompressed; about, where a file is compressed
    read: int = 0
    accepted: int = 0
    dead: int = 0
    filtered: int = 0
    pending: int = 0  # sealed, and still to be sent
    unknown: int = 0
    complete: bool = False  # all of it was read and settled
    waiting: int = 0  # batches that are still to be sent
    sent: int = 0  # batches that were accepted
    made: int = 0  # batches made of the export
    bytes: int = 0  # of their bodies
    requests: int = 0  # made so far
    settled: float | None = None  # when its last batch was accepted, in seconds since the epoch
    seen: bool = False  # its samples were seen at the target
    expected: Expected = Expected()


class Notice:
    """Something that happened. `text` is one line for people, "" where a line each time would be too much; `json` is
    JSON-ready, without personal data."""

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
    """A command holds a checkpoint, by the id of its migration: it is the same for every command that works on it."""

    run: str


@dataclass(frozen=True, slots=True)
class StageBegan(Notice):
    """A stage starts, or goes on from where an earlier run left it."""

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
    """A run is about to make its first request: how far its stages are, and what paces it."""

    accounts: Mapping[str, Account]
    limits: str
    account_file: str  # of the rate limits; "" without one
    settle: float  # seconds for the target's queue behind each stage
    lanes: int  # requests that may be under way at once
    hours: str = ""  # the timetable, and by whose clock
    hours_zone: str = ""
    dry_run: bool = False

    def json(self) -> dict[str, Any]:
        accounts = {stage: account._asdict() for stage, account in self.accounts.items()}
        pace = {"limits": self.limits, "settle": self.settle, "concurrency": self.lanes, "hours": self.hours}
        return {"notice": "run-began", **pace, "stages": accounts}


@dataclass(frozen=True, slots=True)
class Decided(Notice):
    """It is known what became of a batch of unknown outcome, or it is left to the operator."""

    batch: Batch
    state: BatchState


@dataclass(frozen=True, slots=True)
class Advanced(Notice):
    """More of a stage is read, and the checkpoint knows it: `read` and `filtered` are units so far."""

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
    """The run waits: a stable code, the reason in words, and for how many seconds where that is known."""

    code: str
    reason: str
    seconds: float | None = None

    def text(self) -> str:
        return f"waiting: {self.reason}" + lasting(self.seconds)


@dataclass(frozen=True, slots=True)
class Verifying(Waiting):
    """How far a verify is, with the seconds that are left."""

    def text(self) -> str:
        return self.reason + (f", {spoken(self.seconds)} left" if self.seconds is not None else "")


@dataclass(frozen=True, slots=True)
class Steered(Notice):
    """What the operator asked for changed: the run goes on (`unpaused`), or keeps other `limits` from now on; or the
    timetable (`hours`) changed them."""

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
    """What judges records in this process: the batches are the same by either."""

    judge: str

    def text(self) -> str:
        return f"records are judged by {self.judge}"


@dataclass(frozen=True, slots=True)
class ArrayDetected(Notice):
    """The array of a file that nobody named, taken as the records of a stage: `path` as it is typed after `#`."""

    stage: str
    file: str
    path: str

    def text(self) -> str:
        return f"{self.stage}: the records of {self.file} were found at {self.path}"


@dataclass(frozen=True, slots=True)
class Grouping(Notice):
    """Rows are about to be grouped by customer, in a folder that takes so many bytes at most."""

    stage: str
    folder: str
    room: int

    def text(self) -> str:
        return (
            f"{self.stage}: rows are grouped by customer in {self.folder}, of up to {math.ceil(self.room / 1e6):,} MB"
        )


@dataclass(frozen=True, slots=True)
class Warned(Notice):
    """Something the operator should know that does not stop the run: a stable code, and words."""

    code: str
    warning: str

    def text(self) -> str:
        return f"warning: {self.warning}"


@dataclass(frozen=True, slots=True)
class Stopping(Notice):
    """The run was asked to stop: requests under way get so many seconds to end."""

    seconds: float

    def text(self) -> str:
        return f"stopping: requests under way may end, for at most {spoken(self.seconds)}; once more cuts them off"


@dataclass(frozen=True, slots=True)
class StageEnded(Notice):
    """A stage ends: complete, paused, failed or interrupted, with the code and the words of why."""

    stage: str
    state: str
    message: str = ""
    code: str = ""

    def text(self) -> str:
        state = "paused" if self.code == PILOT else self.state
        return f"{self.stage}: {state}" + (f": {self.message}" if self.message else "")


@dataclass(frozen=True, slots=True)
class RunEnded(Notice):
    """A command ends, with its exit code and the problem that ended it, if one did."""

    exit_code: int
    error: Mapping[str, str | int] | None


PILOT = "pilot"  # the code of a stage that a pilot has ended before the end of its export


class Output(NamedTuple):
    """What a command prints: a JSON document on stdout or not; on stderr everything, errors only, or JSON lines."""

    as_json: bool = False
    quiet: bool = False
    log: Literal["text", "json"] = "text"


Notify = Callable[[Notice], None]


def ignore(notice: Notice) -> None:
    """A `Notify` for a run that nobody watches."""


def _plain(name: str, value: object) -> dict[str, Any]:
    """A field of a notice as the members of its JSON: of what it holds, what tells a program something."""
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
    """How long a wait lasts, after its reason; nothing of what is over before it is read."""
    return f" ({spoken(seconds)})" if seconds is not None and seconds >= 0.05 else ""


def spoken(seconds: float) -> str:
    """A duration for people: 0.4 s, 12 s, 5 min, 3 h 20 min, 5 days 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 180:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{hours // 24} days {hours % 24} h"
