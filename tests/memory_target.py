"""A target in memory with a queue and bad days: fast enough for thousands of whole migrations in virtual time."""

from __future__ import annotations

import asyncio
import collections
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

from streammig.clock import Clock
from streammig.masivo.redact import redact
from streammig.model import Kind, Receipt, Record
from streammig.target import DIFFERS, MISSING, Difference, Seen


class Crash(BaseException):
    """The machine is gone: nothing more happens in this process."""


@dataclass
class Weather:
    """How bad the days are: the share of requests that meet each fault, and the times in seconds."""

    faults: dict[str, float] = field(default_factory=dict)
    latency: tuple[float, float] = (0.05, 0.5)
    queue: tuple[float, float] = (0.1, 5.0)
    timeout: float = 20.0
    revert: tuple[float, float] = (0.1, 5.0)
    read: float = 0.05


FAULTS = ("not-sent", "lost", "landed-reset", "landed-500", "lost-500", "hang", "landed-hang", "429", "401", "drip")


@dataclass
class MemoryTarget:
    """What the target holds, kept over crashes of the client; `poison` ids make their whole batch refused."""

    clock: Clock
    rng: Random
    weather: Weather = field(default_factory=Weather)
    limits: tuple[tuple[int, float], ...] = ()
    poison: frozenset[str] = frozenset()
    drops: frozenset[str] = frozenset()  # owners that the queue loses without a word
    strangers: frozenset[str] = frozenset()  # customers that stood there otherwise, until ours are taken
    counting: bool = False  # whether purchases are said to be counted, though they never are in time
    customers: collections.Counter[str] = field(default_factory=collections.Counter)
    events: collections.Counter[str] = field(default_factory=collections.Counter)
    transactions: collections.Counter[str] = field(default_factory=collections.Counter)
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)
    arrivals: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    queue: list[tuple[float, str, Any]] = field(default_factory=list)
    taken: list[tuple[str, bytes]] = field(default_factory=list)
    migrated: dict[str, float] = field(default_factory=dict)  # when each customer was applied
    reverts: list[float] = field(default_factory=list)  # when each was taken in
    reads: list[float] = field(default_factory=list)
    active: frozenset[str] = frozenset()  # customers that have made a transaction since: they stay
    misread: str = ""
    requests: int = 0
    under_way: int = 0
    most_under_way: int = 0
    dead: Callable[[], bool] = lambda: False

    # -- Client ------------------------------------------------------------------------------------------------------

    async def send(self, stage: str, body: bytes, began: Callable[[], None] = lambda: None) -> Receipt:
        self._alive()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._send(stage, body, began)
        finally:
            self.under_way -= 1

    async def _send(self, stage: str, body: bytes, began: Callable[[], None]) -> Receipt:
        start = self.clock.time()
        fault = self._fault()
        await asyncio.sleep(self.rng.uniform(0, 0.01))
        self._alive()
        if fault == "not-sent":
            return Receipt(Kind.NOT_SENT, message="refused")
        began()
        self._arrive()
        if fault == "429":
            return Receipt(Kind.THROTTLED, 429, retry_after=self.rng.choice([None, 1.0, 30.0]))
        if fault == "401":
            return Receipt(Kind.UNAUTHORIZED, 401)
        refused = self._refused(stage, body)
        if fault in ("landed-reset", "landed-500", "landed-hang") and not refused:
            self._take(stage, body)
        if fault in ("hang", "landed-hang"):
            await asyncio.sleep(self.weather.timeout)
            return Receipt(Kind.UNKNOWN, message="timeout", latency=self.weather.timeout)
        if fault in ("lost", "landed-reset", "landed-500", "lost-500"):
            await asyncio.sleep(self.rng.uniform(0, 1))
            return Receipt(Kind.UNKNOWN, 500 if "500" in fault else None, "", latency=self.clock.time() - start)
        await asyncio.sleep(self.rng.uniform(*self.weather.latency) * (10 if fault == "drip" else 1))
        self._alive()
        if refused:
            return Receipt(Kind.REJECTED, 422, "invalid customer entry")
        self._take(stage, body)
        return Receipt(Kind.ACCEPTED, 201, latency=self.clock.time() - start)

    async def revert(self, start: float, end: float, began: Callable[[], None] = lambda: None) -> Receipt:
        self._alive()
        fault = self._fault()
        await asyncio.sleep(self.rng.uniform(0, 0.01))
        self._alive()
        if fault == "not-sent":
            return Receipt(Kind.NOT_SENT, message="refused")
        began()
        self._arrive()
        if fault in ("429", "401"):
            return Receipt({"429": Kind.THROTTLED, "401": Kind.UNAUTHORIZED}[fault], int(fault))
        if fault is None or "landed" in fault:
            self.reverts.append(self.clock.time())
            due = self.clock.time() + self.rng.uniform(*self.weather.revert)
            self.queue.append((due, "revert", (start, end)))
        await asyncio.sleep(self.rng.uniform(*self.weather.latency))
        self._alive()
        return Receipt(Kind.ACCEPTED if fault is None else Kind.UNKNOWN, 200 if fault is None else None)

    def redact(self, said: str) -> str:
        return redact(said)

    async def renew(self) -> None:
        self._alive()
        await asyncio.sleep(0.01)

    # -- ReadBack --------------------------------------------------------------------------------------------------

    def proves(self, stage: str) -> bool:
        return stage != "events"

    def can_tell(self, stage: str, record: Record) -> bool:
        return stage != "events" or self.counting

    async def visible(self, stage: str, record: Record) -> Seen:
        self._alive()
        self.reads.append(self.clock.time())
        await asyncio.sleep(self.weather.read)
        if self._fault() is not None:
            return Seen.CANT_TELL
        self._apply()
        if stage == "events":
            return Seen.CANT_TELL
        if stage == "customers":
            if not self.customers[record.owner]:
                return Seen.OTHER if record.owner in self.strangers else Seen.NOTHING
            return Seen.ALL
        keys = [key for key, _ in _units("transactions", b'{"customers":[%b]}' % record.body)]
        there = [bool(self.transactions[key]) for key in keys]
        return Seen.ALL if all(there) else Seen.PART if any(there) else Seen.NOTHING

    async def differences(self, stage: str, record: Record, counted: int = 0) -> list[Difference] | None:
        seen = await self.visible(stage, record)
        if seen is Seen.CANT_TELL:
            return None
        return {Seen.ALL: [], Seen.NOTHING: [Difference("", MISSING)]}.get(seen, [Difference("name", DIFFERS)])

    def counted(self, stage: str, record: Record) -> int:
        return 0

    async def reachable(self) -> bool:
        self._alive()
        await asyncio.sleep(0.05)
        return self._fault() is None

    # -- the target itself -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the queue do all that waits in it."""
        self._apply(everything=True)

    def _alive(self) -> None:
        if self.dead():
            raise Crash

    def _fault(self) -> str | None:
        dice = self.rng.random()
        for name, share in self.weather.faults.items():
            if dice < share:
                return name
            dice -= share
        return None

    def _arrive(self) -> None:
        now = self.clock.time()
        self.requests += 1
        for count, seconds in self.limits:
            recent = [at for at in self.arrivals if at > now - seconds]
            if len(recent) >= count:
                self.violations.append(f"{len(recent) + 1} requests within {seconds} s at {now:.3f}")
        self.arrivals.append(now)

    def _refused(self, stage: str, body: bytes) -> bool:
        return any(owner in self.poison for owner in _owners(body))

    def _take(self, stage: str, body: bytes) -> None:
        due = self.clock.time() + self.rng.uniform(*self.weather.queue)
        self.queue.append((due, stage, body))
        self.taken.append((stage, body))

    def _apply(self, everything: bool = False) -> None:
        now = self.clock.time()
        due = sorted((it for it in self.queue if everything or it[0] <= now), key=lambda it: it[0])
        for piece in due:
            self.queue.remove(piece)
            _, stage, body = piece
            if stage == "revert":
                self._revert(*body)
                continue
            for key, owner in _units(stage, body):
                if owner in self.drops or (stage != "customers" and not self.customers[owner]):
                    self.dropped[f"{stage} {key}"] += 1
                else:
                    getattr(self, stage)[key] += 1
                    if stage == "customers":
                        self.migrated[key] = piece[0]

    def _revert(self, start: float, end: float) -> None:
        for owner, at in list(self.migrated.items()):
            if start <= at < end and owner not in self.active:
                del self.migrated[owner], self.customers[owner]


def _owners(body: bytes) -> list[str]:
    return [customer["id"] for customer in json.loads(body)["customers"]]


def _units(stage: str, body: bytes) -> list[tuple[str, str]]:
    """The key of each unit in a body, with its owner."""
    found: list[tuple[str, str]] = []
    for customer in json.loads(body, parse_float=Decimal)["customers"]:
        owner = customer["id"]
        if stage == "customers":
            found.append((owner, owner))
        elif stage == "events":
            found.extend((event["order"]["purchase_id"], owner) for event in customer["events"])
        else:
            found.extend((each["details"], owner) for each in customer["transactions"])
    return found
