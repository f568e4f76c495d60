"""What Masivo shows of what it was sent: customers, transactions by year, and counts of purchases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta

from streammig.masivo.answers import NOT_THERE, Absence
from streammig.masivo.compare import GONE, Dated, is_as_sent, of_count, of_customer, of_transactions
from streammig.masivo.http import Answer, NoAnswer
from streammig.masivo.redact import redact
from streammig.masivo.session import Session
from streammig.model import Record
from streammig.target import Difference, Seen

FIRST_YEAR = 2020  # earlier ones can't be asked for
# The year that is asked for is the account's, whose time zone we do not know: a moment near New Year is looked for in
# both years. No zone is further from UTC than this.
FARTHEST_ZONE = timedelta(hours=14)

Key = tuple[str, str, Decimal]
T = TypeVar("T")


class _Transaction(msgspec.Struct):
    reward_id: str
    type: str
    amount: Decimal


class _Sent(_Transaction):
    issued_at: Annotated[datetime, Meta(tz=True)]


class _SentTransactions(msgspec.Struct):
    transactions: list[_Sent]


class _Row(_Transaction):
    issued_at: datetime | None = None


class _Rows(msgspec.Struct):
    data: list[_Row]


class _Event(msgspec.Struct):
    type: str


class _SentEvents(msgspec.Struct):
    events: list[_Event]


class _Period(msgspec.Struct):
    number_of_purchases: Decimal = Decimal(0)


class _Metrics(msgspec.Struct):
    lifetime: _Period | None = None


class _Customer(msgspec.Struct):
    id: str
    metrics: _Metrics | None = None


class _Counted(msgspec.Struct):
    customer: _Customer


class _Counts(msgspec.Struct):
    data: _Counted


class _Shown(msgspec.Struct):
    customer: dict[str, Any]
    wallet: msgspec.Raw = msgspec.Raw(b"null")


class _Data(msgspec.Struct):
    data: _Shown


class MasivoReadBack:
    """Implements `ReadBack` on an entered session, which paces the reads, renews tokens and waits out a 429.

    `earlier`: another run has sent to these customers before, so more purchases than were sent are no difference.
    """

    def __init__(self, session: Session, not_there: Sequence[Absence] = NOT_THERE, *, earlier: bool = False) -> None:
        self._session = session
        self._not_there = not_there
        self._earlier = earlier
        self.misread = ""

    async def visible(self, stage: str, record: Record) -> Seen:
        """Customers: ALL, OTHER or NOTHING. Transactions: those issued from 2020 on, compared as (reward, type, exact
        amount, second of issue), for ids of stores and channels come back as others; what Masivo records itself as
        MIGRATION is passed over. OTHER where nothing is there but what differs in its moment only.
        Events: ALL by the count of purchases, else CANT_TELL, for it may not have been computed again yet.
        """
        if not self.can_tell(stage, record):
            return Seen.CANT_TELL
        if stage == "transactions":
            return await self._transactions(record)
        answer = await self._get(f"/customers/{_in_path(record.owner)}")
        if stage == "customers" and self._is_absence(answer):
            return Seen.NOTHING
        if stage == "customers":
            if (shown := self._shown(answer, record)) is None:
                return Seen.CANT_TELL
            same = is_as_sent(record.body, shown.customer, bytes(shown.wallet), self._session.now())
            return Seen.ALL if same else Seen.OTHER
        counts = self._decoded(answer, _Counts)
        if counts is None or counts.data.customer.id != record.owner:
            return Seen.CANT_TELL
        return Seen.ALL if _purchases_of(counts) >= _purchases(record) else Seen.CANT_TELL

    def _is_absence(self, answer: Answer | NoAnswer) -> bool:
        """Whether a read of a customer says that there is none."""
        return isinstance(answer, Answer) and any(each.is_said(answer) for each in self._not_there)

    async def _get(self, path: str, query: dict[str, str] | None = None) -> Answer | NoAnswer:
        self.misread = ""
        return await self._session.get(path, query)

    def _decoded(self, answer: Answer | NoAnswer, kind: type[T]) -> T | None:
        """What a read says, or None where it says nothing: no answer, another status, another shape."""
        if isinstance(answer, NoAnswer) or answer.status >= 500 or answer.status == 429 or not answer.whole:
            return None
        if answer.status == 200:
            try:
                return msgspec.json.decode(answer.body, type=kind)
            except (msgspec.MsgspecError, ValueError):
                pass
        self.misread = f"{answer.status} with {_shape(answer)}"
        return None

    def _shown(self, answer: Answer | NoAnswer, record: Record) -> _Shown | None:
        """What a read shows of a record's owner; None where it says nothing of that owner."""
        found = self._decoded(answer, _Data)
        return found.data if found is not None and found.data.customer.get("id") == record.owner else None

    async def differences(self, stage: str, record: Record, counted: int = 0) -> list[Difference] | None:
        """Of a customer also its wallet, and with `counted` its purchases; of transactions those since 2020."""
        if stage == "transactions":
            sent = _readable(record)
            there = await self._of_years(record.owner, sent, absent=[])
            return None if there is None else of_transactions(_dated(sent), _dated(there))
        answer = await self._get(f"/customers/{_in_path(record.owner)}")
        if self._is_absence(answer):
            return [GONE]
        shown = self._shown(answer, record)
        if shown is None:
            return None
        told = []
        if stage != "events":
            told = of_customer(record.body, shown.customer, bytes(shown.wallet), self._session.now())
        if not counted:
            return told
        purchases = _purchases_of(self._decoded(answer, _Counts))
        return told + of_count("purchases", counted, min(purchases, Decimal(counted)) if self._earlier else purchases)

    def counted(self, stage: str, record: Record) -> int:
        return _purchases(record) if stage == "events" else 0

    def can_tell(self, stage: str, record: Record) -> bool:
        if stage == "transactions":
            return bool(_readable(record))
        return stage == "customers" or _purchases(record) > 0

    def proves(self, stage: str) -> bool:
        return stage != "events"  # counts of purchases prove nothing

    async def reachable(self) -> bool:
        # The tiers take no parameter and are at most ten.
        answer = await self._session.get("/tiers")
        return isinstance(answer, Answer) and answer.status == 200 and not answer.html

    async def _transactions(self, record: Record) -> Seen:
        sent = _readable(record)
        there = await self._of_years(record.owner, sent)
        if there is None:
            return Seen.CANT_TELL
        found = (_dated(sent) & _dated(there)).total()
        if found:
            return Seen.ALL if found == len(sent) else Seen.PART
        alike = {_key(each) for each in sent} & {_key(row) for row in there}
        return Seen.OTHER if alike else Seen.NOTHING

    async def _of_years(self, owner: str, sent: Iterable[_Sent], absent: list[_Row] | None = None) -> list[_Row] | None:
        """What is there of the years in which these were issued; None where a read says nothing. `absent` is the answer
        where the customer is not there."""
        there: list[_Row] = []
        for year in sorted({year for each in sent for year in _years(each.issued_at)}):
            answer = await self._get(f"/customers/{_in_path(owner)}/transactions", {"year": str(year)})
            if self._is_absence(answer):
                return absent
            rows = self._decoded(answer, _Rows)
            if rows is None:
                return None
            there += rows.data
        return there


