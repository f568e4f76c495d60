"""Verify over many seeds: whatever the target lost, and however often the verify is killed, just that is found."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import tracemalloc
from collections.abc import Mapping
from contextlib import closing
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import MISSED, Accepted, Checkpoint
from streammig.context import Context, Stop, Times
from streammig.inputs import Reading
from streammig.masivo.http import Answer
from streammig.masivo.session import Session
from streammig.model import Position, Record, Tally
from streammig.revert_looks import RevertWork
from streammig.sandbox import SandboxConfig
from streammig.sandbox.forms import Refused
from streammig.sandbox.local import LocalTarget
from streammig.sandbox.reads import Reads
from streammig.sandbox.store import Store
from streammig.target import MISSING, Difference
from streammig.telemetry import Notice, Verifying, ignore
from streammig.verify.pool import PIECE, Pool
from streammig.verify.verdict import Verdict
from streammig.verify.work import Done, Item, Suspect
from tests.commands import Shell, finished, listing, quickly, sandbox, write
from tests.memory_target import Crash, Weather
from tests.sandbox_caller import OTHER_REWARD, REWARD, customer
from tests.shares import share
from tests.test_verify import FILES, export, of, one, tampered, verify, without
from tests.virtual import Inline, VirtualClock, run_virtual, virtual
from tests.world import new_world, write_export

OWNERS = 10_000


def wrongs(dice: Random) -> tuple[list[str], set[tuple[str, int, str, str]]]:
    """Changes to a store of 10,000 customers, each to another one, and what is to be found of them."""
    names = iter(dice.sample(range(OWNERS), OWNERS))
    changes: list[str] = []
    expected: set[tuple[str, int, str, str]] = set()

    def wrong(number: int, change: str, stage: str, field: str, reason: str) -> None:
        changes.append(change)
        expected.add((stage, number + 1 if stage == "customers" else OWNERS - number, field, reason))

    for _ in range(dice.choice([1, 10, 100])):
        number = next(names)
        wrong(number, f"DELETE FROM customers WHERE id = 'c{number}'", "customers", "", "missing")
        expected.add(("transactions", OWNERS - number, "", "missing"))
    a, b, c, d, e = (next(names) for _ in range(5))
    wrong(a, one("events", f"c{a}"), "customers", "purchases", "less")
    wrong(b, one("lots", f"c{b}", f"reward_id = '{REWARD}'"), "customers", f"balance {REWARD}", "less")
    wrong(c, one("transactions", f"c{c}"), "transactions", "transactions of 2024", "less")
    mail = f"UPDATE documents SET sent = replace(CAST(sent AS TEXT), 'c{d}@', 'x@') WHERE {of(f'c{d}')}"
    wrong(d, mail, "customers", "email", "differs")
    twice = f"INSERT INTO lots SELECT * FROM lots WHERE {of(f'c{e}')} AND brand_id = 'b1'"
    wrong(e, twice, "customers", f"balance {OTHER_REWARD} b1", "more")
    return changes, expected


def read_directly(store: Path, patch: pytest.MonkeyPatch) -> None:
    """Reads of a session get the sandbox's own answers without a socket between: twenty thousand of them in seconds."""
    reads = Reads(SandboxConfig(), Store(store))

    async def get(session: Session, path: str, query: Mapping[str, str] | None = None) -> Answer:
        _, _, owner, *more = path.split("/")
        try:
            now = time.time()
            found = reads.transactions_of(owner, query or {}, now) if more else reads.customer(owner, now)
            status = 200
        except Refused as refused:
            status, found = refused.status, b"{}"
        return Answer(status, found, True, False, "", "", (None, None, None), 0.0)

    patch.setattr(Session, "get", get)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_just_what_is_wrong_is_found_over_many_seeds(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """One migration: behind each seed the store is put back. All twenty take two minutes of one core."""
    path = shell.folder / "target.sqlite"
    with sandbox(store=path) as target:
        export(shell.folder, OWNERS)
        assert shell.run(target.url, *FILES).code == 0
        read_directly(path, monkeypatch)
        with closing(sqlite3.connect(path)) as store, closing(sqlite3.connect(":memory:")) as whole:
            store.backup(whole)
            for seed in range(share(20)):
                changes, expected = wrongs(Random(seed))
                tampered(shell.folder, *changes)
                found = verify(shell, "--all", "--json").document["findings"]
                told = {(it["stage"], it["record"], it["field"], it["reason"]) for it in found}
                assert told == expected, f"seed {seed}"
                whole.backup(store)


async def killed(folder: Path, seed: int) -> None:
    """A queue that drops some owners, and lives of a verify until one comes to its end."""
    dice = Random(seed)
    keys = write_export(folder, 40, dice)
    lost = set(dice.sample(sorted(keys["customers"]), 3))
    world = new_world(folder, seed, 40, drops=frozenset(lost))
    await world.live()
    world.target.settle()
    world.asked = {"aside": True}
    for life in count(1):
        at = dice.randrange(1, 80) if dice.random() < 0.8 else None
        told: list[Any] = []
        found = await world.live(lambda it, hear=told.append: it.verify(None, hear), crash_at=at)  # type: ignore[misc]
        if not isinstance(found, Crash):
            break
        assert life < 60
    assert isinstance(found, dict), found
    assert {it.owner for it in told} == lost
    assert found["stages"]["customers"]["missing"] == len(lost)
    totals = world.totals()
    assert totals["customers"].missing.units == len(lost)
    assert all(it.balanced for it in totals.values())


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 25), marks=pytest.mark.slow)])
def test_a_verify_that_is_killed_goes_on_and_finds_the_same(tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        run_virtual(killed(folder, seed))


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_as_many_reads_as_may_be_are_in_flight_all_the_time_and_never_more(concurrency: int) -> None:
    async def main() -> float:
        flying, most = 0, 0

        async def look(item: Item) -> list[Difference]:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(1.0)
            flying -= 1
            return []

        noted: list[int] = []
        items = (Item(Record(Position(0, at, 1, at + 1), 0, f"c{at}", b"", 1), 1) for at in range(1600))
        context = Context(VirtualClock(), Random(1), ignore, Stop(), Times(60.0, 600.0))
        reading = Reading(stages=[], inputs={}, indexes={}, store=None, lookup=None, thread=Inline())  # type: ignore[arg-type]
        pool = Pool(reading, context, concurrency, look, lambda found: noted.extend(it.place[1] for it, _ in found))
        assert await pool.over(items)
        assert sorted(noted) == [*range(1600)]
        assert most == concurrency
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(1600 / concurrency, rel=0.01)


def missed(at: int) -> Suspect:
    record = Record(Position(0, 100 * at, 100, at + 1), 0, f"c{at}", b"{}" * 50, 1)
    return Suspect("customers", Item(record, at // 1000), [Difference("", MISSING)])


@pytest.mark.slow
def test_i6_what_was_not_found_is_never_all_in_memory(tmp_path: Path) -> None:
    peaks = []
    for whole in (3_000, 30_000):
        with (
            closing(RevertWork(tmp_path / f"{whole}.work")) as work,
            closing(Checkpoint.create(tmp_path / f"{whole}.checkpoint", binding={}, version="0", started=0.0)) as file,
        ):
            file.add_stage("customers", 0, {}, [])
            tracemalloc.start()
            batches = (Accepted(seq, (), Tally(1000, 1000), "", False, 1.0) for seq in range(whole // 1000))
            work.begin("", {"customers": batches})
            for begin in range(0, whole, 1000):
                suspects = [missed(at) for at in range(begin, begin + 1000)]
                work.note("customers", Done(suspects[-1].item.place, 1000), suspects, 1.0)
                work.note_again("customers", [(it.item, it.first) for it in suspects])
                work.share_out("customers", "share", [it.item for it in suspects])
            verdict = Verdict(work.settled, 1.0, lambda _: True)
            assert verdict.counts(work.suspects(), ignore)["customers"] == {"missing": whole}  # type: ignore[arg-type]
            missing, findings = verdict.missing(work.suspects()), verdict.findings(work.suspects())
            file.note_verified({"kind": "all"}, 2.0, 1.0, missing, findings)
            assert sum(1 for _ in file.findings()) == whole
            assert sum(it.tally.units for it in file.beside("customers", MISSED)) == whole
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0], "ten times as many must not take ten times the memory"


@pytest.mark.slow
def test_where_another_mapping_made_all_of_it_there_is_nothing_to_compare(shell: Shell) -> None:
    (shell.folder / "second_maps.py").write_text("def same(record):\n    return record\n")
    with sandbox() as target:
        one_stage(shell, target)
        (shell.folder / "second_maps.py").write_text("def same(record):\n    return dict(record)\n")
        assert verify(shell, "--all").problem == "nothing-accepted"
        (shell.folder / "second_maps.py").write_text("def same(record):\n    return record\n")
        document = verify(shell, "--all", "--json").document
        assert (document["same"], document["stages"]["customers"]["not_comparable"]) == (True, 0)


@pytest.mark.slow
def test_what_another_mapping_made_is_not_comparable_and_never_sent_again(shell: Shell, tmp_path: Path) -> None:
    write(shell.folder / "c.ndjson", [customer(f"c{number}") for number in range(8)], lines=True)
    mapping = shell.folder / "mixed_maps.py"
    mapping.write_text("def same(record):\n    return record\n")
    with sandbox(store=tmp_path / "target.sqlite") as target:
        files = ("--customers", "c.ndjson", "--map", "customers=mixed_maps:same")
        run = ("run", *quickly(target.url), *files, "--checkpoint", "migration.checkpoint")
        assert finished(shell.folder, *run, "--first", 3).code == 10
        mapping.write_text("def same(record):\n    return dict(record)\n")
        assert finished(shell.folder, *run).code == 0
        for name in ("c1", "c6"):
            tampered(shell.folder, *without(name))
        found = finished(shell.folder, "verify", "migration.checkpoint", "--all", "--json").document
        stage = found["stages"]["customers"]
        assert (stage["looked"], stage["missing"], stage["not_comparable"]) == (5, 1, 3)
        assert [it["record"] for it in found["findings"]] == [7]
        assert finished(shell.folder, "retry", "migration.checkpoint", "--missing").code == 0
        there = {it["id"] for it in listing(target, "customers")}
        assert there == {f"c{number}" for number in range(8)} - {"c1"}
        assert target.ledger()["twice"]["customers"]["count"] == 0


def one_stage(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "c.ndjson", [customer(f"c{number}") for number in range(5)], lines=True)
    ended = shell.run(target.url, "--customers", "c.ndjson", "--map", "customers=second_maps:same")
    assert ended.code == 0, ended.err


@pytest.mark.slow
@virtual()
async def test_a_verify_that_is_killed_reads_little_again_and_tells_how_far_it_is(tmp_path: Path) -> None:
    write_export(tmp_path, 600, Random(1))
    world = new_world(tmp_path, 1, 600)
    world.target.weather, world.settings = Weather(read=0.1), {"max_bytes": 1_000_000, "limits": "off"}
    assert await world.live() is True
    world.target.settle()
    world.asked, reads, kills = {"aside": True}, world.target.reads, [800]
    left: list[float | None] = []

    def hear(notice: Notice) -> None:
        if isinstance(notice, Verifying):
            left.append(notice.seconds)
            if kills and len(reads) > kills[0]:
                world.dead = bool(kills.pop())

    world.watch = hear
    assert isinstance(await world.live(lambda it: it.verify(None, lambda told: None)), Crash)
    assert isinstance(await world.live(lambda it: it.verify(None, lambda told: None)), dict)
    twice = len(reads)
    assert isinstance(await world.live(lambda it: it.verify(None, lambda told: None)), dict)
    whole = len(reads) - twice
    assert 800 < twice < whole + 2 * PIECE
    assert left[1] == pytest.approx(whole * 0.1 / 4, rel=0.1)
    assert left[-1] == pytest.approx(1.0, abs=1.0)
