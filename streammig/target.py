"""The port to a target: its stages, rules, client and read-back, in prose. `tests/conformance.py` holds each to it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

from msgspec import Raw

from streammig.columns import Columns, Judged
from streammig.model import Receipt, Record, Span

Mapping = Callable[[Any], Any]
"""A user's callable: a source record as Python objects (non-integers as Decimal) to a record, a list of records, or
None (filtered)."""


class Rules(Protocol):
    """The target's rules for the records of one stage: mapping, validity, filters, exact splicing.

    Synchronous and without state between calls, so the same record gives the same result in any span, in any process.
    Never raises for what a record holds: that is a dead letter. A defect of a user's mapping is one too.
    """

    @property
    def head(self) -> bytes:
        """What a request's body begins with, before the first record."""
        ...

    @property
    def tail(self) -> bytes:
        """What it ends with; records stand between, joined with b","."""
        ...

    @property
    def once(self) -> bool:
        """Whether the units of one owner must never be split over batches (transactions)."""
        ...

    def columns(self, span: Span) -> Columns:
        """What becomes of the records of a span, in columns."""
        ...

    def __hash__(self) -> int: ...


class Judge(Protocol):
    """A target's judge that may find out what becomes of records while these are framed. What it has found of a record
    proves that the record is one JSON value in UTF-8, and where it ends."""

    def elements(self, data: bytes, low: int, high: int, limit: int) -> Judged:
        """Judge elements of an array, the first of which begins at the index `low`, up to one that does not end before
        `high`, has more than `limit` bytes, or is no JSON value. Places are counted from `low`."""
        ...

    def lines(self, data: bytes, starts: Sequence[int], ends: Sequence[int], limit: int) -> Judged | None:
        """Judge what stands between these places; None where any is not sure to be one JSON value within the limit."""
        ...


@runtime_checkable
class Judges(Protocol):
    """Rules with a judge; None where it has nothing to tell of records with these settings."""

    @property
    def judge(self) -> Judge | None: ...


@runtime_checkable
class MayHide(Protocol):
    """Rules that may send a record though a field of it, which they do not cut, says that it is deleted."""

    @property
    def hides(self) -> bool:
        """Whether they may: there is a mapping, and what it decides by is unknown, or unknown fields are sent."""
        ...

    def unread(self, data: bytes) -> dict[str, Raw]:
        """The outermost fields of a source record that the mapping is not known to read, and no setting names."""
        ...

    def made(self, data: bytes) -> list[bytes]:
        """What the mapping makes of a source record; of one that it refuses, nothing."""
        ...


FRACTION_DIGITS = 12  # of exact amounts as whole numbers: a number with more is refused by the rules


class Facts(Protocol):
    """What rows hold beside what a batch needs. A row is named by its number among them."""

    @property
    def mentioned(self) -> dict[tuple[str, str], int]:
        """How many rows mention each thing of the account's own world: its kind, and which one; none is a person."""
        ...

    @property
    def keys(self) -> Sequence[tuple[int, int, str]]:
        """The units that have a natural key: row, number in the row, and key, in reading order. A key that comes twice
        for an owner is the same unit twice."""
        ...

    @property
    def shares(self) -> Sequence[tuple[int, str, int]]:
        """What rows add to the sums of their owners: row, name of the sum, amount in units of its last digit."""
        ...


@lru_cache(maxsize=32)
def may_hide(rules: Rules) -> MayHide | None:
    """The rules, if they are such. To look at a protocol for each span would take longer than what it is asked for."""
    return rules if isinstance(rules, MayHide) else None


@runtime_checkable
class TellsFacts(Protocol):
    """Rules of a stage that can tell facts of their rows."""

    @property
    def adds_up(self) -> bool:
        """Whether the records must add up, for each owner, to the same as those of another stage."""
        ...

    @property
    def has_keys(self) -> bool:
        """Whether units have a natural key."""
        ...

    def facts(self, data: bytes, starts: Sequence[int], ends: Sequence[int], edited: dict[int, bytes]) -> Facts:
        """The facts of rows whose bodies stand in `data` between these places, but for those of `edited`, by row."""
        ...


@lru_cache(maxsize=32)
def tells_facts(rules: Rules) -> TellsFacts | None:
    """As `may_hide`, of these."""
    return rules if isinstance(rules, TellsFacts) else None


class Client(Protocol):
    """Our side of the target for one kind of request: takes a body, returns a receipt.

    `send` is called at most once for a permit, possibly by several tasks at once. It never raises for what the network
    or the target did: that is a receipt. It makes one request, follows no redirect, repeats nothing. On cancel it
    raises `CancelledError`, and the outcome is unknown unless nothing had left. `began` is called with no argument at
    the moment the first byte is about to leave, or never.
    """

    async def send(self, stage: str, body: bytes, began: Callable[[], None] = ...) -> Receipt: ...

    def redact(self, said: str) -> str:
        """What the target said, without any value of a record or of the key."""
        ...

    async def renew(self) -> None:
        """Get new credentials, once for all callers at the same time; raises `TargetStop` if they are refused."""
        ...