def _readable(record: Record) -> list[_Sent]:
    """Those of the record's transactions that can be asked for."""
    sent = msgspec.json.decode(record.body, type=_SentTransactions).transactions
    return [each for each in sent if each.type != "MIGRATION" and min(_years(each.issued_at)) >= FIRST_YEAR]


def _years(issued: datetime) -> set[int]:
    try:
        moment = issued.astimezone(UTC)
        return {(moment - FARTHEST_ZONE).year, (moment + FARTHEST_ZONE).year}
    except OverflowError:  # within a day of year 1 or 9999
        return {issued.year}


def _purchases(record: Record) -> int:
    return sum(event.type == "PURCHASE" for event in msgspec.json.decode(record.body, type=_SentEvents).events)


def _purchases_of(counts: _Counts | None) -> Decimal:
    """How many purchases are counted for a customer."""
    metrics = counts.data.customer.metrics if counts is not None else None
    return metrics.lifetime.number_of_purchases if metrics and metrics.lifetime else Decimal(0)


def _dated(rows: Iterable[_Sent | _Row]) -> Counter[Dated]:
    """How often each is there, to the second; those whose moment is not told are left out."""
    return Counter(
        (*_key(row), row.issued_at.timestamp() // 1)
        for row in rows
        if row.issued_at is not None and row.issued_at.tzinfo is not None
    )


def _key(row: _Transaction) -> Key:
    return row.reward_id.lower(), row.type, row.amount


def _in_path(owner: str) -> str:
    # Dots alone would be taken for a way through folders.
    return quote(owner, safe="") if owner.strip(".") else owner.replace(".", "%2E")


def _shape(answer: Answer) -> str:
    """What an answer consists of, without any value."""
    if not answer.body.strip():
        return "an empty body"
    try:
        said = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "a web page" if answer.html else "a body that is no JSON"
    if isinstance(said, dict):
        names = ", ".join(name for name in sorted(said)[:5] if redact(name) == name)
        return f"an object of {names}" if names else "an object of no known field"
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(said), "a number")
