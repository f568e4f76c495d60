"""The port to a target: protocols of its stages, rules, client and read-back. `tests/conformance.py` checks each."""

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
"""A user's function. Takes a source record as Python objects, with non-integers as Decimal. Returns a record, a list of
records, or None (filtered)."""


class Rules(Protocol):
    """The target's rules for the records of one stage: mapping, checks, filters, edits of single bytes.

    Synchronous and without state between calls: the same record gives the same result in any span and any process.
    A bad record never raises, it becomes a dead letter. So does a record for which the user's mapping raises.
    """

    @property
    def head(self) -> bytes:
        """The bytes of a request body before the first record."""
        ...

    @property
    def tail(self) -> bytes:
        """The bytes after the last record. Records are joined with b","."""
        ...

    @property
    def once(self) -> bool:
        """Whether all units of an owner must be in one batch (transactions)."""
        ...

    def columns(self, span: Span) -> Columns:
        """Judge the records of a span."""
        ...

    def __hash__(self) -> int: ...


class Judge(Protocol):
    """A compiled judge, which may judge records while they are framed.

    A verdict on a record proves that it is one JSON value in UTF-8, and where it ends.
    """

    def elements(self, data: bytes, low: int, high: int, limit: int) -> Judged:
        """Judge the elements of an array from index `low` on. Offsets in the result count from `low`.

        Stops before an element that does not end before `high`, has more than `limit` bytes, or is not JSON.
        """
        ...

    def lines(self, data: bytes, starts: Sequence[int], ends: Sequence[int], limit: int) -> Judged | None:
        """Judge the lines between these offsets. None if any may not be one JSON value of at most `limit` bytes."""
        ...


@runtime_checkable
class Judges(Protocol):
    """Rules with a compiled judge."""

    @property
    def judge(self) -> Judge | None:
        """The judge; None if it can't be used with these settings."""
        ...


@runtime_checkable
class MayHide(Protocol):
    """Rules that may send a deleted record, because they do not read the field that marks it as deleted."""

    @property
    def hides(self) -> bool:
        """Whether they may: a mapping makes the records, or unknown fields are sent."""
        ...

    def unread(self, data: bytes) -> dict[str, Raw]:
        """The outermost fields of a source record that neither the mapping (as far as known) nor a setting reads."""
        ...

    def made(self, data: bytes) -> list[bytes]:
        """The records that the mapping makes of a source record; [] if it refuses it."""
        ...


FRACTION_DIGITS = 12  # decimal places of exact amounts; the rules refuse a number with more


class Facts(Protocol):
    """Facts about rows that a check needs and a batch does not. A row is named by its index."""

    @property
    def mentioned(self) -> dict[tuple[str, str], int]:
        """Number of rows that mention each object of the account, such as a reward, by (kind, id). No personal data."""
        ...

    @property
    def keys(self) -> Sequence[tuple[int, int, str]]:
        """Natural keys of units, in reading order: (row, number of the unit in the row, key).

        Two units of an owner with the same key are the same unit, exported twice.
        """
        ...

    @property
    def shares(self) -> Sequence[tuple[int, str, int]]:
        """Amounts that rows add to their owners' sums: (row, name of the sum, amount * 10**FRACTION_DIGITS)."""
        ...


@lru_cache(maxsize=32)
def may_hide(rules: Rules) -> MayHide | None:
    """The rules if they are a `MayHide`. Cached: an `isinstance` with a protocol is too slow for each span."""
    return rules if isinstance(rules, MayHide) else None


@runtime_checkable
class TellsFacts(Protocol):
    """Rules that can tell facts about rows."""

    @property
    def adds_up(self) -> bool:
        """Whether each owner's records must have the same sums in another stage, as transactions and the balance."""
        ...

    @property
    def has_keys(self) -> bool:
        """Whether units have a natural key."""
        ...

    def facts(self, data: bytes, starts: Sequence[int], ends: Sequence[int], edited: dict[int, bytes]) -> Facts:
        """Facts about rows. Row i is `edited[i]` or `data[starts[i]:ends[i]]`."""
        ...


@lru_cache(maxsize=32)
def tells_facts(rules: Rules) -> TellsFacts | None:
    """The rules if they are a `TellsFacts`. Cached as in `may_hide`."""
    return rules if isinstance(rules, TellsFacts) else None


class Client(Protocol):
    """Our side of the target: sends a body, returns a receipt."""

    async def send(self, stage: str, body: bytes, began: Callable[[], None] = ...) -> Receipt:
        """Make one request. Follows no redirect and repeats nothing. Several tasks may call it at once.

        A fault of the network or the target is a receipt, never an exception. `began` is called just before the first
        byte leaves, or never. On cancel, raises `CancelledError`; the outcome is unknown if `began` was called.
        """
        ...

    def redact(self, said: str) -> str:
        """The target's message without values of records and without the key."""
        ...

    async def renew(self) -> None:
        """Get new credentials, once for all callers at the same time. Raises `TargetStop` if they are refused."""
        ...


