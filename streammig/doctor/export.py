"""What a checked export means for the account that it is to go to: what is not there, what is too much, what costs
money later, and which of its customers are there already."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any, Literal, NamedTuple

import msgspec

from streammig.check.work import Check
from streammig.columns import Chunk
from streammig.doctor.way import account
from streammig.errors import BrokenExport, Problem, counted
from streammig.inputs import StageInput
from streammig.masivo.answers import absences
from streammig.masivo.http import NoAnswer
from streammig.masivo.readback import MasivoReadBack
from streammig.masivo.session import Session
from streammig.model import Record
from streammig.settings import Settings
from streammig.stages import STAGES
from streammig.target import MISSING, UNREADABLE, ReadBack
from streammig.telemetry import Notify, Waiting, Warned
from streammig.verify.sample import CONFIDENCE, at_most, chosen

MOST = {"rewards": 1_000, "tiers": 10, "stores": 1_000, "channels": 50, "brands": 200, "event-types": 50}
"""What one account holds at most, as its documentation gives it."""
BUILT_IN = frozenset({"PURCHASE"})  # a type of event that every account has
CONSENT = frozenset({"consent", "consents", "optin", "optout", "marketingconsent", "acceptsmarketing", "newsletter"})
THERE = "already-there"
WRONG = frozenset({"too-many-resources", "unknown-rewards", "unknown-tiers", THERE})  # what can't go well as it is
SHOWN = 5  # ids or places in the result
PAGE = 100  # rewards to a read

Mentioned = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Stage, kind of thing, which one: how many records mention it."""
PIECE = 64  # records that are read together
TOLD = 5.0  # seconds between two notices
SEED = 7  # the same export gives the same sample
Count = int | Literal[False] | None
"""Of how many customers: None of all, False of none."""


async def advise(
    check: Check, settings: Settings, environment: Mapping[str, str], offline: bool, against: Count = False
) -> dict[str, Any] | None:
    """Add to a check what its export means for an account; unless `offline`, the account itself is asked, and which of
    so many customers (None: of all, False: no look) it has already: that is returned.

    Where it can't be, that is a warning: all else was checked.
    """
    mentioned = {it.name: it.mentioned for it in check.stages}
    filtered = {reason: it.records for stage in check.stages for reason, it in stage.filtered.items()}
    dropped = {path: count for stage in check.stages for path, count in stage.dropped.items()}
    look: Against | None = None
    found = [*advice(mentioned, filtered, dropped)]
    if not offline:
        try:
            async with account(settings, environment) as (session, _):
                found += await at_account(session, mentioned)
                if against is not False and (look := _look(check, against)) is not None:
                    readback = MasivoReadBack(session, absences(settings.not_there))
                    name = check.stages[0].name
                    await look.look(check.inputs[name], readback, check.thread, settings.concurrency, check.notify)
                    found += _found(look)
        except Problem as problem:
            found.append(Advice("account-not-read", f"the account was not asked: {problem.what} [{problem.code}]"))
    check.wrong = WRONG
    check.warnings += [Warned(*it) for it in found]
    return look.document() if look is not None and look.looked else None


def _look(check: Check, count: int | None) -> Against | None:
    """The look at the customers of an export; None of one without any."""
    if not check.stages or check.stages[0].name != STAGES[0] or not check.stages[0].sent.records:
        return None
    return Against(check.stages[0].sent.records, count)


def _found(look: Against) -> Iterator[Advice]:
    if look.problem is not None:
        said = f"the look at the target ended behind {look.looked:,} customers: {look.problem.what}"
        yield Advice("account-not-read", f"{said} [{look.problem.code}]")
    if look.there:
        said = f"customers that are at the target already: {look.there:,} of {look.looked:,} looked for"
        yield Advice(THERE, f"{said}. They can't be migrated a second time: revert them, or leave them out with not_in")


# -- what an export mentions -------------------------------------------------------------------------------------------


class Advice(NamedTuple):
    """Something to look at: a stable code, and words without a value of a person."""

    code: str
    what: str


def advice(mentioned: Mentioned, filtered: Mapping[str, int], dropped: Mapping[str, int]) -> Iterator[Advice]:
    """What the export alone tells. `filtered` are counts by reason, `dropped` by field, of all stages."""
    for kind, most in MOST.items():
        found = {each for stage in mentioned.values() for each in stage.get(kind, ())}
        count = len(found - BUILT_IN if kind == "event-types" else found)
        if count > most:
            yield Advice("too-many-resources", f"{kind}: {count:,} are mentioned, and an account holds {most:,}")
    metrics = mentioned.get("customers", {}).get("remarks", {}).get("metrics", 0)
    if metrics and "events" in mentioned:
        said = f"customers with metrics: {metrics:,}, and there are events too: spending may count double"
        yield Advice("metrics-and-events", f"{said}. Send one of the two")
    for name, stage in mentioned.items():
        if old := stage.get("remarks", {}).get("old", 0):
            yield Advice("not-readable", f"{name}: from before 2020, so they can't be read back: {old:,}")
    if "expired-lots" in filtered:
        yield Advice("lots-expired", "lots of balances have expired, and are not sent: see the sums in the document")
    lost = {path: count for path, count in dropped.items() if _folded(path) in CONSENT}
    for path, count in lost.items():
        said = f"{path}: customers that say something about consent: {count:,}. The target has no field for it"
        yield Advice("consent-dropped", f"{said}: who opted out counts as opted in, until it is told by other means")


def _folded(path: str) -> str:
    return path.removeprefix("$.").split(".")[0].replace("_", "").replace("-", "").lower()


