"""Whole migrations in virtual time: real files, rules, packing, pacing and checkpoint, against a target in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from streammig.checkpoint import Checkpoint
from streammig.errors import Problem
from streammig.migration import Ask, Migration
from streammig.settings import load
from streammig.telemetry import Notice, Sealed, Warned, ignore
from tests.memory_target import Crash, MemoryTarget, Weather
from tests.virtual import Inline, VirtualClock

T = TypeVar("T")
Keys = dict[str, set[str]]
"""The keys of units by stage."""
SETTLE_TIME = 60.0  # seconds
AMOUNT = 0.25  # of each transaction
REWARD = "11111111-1111-4111-8111-111111111111"


def write_export(folder: Path, customers: int, rng: Random) -> Keys:
    """Three files of small records; returns the keys of the units that are to arrive, by stage."""
    rows: dict[str, list[dict[str, Any]]] = {"customers": [], "events": [], "transactions": []}
    keys: Keys = {name: set() for name in rows}
    for number in range(customers):
        owner = f"c{number}"
        deleted = rng.random() < 0.05
        customer = {
            "id": owner,
            "name": f"Name {number}",
            "email": f"{owner}@example.org",
            "registration_date": "2020-01-01T00:00:00Z",
            "balance": [_lot(2.50)],
        }
        if deleted:
            customer["deleted_at"] = "2021-01-01T00:00:00Z"
        rows["customers"].append(customer)
        if deleted:
            continue
        keys["customers"].add(owner)
        events = [_event(f"p{number}-{k}") for k in range(rng.choice([0, 1, 1, 2, 7]))]
        if events:
            rows["events"].append({"id": owner, "events": events})
            keys["events"] |= {event["order"]["purchase_id"] for event in events}
        entries = [_entry(f"t{number}-{k}") for k in range(rng.choice([1, 2, 3, 20]))]
        customer["balance"] = [_lot(len(entries) * AMOUNT)]  # what they add up to
        rows["transactions"].append({"id": owner, "transactions": entries})
        keys["transactions"] |= {entry["details"] for entry in entries}
    for name, records in rows.items():
        (folder / f"{name}.json").write_text(json.dumps({"data": records}))
    return keys


def _lot(amount: float) -> dict[str, Any]:
    return {"reward_id": REWARD, "amount": amount, "expiration_date": None, "brand_id": None}


def _event(purchase: str) -> dict[str, Any]:
    order = {"purchase_id": purchase, "value": 10.25, "discounted_value": 10, "products": [], "payment_method": "CASH"}
    when = "2022-02-02T10:00:00Z"
    return {
        "type": "PURCHASE", "brand_id": None, "order": order, "fulfilled": True, "issued_at": when, "resolved_at": when,
    }  # fmt: skip


def _entry(details: str) -> dict[str, Any]:
    when = "2022-02-02T10:00:00Z"
    return {
        "brand_id": None, "reward_id": REWARD, "details": details, "type": "ACCUMULATION", "issued_at": when,
        "resolved_at": when, "amount": AMOUNT, "cost": None, "store_id": None, "channel_id": None, "event": None,
    }  # fmt: skip


class Doomed(Inline):
    """Does everything at once, until the world ends before or after a given piece of work."""

    def __init__(self, world: World) -> None:
        self._world = world

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        world = self._world
        if world.dead or world.step() == "before":
            return self._crash()
        future = super().submit(function, *args, **kwargs)
        return self._crash() if world.dead else future

    def _crash(self) -> Future[Any]:
        self._world.dead = True
        future: Future[Any] = Future()
        future.set_exception(Crash())
        return future


@dataclass
class World:
    """One export, one target, one state folder, and as many lives of the client as it takes."""

    folder: Path
    target: MemoryTarget
    clock: VirtualClock
    rng: Random
    settings: dict[str, Any] = field(default_factory=dict)
    unchecked: bool = True  # the process that sorts the dedup index takes half a second, in each life
    dead: bool = False
    steps: int = 0
    crash_at: int | None = None
    crash_after: bool = False
    said: list[str] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)  # options of the next run
    watch: Callable[[Notice], None] = ignore

    def step(self) -> str:
        """Count one piece of work in an executor; the world ends before it, or right after it."""
        self.steps += 1
        if self.steps != self.crash_at:
            return ""
        if self.crash_after:
            self.dead = True
            return "after"
        return "before"

    def migration(self) -> Migration:
        flags = {
            name: {"files": [str(self.folder / f"{name}.json")]} for name in ("customers", "events", "transactions")
        }
        settings = load(
            None,
            {"checkpoint": str(self.folder / "run.checkpoint"), "max_bytes": 10_000, "settle_time": SETTLE_TIME,
             "verify_sample": 0,
             "visible_time": 600.0, "base_url": "http://127.0.0.1:1", "limits": "1/5s,500/1h"} | flags | self.settings,
        )  # fmt: skip
        ask = Ask("streammig run", unchecked=self.unchecked, **self.asked)
        return VirtualMigration(
            settings, ask, "key", self.folder / "state", self.clock, Random(self.rng.random()), self._hear,
            executor=lambda: Doomed(self), world=self,
        )  # fmt: skip

    def _hear(self, notice: Notice) -> None:
        self.watch(notice)
        if isinstance(notice, Warned):
            self.said.append(notice.warning)

    async def live(
        self,
        work: Callable[[Migration], Coroutine[Any, Any, Any]] = Migration.run,
        *,
        crash_at: int | None = None,
        crash_after: bool = False,
    ) -> Any:
        """One life of the client: how it ended, in a result, a problem or a crash."""
        self.dead, self.steps, self.crash_at, self.crash_after = False, 0, crash_at, crash_after
        self.target.dead = lambda: self.dead
        try:
            return await asyncio.ensure_future(work(self.migration()))
        except Problem as problem:
            return problem
        except Crash as crash:
            return crash
        except BaseExceptionGroup as group:
            if self.dead:
                return Crash()
            raise group from None

    def totals(self) -> dict[str, Any]:
        with contextlib.closing(Checkpoint.open(self.folder / "run.checkpoint", read_only=True)) as file:
            return {row.name: file.totals(row.name) for row in file.stages()}


@dataclass(slots=True)
class VirtualMigration(Migration):
    world: Any = None

    @contextlib.asynccontextmanager
    async def _connect(self, target: Any) -> AsyncIterator[Any]:
        yield self.world.target, self.world.target


def drained_at(heard: Callable[[Notice], bool], delay: float = 0.0) -> Callable[[Migration], Coroutine[Any, Any, bool]]:
    """A run that is drained at a notice, or so many seconds behind it."""

    def work(migration: Migration) -> Coroutine[Any, Any, bool]:
        tell = migration.notify

        def hear(notice: Notice) -> None:
            tell(notice)
            if heard(notice):
                asyncio.get_running_loop().call_later(delay, migration.drain) if delay else migration.drain()

        migration.notify = hear
        return migration.run()

    return work


until_sealed = drained_at(lambda it: isinstance(it, Sealed))
"""Until the first batch is sealed, before anything is sent."""


def new_world(folder: Path, seed: int, customers: int, faults: dict[str, float] | None = None, **more: Any) -> World:
    """A world of its own dice, to be made inside a virtual loop."""
    rng = Random(seed)
    clock = VirtualClock()
    target = MemoryTarget(clock, Random(seed + 1), Weather(faults or {}), **more)
    return World(folder, target, clock, rng)
