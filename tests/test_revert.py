"""`streammig revert`: a whole run is taken back, and whatever happens on the way, each customer's fate is known."""

from __future__ import annotations

import os
import pty
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint, locked
from streammig.errors import Problem
from streammig.sandbox.local import LocalTarget
from tests.commands import Called, Shell, finished, listing, sandbox
from tests.manual import GUIDE
from tests.memory_target import Crash, Weather
from tests.test_verify import FILES, export
from tests.virtual import run_virtual, virtual
from tests.world import SETTLE_TIME, World, new_world, write_export

GOES_ON = {"revert-not-landed", "revert-not-visible", "revert-refused"}
FAULTS = {"lost": 0.06, "landed-reset": 0.06, "landed-hang": 0.06, "not-sent": 0.04, "429": 0.04, "401": 0.02}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalTarget]:
    with sandbox(store=tmp_path / "target.sqlite") as found:
        yield found


def migrated(shell: Shell, target: LocalTarget, owners: int = 12) -> int:
    export(shell.folder, owners)
    ended = shell.run(target.url, *FILES, "--max-bytes", 10_000)
    assert ended.code == 0, ended.err
    return owners


def revert(shell: Shell, *arguments: object) -> Called:
    return shell("revert", "migration.checkpoint", *arguments)


@pytest.mark.slow
def test_a_run_is_taken_back_whole_and_says_so(shell: Shell, target: LocalTarget) -> None:
    owners = migrated(shell, target)
    plan = revert(shell, "--dry-run", "--json").document
    assert plan["customers"] == owners
    assert plan["window"]["start"] < plan["window"]["end"]
    assert target.ledger()["batches"]["revert"]["accepted"] == 0
    ended = revert(shell, "--yes-revert", owners, "--json")
    assert (ended.code, ended.document["gone"], ended.document["kept"]) == (0, owners, []), ended.err
    text = (GUIDE / "json.md").read_text().split("## The document of revert")[1].split("\n## ")[0]
    assert re.findall(r"(?m)^\| `(\w+)`", text) == list(ended.document)
    assert list(plan) == list(ended.document)[: len(plan)]
    assert listing(target, "customers") == []
    document = shell("status", "migration.checkpoint", "--json").document
    assert (document["state"], document["balanced"], document["resume"]) == ("reverted", True, None)
    assert (document["seconds_left"], document["plan"]) == (None, None), "it sends nothing any more"
    assert [(it["accepted"], it["reverted"]) for it in document["stages"].values()] == [(0, owners)] * 3
    assert revert(shell, "--yes-revert", owners).problem == "already-reverted"
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000).problem == "checkpoint-reverted"
    assert shell("retry", "migration.checkpoint").problem == "checkpoint-reverted"
    assert shell.run(target.url, *FILES, "--checkpoint", "again.checkpoint").code == 0


@pytest.mark.slow
def test_a_pilot_that_is_taken_back_is_reverted_and_no_longer_paused(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 12)
    assert shell.run(target.url, *FILES, "--first", 4).code == 10
    assert revert(shell, "--yes-revert", 4).code == 0
    status = shell("status", "migration.checkpoint").out
    assert re.search(r"(?m)^state +reverted +reverted +reverted$", status), status
    assert "pilot" not in status


@pytest.mark.slow
def test_customers_with_a_transaction_since_stay_and_are_listed(shell: Shell, target: LocalTarget) -> None:
    owners = migrated(shell, target)
    with closing(sqlite3.connect(shell.folder / "target.sqlite")) as store, store:
        row = "num, batch, reward_id, type, amount, details, issued, created"
        store.execute(
            f"INSERT INTO transactions ({row}) SELECT num, NULL, 'r', 'ACCUMULATION', '1', 'till', 1, 1 FROM customers"
            " WHERE id IN ('c3', 'c5')"
        )
    ended = revert(shell, "--yes-revert", owners, "--json")
    assert (ended.code, ended.document["kept"]) == (3, ["c3", "c5"]), ended.err
    stages = shell("status", "migration.checkpoint", "--json").document["stages"].values()
    assert [(it["accepted"], it["reverted"]) for it in stages] == [(2, owners - 2)] * 3


@pytest.mark.slow
def test_what_can_t_be_reverted_is_refused_and_nothing_is_sent(shell: Shell, target: LocalTarget) -> None:
    owners = migrated(shell, target)
    assert revert(shell).problem == "revert-unconfirmed"
    assert revert(shell, "--yes-revert", owners + 1).problem == "revert-unconfirmed"
    with locked(shell.checkpoint, "another"):
        assert revert(shell, "--yes-revert", owners).code == 11
    with closing(sqlite3.connect(shell.checkpoint)) as file, file:
        file.execute("UPDATE batch SET state = 'parked' WHERE stage = 'events' AND seq = 1")
    assert revert(shell, "--yes-revert", owners).problem == "revert-undecided"
    assert shell.run(target.url, "--events", "e.ndjson", "--checkpoint", "e.checkpoint", "--export-again").code == 0
    assert shell("revert", "e.checkpoint", "--dry-run").problem == "nothing-to-revert"
    assert target.ledger()["batches"]["revert"]["accepted"] == 0


