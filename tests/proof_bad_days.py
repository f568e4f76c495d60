"""Whole migrations over real sockets into a target with bad days, each kind of them by itself and all together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from streammig.checkpoint import Checkpoint, Totals
from streammig.cli.demo import dropped, held
from streammig.clock import SystemClock
from streammig.errors import Problem, SamplesMissing, TargetStop, UnknownOutcome
from streammig.migration import Ask, Migration
from streammig.sandbox import SandboxConfig
from streammig.sandbox.local import LocalTarget
from streammig.settings import Settings, load
from tests.commands import KEY, write
from tests.memory_target import Weather
from tests.proof_report import Found, scratch
from tests.sandbox_caller import customer, event, lot, transaction
from tests.test_system import check, whole
from tests.virtual import run_virtual
from tests.world import SETTLE_TIME, new_world, write_export

Rule = Mapping[str, Any]
FAT = "x" * 90  # so that about 25 customers make a batch of 10,000 bytes
ROUNDS = 40  # times that a run is started again at most, after the target's word has stopped it
HOUR = 3600.0
TIMEOUT = 1.0  # seconds for a request; the least that the settings allow

FAULTS: Mapping[str, list[Rule]] = {
    "reset before the body": [{"do": "reset", "at": "head"}],
    "reset during the body": [{"do": "reset", "at": "body"}],
    "closed after the body, not applied": [{"do": "hang", "seconds": 0}],
    "applied, then reset": [{"do": "reset", "at": "done"}],
    "applied, then 500": [{"do": "answer", "status": 500, "done": True}],
    "hang, applied or not": [{"do": "hang", "seconds": 3, "done": True}, {"do": "hang", "seconds": 3}],
    "truncated answer": [{"do": "truncate", "at": "head"}, {"do": "truncate", "at": "body"}],
    "slow drip": [{"do": "drip", "seconds": 0.4}, {"do": "drip", "seconds": 3}],
    "429 with seconds, a date, an absurd value": [
        {"do": "answer", "status": 429, "retry_after": 1}, {"do": "answer", "status": 429, "retry_after_date": 1},
        {"do": "answer", "status": 429, "retry_after": "99999999", "times": 1},
    ],
    "401": [{"do": "revoke"}, {"do": "answer", "status": 401}],
    "413": [{"do": "answer", "status": 413}],
    "502 with a page, applied or not": [
        {"do": "answer", "status": 502, "body": "html", "done": True}, {"do": "answer", "status": 502, "body": "html"},
    ],
    "a yes that says no": [
        {"do": "answer", "status": 200, "body": "count", "share": 0.5},
        {"do": "answer", "status": 207, "body": "list", "done": True},
        {"do": "answer", "status": 201, "body": "error"},
    ],
    "an odd answer, applied or not": [
        {"do": "answer", "status": status, "done": done}
        for status in (301, 408, 409, 425, 499) for done in (True, False)
    ],
    "answer that is no JSON": [{"do": "answer", "status": 201, "body": "invalid-json", "done": True}],
}  # fmt: skip


def bad_days(name: str, requests: int, seed: int, share: float = 0.08) -> Found:
    """So many requests to a target that meets `share` of them with a fault of this kind ("all": any of them)."""
    kinds = [rule for rules in FAULTS.values() for rule in rules] if name == "all" else FAULTS[name]
    found, made = Found(), 0
    while made < requests:
        with scratch() as folder:
            script = [{"on": "migration", "chance": share / len(kinds), **rule} for rule in kinds]
            wrong, sent, unknown = live_through(folder, seed, script, requests - made)
        made += max(sent, 1)
        found.unknowns += unknown
        found.violations += [f"seed {seed}, {name}: {each}" for each in wrong]
        seed += 1
    found.points = made
    return found


def live_through(folder: Path, seed: int, script: Iterable[Rule], requests: int) -> tuple[list[str], int, int]:
    """Customers with their transactions, then their events, in two migrations: what is parked of events would keep
    transactions waiting. What does not hold, the requests made, and the units of unknown outcome."""
    customers = max(10 * requests, 60)
    paths = _export(folder, min(customers, 3000))
    config = SandboxConfig(script=list(script), latency="0-0.01", queue_delay="0-0.05", balance_match=False, seed=seed)
    wrong: list[str] = []
    unknown = 0
    with LocalTarget(config) as target:
        for stages in (("customers", "transactions"), ("events",)):
            settings = _settings(folder, target.url, {name: paths[name] for name in stages})
            found = _insist(settings, folder, Random(seed))
            if unknown and "events" in stages and any("are not at the target" in said for said in found):
                break  # rightly refused: the first customers are in a parked batch
            wrong += found
            totals = _totals(Path(settings.checkpoint))
            ledger = target.ledger()
            for stage in stages:
                if stage not in totals:  # customers that are parked keep their transactions waiting
                    continue
                total, there, lost = totals[stage], held(ledger, stage).units, dropped(ledger, stage)
                least, most = total.accepted.units - lost, total.accepted.units + total.unknown.units
                if not least <= there <= most:
                    wrong.append(f"{stage}: the target holds {there} units, the totals say {least} to {most}")
                if ledger["twice"][stage]["count"]:
                    wrong.append(f"{stage}: came twice: {ledger['twice'][stage]['examples'][:3]}")
                if not total.balanced:
                    wrong.append(f"{stage}: {total.taken} != {total.placed}")
                unknown += total.unknown.units
        answered = ledger["requests"]
        sent = sum(sum(answered.get(stage, {}).values()) for stage in ("customers", "events", "transactions"))
    return wrong, sent, unknown


def _insist(settings: Settings, folder: Path, rng: Random) -> list[str]:
    """Type the same command until it is through, or has nothing left but what is parked."""
    ends = []
    for _ in range(ROUNDS):
        ask = Ask("streammig run", unchecked=True)
        run = Migration(settings, ask, KEY, folder / "state", SystemClock(), rng, lambda _: None)
        try:
            if asyncio.run(run.run()):
                return []
        except TargetStop as stop:
            ends.append(stop.what)
            continue
        except Problem as problem:
            return [] if problem.exit_code == 4 else [f"it ended with: {problem}"]
    return [f"it does not end: {ends[-1]}"]


def _totals(path: Path) -> dict[str, Totals]:
    with closing(Checkpoint.open(path, read_only=True)) as file:
        return {row.name: file.totals(row.name) for row in file.stages()}


def _settings(folder: Path, url: str, paths: Mapping[str, Path]) -> Settings:
    flags: dict[str, Any] = {name: {"files": [str(path)]} for name, path in paths.items()}
    flags |= {
        "base_url": url, "checkpoint": str(folder / f"{'-'.join(paths)}.checkpoint"), "limits": "off",
        "settle_time": 0.3, "visible_time": 5.0, "request_timeout": TIMEOUT, "max_bytes": 10_000, "most_parked": 1000,
        "verify_sample": 0,
    }  # fmt: skip
    return load(None, flags)


def _export(folder: Path, count: int) -> dict[str, Path]:
    owners = [f"c{number}" for number in range(count)]
    rows: dict[str, list[Any]] = {
        "customers": [customer(owner, country=FAT, balance=[lot(1)]) for owner in owners],
        "transactions": [{"id": owner, "transactions": [transaction(1)]} for owner in owners],
        "events": [{"id": owner, "events": [event(f"p-{owner}")]} for owner in owners],
    }
    return {name: write(folder / f"{name}.json", records) for name, records in rows.items()}


def hour_of_502(folder: Path, seed: int) -> None:
    """In virtual time: for an hour every request is answered with 502, whether it landed or not."""

    async def main() -> None:
        # Without events: what is unknown of these can't be proven, and ends the run before the transactions.
        world = new_world(folder, seed, 150)
        world.settings |= {"events": {}, "concurrency": 3, "limits": "1/5s"}
        keys = write_export(folder, 150, Random(seed))
        del keys["events"]
        loop, seen = asyncio.get_running_loop(), []
        begins = 12.0 + seed

        def storm() -> None:
            world.target.weather = Weather({"lost-500": 0.5, "landed-500": 0.5})
            seen.append(world.target.requests)

        def over() -> None:
            seen.append(world.target.requests)
            seen.append(sum(1 for total in world.totals().values() if total.unknown.records))
            world.target.weather = Weather()

        loop.call_later(begins, storm)
        loop.call_later(begins + HOUR, over)
        ended = await world.live()
        if len(seen) == 1:  # all was sent: what can't be looked for ends the run after its time, not the hour
            assert ended is True or isinstance(ended, SamplesMissing)
            assert world.target.requests == seen[0]
            world.target.weather = Weather()
            assert await world.live() is True
            whole(world, keys)
            return
        before, behind, unknown = seen
        assert 0 < behind - before <= 3, "nothing new is sent until the target answers a read"
        assert unknown == 1
        assert loop.time() < begins + HOUR + 40 * SETTLE_TIME
        if ended is True:
            whole(world, keys)
        else:
            assert isinstance(ended, UnknownOutcome)
            check(world, keys)

    run_virtual(main())