async def at_account(session: Session, mentioned: Mentioned) -> list[Advice]:
    """Which rewards and tiers that the export mentions the account does not have. Raises `TargetStop`."""
    found = []
    for kind in ("rewards", "tiers"):
        wanted = {each for stage in mentioned.values() for each in stage.get(kind, ())}
        there = await (_rewards(session) if kind == "rewards" else _ids(session, "/tiers", {})) if wanted else set()
        if there is None:
            found.append(Advice("account-not-read", f"{kind} of the account can't be read: they were not compared"))
        elif missing := sorted(wanted - there):
            shown = ", ".join(missing[:SHOWN]) + (" ..." if len(missing) > SHOWN else "")
            code = "unknown-rewards" if kind == "rewards" else "unknown-tiers"
            found.append(Advice(code, f"{kind} that the account does not have: {len(missing):,}: {shown}"))
    return found


async def _rewards(session: Session) -> set[str] | None:
    found: set[str] = set()
    while len(found) <= MOST["rewards"]:
        begin = len(found)
        more = await _ids(session, "/rewards", {"from": str(begin), "to": str(begin + PAGE - 1)})
        if more is None:
            return None
        found |= more
        if len(found) < begin + PAGE:
            break
    return found


async def _ids(session: Session, path: str, query: Mapping[str, str]) -> set[str] | None:
    """The ids that a read lists; None where the answer is no list."""
    answer = await session.get(path, query)
    if isinstance(answer, NoAnswer) or answer.status != 200:
        return None
    try:
        listed = msgspec.json.decode(answer.body, type=_Listed)
    except msgspec.MsgspecError:
        return None
    return {each.id.lower() for each in listed.data}


class _One(msgspec.Struct):
    id: str


class _Listed(msgspec.Struct):
    data: list[_One]


# -- customers that are there already ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Against:
    """A look at a sample of `count` customers, or at all of them where it is None, of `whole` that would be sent.

    `problem` ended it early; what was seen until then counts.
    """

    whole: int
    count: int | None
    looked: int = 0
    alike: int = 0
    different: int = 0
    unreadable: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    places: list[dict[str, Any]] = field(default_factory=list)
    problem: Problem | None = None

    async def look(self, it: StageInput, readback: ReadBack, thread: Executor, lanes: int, notify: Notify) -> None:
        """Read the customers of a stage back, `lanes` at a time."""
        files = [mark["file"] for mark in it.source.fingerprints()]
        records, loop = self._records(it), asyncio.get_running_loop()
        tell = self._telling(notify)
        try:
            while piece := await loop.run_in_executor(thread, lambda: list(islice(records, PIECE))):
                await self._piece(piece, readback, lanes, files)
                tell()
        except Problem as problem:
            self.problem = problem
        except ExceptionGroup as group:
            problems, others = group.split(Problem)
            if others is not None or problems is None:
                raise
            self.problem = next(each for each in problems.exceptions if isinstance(each, Problem))

    def _records(self, it: StageInput) -> Iterator[Record]:
        wanted = None if self.count is None else chosen([self.whole], self.count, Random(SEED)).get(0, set())
        number = 0
        try:
            for span in it.source.spans():
                chunk = Chunk(span, it.rules.columns(span))
                rows = range(len(chunk.columns))
                for row in rows if wanted is None else [row for row in rows if number + row in wanted]:
                    yield from chunk.records(row, row + 1)
                number += len(rows)
        except BrokenExport:
            pass  # what lies behind the break is a problem of its own

    async def _piece(self, records: list[Record], readback: ReadBack, lanes: int, files: list[str]) -> None:
        places = asyncio.Semaphore(lanes)

        async def one(record: Record) -> None:
            async with places:
                found = await readback.differences("customers", record)
            self.looked += 1
            if found is None or any(each.reason == UNREADABLE for each in found):
                self.unreadable += 1
            elif not found:
                self.alike += 1
            elif not (len(found) == 1 and found[0].reason == MISSING and not found[0].field):
                self.different += 1
                self.fields.update({each.field for each in found})
            else:
                return
            if len(self.places) < SHOWN:
                at = record.position
                self.places.append({"file": files[at.source], "line": at.ordinal, "offset": at.offset})

        async with asyncio.TaskGroup() as group:
            for record in records:
                group.create_task(one(record))

    def _telling(self, notify: Notify) -> Callable[[], None]:
        whole, begun = self.whole if self.count is None else min(self.count, self.whole), time.monotonic()
        notify(Waiting("looking", f"looking for {counted(whole, 'customer')} at the target"))
        said = begun

        def tell() -> None:
            nonlocal said
            if (now := time.monotonic()) - said >= TOLD and self.looked:
                said = now
                words = f"looking at the target: {self.looked:,} of {counted(whole, 'customer')}"
                notify(Waiting("looking", words, (now - begun) * (whole - self.looked) / self.looked))

        return tell

    @property
    def there(self) -> int:
        return self.alike + self.different

    def document(self) -> dict[str, Any]:
        """JSON-ready. `at_most` is the share of all customers that are there, with this confidence."""
        told = self.looked - self.unreadable
        every = told == self.whole
        share = at_most(self.there, told) if told else None
        if every:
            share = self.there / self.whole if self.whole else 0.0
        return {
            "customers": self.whole, "looked": self.looked, "alike": self.alike, "different": self.different,
            "unreadable": self.unreadable, "fields": dict(self.fields.most_common()), "places": self.places,
            "at_most": share, "confidence": 1.0 if every else CONFIDENCE,
            "stopped": self.problem.json() if self.problem is not None else None,
        }  # fmt: skip