@runtime_checkable
class Reverts(Protocol):
    """A client that can revert a migration."""

    async def revert(self, start: float, end: float, began: Callable[[], None] = ...) -> Receipt:
        """Revert everything migrated from `start` up to `end`. One request, as in `Client.send`.

        Both times are in seconds since the epoch, by the target's clock.
        """
        ...


class Permit(Protocol):
    """The right to make one request now."""

    def sent(self) -> None:
        """The first byte leaves now."""

    def unsent(self) -> None:
        """No byte has left: the permit is free for another request."""


class Permits(Protocol):
    """Hands out the account's permits."""

    async def acquire(self) -> Permit: ...

    def answered(self, latency: float) -> None:
        """A request was answered `latency` seconds after it left."""

    async def pause_for(self, seconds: float, status: int = 429) -> None:
        """Hold back all requests of the account, as an answer with this status asked for.

        Returns at once; the next `acquire` waits. Raises `TargetStop` for more than a day.
        """

    async def on_429(self) -> None:
        """The target refused a request that our own count allowed. Keep a wider margin from now on."""

    async def release(self, run_id: str) -> None:
        """This checkpoint was reverted: another checkpoint may send its export."""

    def all_sent(self) -> None:
        """This run sends nothing more, so its reads may use the whole limit."""

    async def spare(self) -> float:
        """The number of reads that the account has left now; infinite if they are not counted."""
        ...


class Seen(enum.StrEnum):
    """The result of a read-back: how much of a record the target shows."""

    NOTHING = "nothing"
    PART = "part"
    ALL = "all"
    OTHER = "other"
    CANT_TELL = "can't tell"


MISSING, DIFFERS, LESS, MORE, UNREADABLE = "missing", "differs", "less", "more", "unreadable"


class Difference(NamedTuple):
    """A field that the target shows with another value than was sent. The values may be personal data.

    `reason` is `missing` (of the whole record, then `field` is empty), `differs`, `less` or `more` (of a number), or
    `unreadable`.
    """

    field: str
    reason: str
    sent: str = ""
    shown: str = ""


class ReadBack(Protocol):
    """Reads records back from the target. Reads are paced by the account's general limit.

    Raises a `Problem` that stops the run, as for refused credentials. A read may also fail just now (no connection,
    5xx, 429 after its wait) or for ever (a record without an id to ask for). Then `visible` returns CANT_TELL and
    `reachable` False.
    """

    misread: str  # status and shape of an answer that could not be understood; "" otherwise; kept until the next read

    async def visible(self, stage: str, record: Record) -> Seen:
        """How much of this record, as sent, the target shows now.

        OTHER: the target shows another value in its place, or one that can't be compared. It may have been there
        before, or was changed since, so it proves nothing. An event is ALL if the target counts at least as many
        purchases of its owner as it holds, else CANT_TELL: a count never proves that an event did not land.
        """
        ...

    async def differences(self, stage: str, record: Record, counted: int = 0) -> list[Difference] | None:
        """The fields that differ from what was sent, compared exactly; None if the read failed.

        `counted`: the number of units sent for this owner that the target only counts. 0: do not check the count.
        """
        ...

    def counted(self, stage: str, record: Record) -> int:
        """The number of units of a record that the target only counts, and can't show one by one."""
        ...

    def can_tell(self, stage: str, record: Record) -> bool:
        """Whether `visible` can ever find this record. An event that is not a purchase leaves no trace."""
        ...

    def proves(self, stage: str) -> bool:
        """Whether `visible` can prove that records of this stage landed, or that they did not."""
        ...

    async def reachable(self) -> bool:
        """Whether an authenticated read succeeds now."""
        ...


class Stage(NamedTuple):
    """One kind of records, with an endpoint of its own."""

    name: str
    depends_on: str  # the stage whose records must be at the target first; "" without one
    once: bool  # whether all units of an owner must be in one batch
    unit: str  # what a batch limit counts, in the singular


class Target(Protocol):
    """A remote system: its stages in order, their rules, and the connection. A second target is a second package."""

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    @property
    def queued(self) -> bool:
        """Whether the target works on accepted records later, so that a run has to wait before it reads them back."""
        ...

    def rules(self, stage: str) -> Rules: ...

    def connect(self) -> AbstractAsyncContextManager[tuple[Client, ReadBack]]:
        """Open client and read-back; leaving the context closes every connection. Makes no request by itself."""
        ...