@runtime_checkable
class Reverts(Protocol):
    """A client that can take back what was sent."""

    async def revert(self, start: float, end: float, began: Callable[[], None] = ...) -> Receipt:
        """Take back all that was migrated from `start` up to `end`, in seconds since the epoch by the target's clock;
        as `Client.send` otherwise."""
        ...


class Permit(Protocol):
    """The right to make one request now."""

    def sent(self) -> None:
        """The first byte leaves now."""

    def unsent(self) -> None:
        """Nothing left: the start is free for another request."""


class Permits(Protocol):
    """Hands out the account's permits."""

    async def acquire(self) -> Permit: ...

    def answered(self, latency: float) -> None:
        """A request was answered so many seconds after it left."""

    async def pause_for(self, seconds: float, status: int = 429) -> None:
        """Nobody on this account starts a request for so long, as an answer with this status asked for. Returns at
        once: it is the next permit that waits. Raises `TargetStop` for more than a day."""

    async def on_429(self) -> None:
        """The target refused a request that our own count allowed: keep a wider margin."""

    async def release(self, run_id: str) -> None:
        """This checkpoint was reverted: what it was given may be sent by another one."""

    def all_sent(self) -> None:
        """This run sends nothing any more: its reads need not leave room for requests."""

    async def spare(self) -> float:
        """How many reads the account has left now; infinite where nobody counts them."""
        ...


class Seen(enum.StrEnum):
    """How much of a record the target shows."""

    NOTHING = "nothing"
    PART = "part"
    ALL = "all"
    OTHER = "other"
    CANT_TELL = "can't tell"


MISSING, DIFFERS, LESS, MORE, UNREADABLE = "missing", "differs", "less", "more", "unreadable"


class Difference(NamedTuple):
    """A field in which what is shown is not what was sent, and how: `missing` (of nothing is anything there, and the
    field is empty), `differs`, `less` or `more` of a number, `unreadable`. The values may be personal data."""

    field: str
    reason: str
    sent: str = ""
    shown: str = ""


class ReadBack(Protocol):
    """What the target shows of what it was sent. Reads are paced by the target's general limit on this side of it.

    Both raise `Problem` kinds for a world that is wrong. Where nothing could be learnt just now (no connection, 5xx,
    429 after its wait) or ever (nothing to read back by), `visible` is CANT_TELL and `reachable` False. Where an answer
    came that says nothing to us, `misread` tells its status and shape, until the next read.
    """

    misread: str

    async def visible(self, stage: str, record: Record) -> Seen:
        """How much of this record, as sent, can be seen at the target now; NOTHING, PART, ALL and OTHER only where the
        answer is the target's. OTHER: what stands there in its place is not what was sent, or is in a form that can't
        be held against it, so it may have been there before, or changed since; that proves nothing. For events: ALL if
        at least as many purchases are counted for its owner as it holds, else CANT_TELL, for counts never prove that
        something did not land."""
        ...

    async def differences(self, stage: str, record: Record, counted: int = 0) -> list[Difference] | None:
        """In which fields what is there is not what was sent, exactly and in decimals; None where nothing could be
        learnt. `counted` is how many units that are only counted were sent of the record's owner, 0 for no look."""
        ...

    def counted(self, stage: str, record: Record) -> int:
        """How many units of a record the target only counts, so that they have no look of their own."""
        ...

    def can_tell(self, stage: str, record: Record) -> bool:
        """Whether `visible` can ever say something of this record: an event that is no purchase leaves no trace."""
        ...

    def proves(self, stage: str) -> bool:
        """Whether `visible` can prove of anything of a stage that it landed, or did not."""
        ...

    async def reachable(self) -> bool:
        """Whether an authenticated read succeeds now."""
        ...


class Stage(NamedTuple):
    """One kind of records, and the request that carries them."""

    name: str
    depends_on: str  # the stage whose records these build on at the target, "" without one
    once: bool  # whether the units of one owner must never be split over batches
    unit: str  # what a batch limit counts, in the singular


class Target(Protocol):
    """A remote system: its stages in order, their rules, and the way to it. A second target is a second package."""

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    @property
    def queued(self) -> bool:
        """Whether what it accepted is done later, so that there is something to wait for and to look at."""
        ...

    def rules(self, stage: str) -> Rules: ...

    def connect(self) -> AbstractAsyncContextManager[tuple[Client, ReadBack]]:
        """Open the way to the target; leaving the context closes every connection. Makes no request by itself."""
        ...
