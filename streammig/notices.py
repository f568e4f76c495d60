"""What a run tells those who watch it: values, passed to one callable, that say what happened in which stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from streammig.records import Batch, Place, Receipt, Tally


@dataclass(frozen=True, slots=True)
class StageBegan:
    """A stage starts, or goes on from its `frontier`. `sizes` are its files' bytes, decompressed, about;
    `accepted` and `pending` are there from before."""

    stage: str
    frontier: Place
    sizes: tuple[int, ...] | None
    accepted: Tally = field(default_factory=Tally)
    pending: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A batch is in the checkpoint; `frontier` is how far its stage is read."""

    stage: str
    batch: Batch
    frontier: Place


@dataclass(frozen=True, slots=True)
class Answered:
    """A request ended in a receipt."""

    batch: Batch
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Buried:
    """Records became dead letters."""

    stage: str
    tally: Tally


@dataclass(frozen=True, slots=True)
class Waiting:
    """The run waits and why, in words; `seconds` where it is known for how long."""

    why: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """An array of the export that nobody named, taken as the records of a stage: `path` as it is typed behind `#`."""

    stage: str
    file: str
    path: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the operator should know, in words, that does not stop the run."""

    text: str


@dataclass(frozen=True, slots=True)
class StageEnded:
    """A stage ends: complete, failed or interrupted, with what to say about it."""

    stage: str
    state: str
    message: str = ""


Notice = StageBegan | Sealed | Answered | Buried | Waiting | Chosen | Warned | StageEnded
Tell = Callable[[Notice], None]


def tell_nobody(notice: Notice) -> None:
    pass