@pytest.mark.slow
def test_a_command_that_a_refusal_names_can_be_pasted_whatever_the_checkpoint_is_called(
    shell: Shell, target: LocalTarget
) -> None:
    export(shell.folder, 2)
    assert shell.run(target.url, *FILES, "--checkpoint", "a b.checkpoint").code == 0
    assert shell("revert", "a b.checkpoint", "--yes-revert", 2).code == 0
    for command in (["revert", "a b.checkpoint"], ["retry", "a b.checkpoint", "--missing"]):
        assert re.search(r"(status|--not-in) 'a b\.checkpoint'$", shell(*command).err, re.MULTILINE)


@pytest.mark.slow
def test_a_refusal_of_the_target_is_told_and_may_be_tried_again(tmp_path: Path, shell: Shell) -> None:
    with sandbox({"on": "revert", "nth": 1, "do": "answer", "status": 403}) as target:
        owners = migrated(shell, target, 3)
        assert (refused := revert(shell, "--yes-revert", owners)).problem == "revert-refused", refused.err
        assert refused.code == 5
        assert revert(shell, "--yes-revert", owners).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "left"), [("3", 0), ("4", 3)])
def test_at_a_terminal_the_number_of_customers_has_to_be_typed(
    shell: Shell, target: LocalTarget, typed: str, left: int
) -> None:
    migrated(shell, target, 3)
    leader, follower = pty.openpty()
    with os.fdopen(leader, "wb", buffering=0) as keys, os.fdopen(follower) as terminal:
        keys.write(f"{typed}\n".encode())
        ended = finished(shell.folder, "revert", "migration.checkpoint", stdin=terminal)
    assert "Type the number of customers" in ended.err
    assert ("[revert-unconfirmed]" in ended.err, len(listing(target, "customers"))) == (bool(left), left), ended.err


# -- histories -------------------------------------------------------------------------------------------------------


async def history(folder: Path, seed: int) -> None:
    """A run, strangers in its window, survivors, bad days, and lives of the revert until it is done."""
    dice = Random(seed)
    keys = write_export(folder, 25, dice)
    world = new_world(folder, seed, 25)
    assert await world.live() is True
    ours = sorted(keys["customers"])
    world.target.settle()
    survivors = set(dice.sample(ours, dice.choice([0, 0, 1, 5])))
    world.target.active = frozenset(survivors)
    for number in range(3):
        world.target.customers[f"stranger{number}"] = 1
        world.target.migrated[f"stranger{number}"] = dice.choice(list(world.target.migrated.values()))
    slow = dice.choice([(0.1, 5.0), (0.1, 5.0), (60.0, 400.0)])
    world.target.weather = Weather(FAULTS, revert=slow)
    world.asked = {"aside": True}
    with closing(Checkpoint.open(folder / "run.checkpoint", read_only=True)) as file:
        count = file.window("customers", SETTLE_TIME).customers
    found = await until_done(world, dice, count)
    world.target.settle()
    there = {owner for owner in ours if world.target.customers[owner]}
    assert there == survivors
    assert survivors <= set(found["kept"]), "a survivor is not named"
    assert found["kept"] == survivors
    reads, reverts = world.target.reads, world.target.reverts
    assert reverts
    for before, after in pairwise(reverts):
        assert any(before < at < after for at in reads), "two reverts without a read-back between"
    totals = world.totals()
    assert all(it.balanced for it in totals.values())
    assert (totals["customers"].accepted.units, totals["customers"].reverted.units) == (len(there), count - len(there))
    assert totals["events"].accepted.units < 40 * max(len(there), 1)


async def until_done(world: World, dice: Random, count: int) -> Any:
    kept: set[str] = set()
    for _ in range(60):
        at = dice.randrange(1, 60) if dice.random() < 0.6 else None
        found = await world.live(lambda it: it.revert(count, kept.add), crash_at=at, crash_after=dice.random() < 0.5)
        if isinstance(found, dict):
            return found | {"kept": kept}
        assert isinstance(found, Crash) or (isinstance(found, Problem) and found.code in GOES_ON), found
    raise AssertionError("never done")


@pytest.mark.slow
@virtual()
async def test_a_revert_takes_one_permit_of_the_migration_limit(tmp_path: Path) -> None:
    write_export(tmp_path, 25, Random(1))
    world = new_world(tmp_path, 1, 25)
    assert await world.live() is True
    before, world.asked = permits(tmp_path), {"aside": True}
    assert before
    there = len(world.target.customers)
    assert isinstance(await world.live(lambda it: it.revert(there, lambda owner: None)), dict)
    assert (permits(tmp_path), len(world.target.reverts)) == (before + 1, 1)


def permits(folder: Path) -> int:
    """How many of the migration limit were ever taken."""
    (path,) = (folder / "state" / "accounts").glob("*.sqlite")
    with closing(sqlite3.connect(path)) as file:
        found: int = file.execute("SELECT count(*) FROM start WHERE migration").fetchone()[0]
        return found


@pytest.mark.parametrize(
    "seeds", [range(2), *(pytest.param(range(k, k + 20), marks=pytest.mark.slow) for k in range(0, 200, 20))]
)
def test_whatever_happens_to_a_revert_it_is_never_repeated_blindly_and_no_survivor_is_unnamed(
    tmp_path: Path, seeds: range
) -> None:
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        run_virtual(history(folder, seed))
