"""Customers that stand twice are sent once, and what belongs to customers that will not be there waits (I3)."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from streammig.errors import Unusable
from streammig.model import Kind
from streammig.scan import scan_folder
from streammig.selection import why_left_out
from streammig.telemetry import Answered
from tests.memory_target import Crash
from tests.test_system import lived
from tests.world import REWARD, Keys, World, drained_at, write_export

until_no_connection = drained_at(lambda it: isinstance(it, Answered) and it.receipt.kind is Kind.NOT_SENT)


def add(folder: Path, stage: str, *records: dict[str, Any]) -> None:
    """More records behind those that an export has."""
    path = folder / f"{stage}.json"
    found = json.loads(path.read_text())
    found["data"] += records
    path.write_text(json.dumps(found))


def customer(owner: str, email: str) -> dict[str, Any]:
    balance = [{"reward_id": REWARD, "amount": 2.50, "expiration_date": None, "brand_id": None}]
    date = "2020-01-01T00:00:00Z"
    return {"id": owner, "name": "Twice", "email": email, "registration_date": date, "balance": balance}


def doubled(world: World) -> None:
    """The same id far from its first, the same e-mail in other letters, and history of people who are not there."""
    world.unchecked = False
    wanted = [number for number in range(20) if f'"c{number}"' in (world.folder / "transactions.json").read_text()]
    first, second = wanted[0], wanted[1]
    add(
        world.folder,
        "customers",
        customer(f"c{first}", "other@example.org"),
        customer("c-new", f"C{second}@EXAMPLE.org"),
    )
    entry = json.loads((world.folder / "transactions.json").read_text())["data"][0]["transactions"]
    add(world.folder, "transactions", {"id": "c-new", "transactions": entry}, {"id": "nobody", "transactions": entry})


def codes(world: World) -> dict[str, dict[str, int]]:
    from streammig.checkpoint import Checkpoint

    with closing(Checkpoint.open(world.folder / "run.checkpoint", read_only=True)) as file:
        return {row.name: file.dead_codes(row.name) for row in file.stages()}


@lived(1)
async def test_a_customer_that_stands_twice_is_sent_once_and_what_has_no_customer_waits(
    world: World, keys: Keys
) -> None:
    doubled(world)
    assert await world.live() is True
    world.target.settle()
    assert set(world.target.customers) == keys["customers"]
    assert max(world.target.customers.values()) == 1
    found = codes(world)
    assert found["customers"] == {"duplicate-customer": 1, "duplicate-email": 1}
    assert found["transactions"] == {"owner-duplicate-email": 1, "owner-unknown-customer": 1}
    assert {why_left_out(reason)[1] for reason in ("duplicate-email", "unknown-customer")} == {
        "its customer's record is a dead letter: duplicate-email",
        "its customer is not in the export, or its record there has no id that can be read",
    }
    assert not world.target.dropped
    assert not scan_folder(world.folder / "run.checkpoint").exists()


@lived(2)
async def test_i3_customers_that_stand_twice_stay_out_over_crashes(world: World, keys: Keys) -> None:
    doubled(world)
    crashes = 0
    for at in (9, 14, 18, 30):
        crashes += isinstance(await world.live(crash_at=at, crash_after=bool(at % 2)), Crash)
        assert all(totals.balanced for totals in world.totals().values())
    assert crashes > 2
    await world.live()
    world.target.settle()
    assert set(world.target.customers) <= keys["customers"]
    assert max(world.target.customers.values()) == 1
    assert codes(world)["customers"] == {"duplicate-customer": 1, "duplicate-email": 1}


@lived(3)
async def test_unchecked_says_so_and_leaves_the_table_out(world: World, keys: Keys) -> None:
    write_export(world.folder, 3, Random(1))
    assert await world.live() is True
    assert any("unchecked" in said for said in world.said)
    assert not scan_folder(world.folder / "run.checkpoint").exists()


@lived(4)
async def test_a_run_without_customers_looks_whether_they_are_there_before_it_sends_anything(
    world: World, keys: Keys
) -> None:
    world.settings = {"customers": {"files": []}}
    ended = await world.live()
    assert isinstance(ended, Unusable)
    assert ended.code == "customers-missing"
    assert "record 1 of " in ended.what
    assert world.target.requests == 0
    world.target.customers.update(keys["customers"])
    # Tries that find no connection are no beginning: the next run looks again.
    world.target.weather.faults = {"not-sent": 1.0}
    assert await world.live(until_no_connection) is False
    world.target.weather.faults = {}
    world.target.customers.clear()
    assert (await world.live()).code == "customers-missing"
    assert world.target.requests == 0
    world.target.customers.update(keys["customers"])
    assert await world.live() is True
    world.target.settle()
    assert set(world.target.events) == keys["events"]
