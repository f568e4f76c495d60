"""Dead letters sent again in virtual time: repaired or as they are, nothing twice, nothing lost, whatever happens."""

from __future__ import annotations

import asyncio
import copy
import importlib
import io
import json
import shutil
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint
from streammig.dead_letters.corrected import Corrected
from streammig.dead_letters.export import export_letters
from streammig.dead_letters.replay import Choice
from streammig.errors import SAMPLES_MISSING, Problem
from streammig.migration import Ask, Migration
from streammig.model import Kind, Receipt
from streammig.telemetry import Notice, Sealed, StageBegan
from tests.memory_target import FAULTS, Crash, Weather
from tests.test_system import check, whole
from tests.virtual import run_virtual, teller
from tests.world import Keys, World, new_world, write_export

CUSTOMERS = 30
BAD = ("c3", "c11", "c12")  # customers whose e-mail the rules refuse
POISON = "c7"  # a customer whom the target refuses

Story = Callable[[World, Keys], Coroutine[Any, Any, None]]


def in_world(folder: Path, story: Story, customers: int = CUSTOMERS, **more: Any) -> None:
    """An export in which some customers are no good yet, and the target that refuses another."""

    async def main() -> None:
        world = new_world(folder, 3, customers, limits=((1, 5.0), (500, 3600.0)), **more)
        keys = write_export(folder, customers, Random(5))
        path = folder / "customers.json"
        document = json.loads(path.read_text())
        for record in document["data"]:
            record.pop("deleted_at", None)
            if record["id"] in BAD:
                record["email"] = "none"
        keys["customers"] = {record["id"] for record in document["data"]}
        path.write_text(json.dumps(document))
        world.target.poison = frozenset({POISON})
        await story(world, keys)

    run_virtual(main())


retried = teller(in_world, 2)
ALL = Choice()


def retry(choice: Choice = ALL, repaired: Path | None = None) -> Callable[[Migration], Coroutine[Any, Any, bool]]:
    def work(migration: Migration) -> Coroutine[Any, Any, bool]:
        migration.ask = Ask("streammig retry", unchecked=True, aside=True)
        corrected = Corrected.read(repaired, Path(migration.settings.checkpoint)) if repaired else None
        return migration.retry(choice._replace(corrected=corrected))

    return work


def letters(world: World) -> list[dict[str, Any]]:
    """What `dead-letters` writes."""
    out = io.BytesIO()
    export_letters(world.folder / "run.checkpoint", out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def dead(world: World) -> dict[str, dict[str, int]]:
    with closing(Checkpoint.open(world.folder / "run.checkpoint", read_only=True)) as file:
        return {row.name: found for row in file.stages() if (found := file.dead_codes(row.name))}


def repair(world: World, mend: Callable[[dict[str, Any]], None], name: str = "fixed.ndjson") -> Path:
    path = world.folder / name
    lines = letters(world)
    for line in lines:
        mend(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def good_email(line: dict[str, Any]) -> None:
    if line["code"] == "bad-email":
        line["record"]["email"] = f"{line['record']['id']}@example.org"


def no_letter_is_left(world: World, keys: Keys) -> None:
    whole(world, keys)
    assert dead(world) == {}


# -- interrupted ------------------------------------------------------------------------------------------------------


def again(world: World, folder: Path) -> World:
    """The same world once more, in a folder of its own."""
    shutil.copytree(world.folder, folder)
    target = copy.copy(world.target)
    for name in ("customers", "events", "transactions", "dropped", "arrivals", "violations", "queue", "taken"):
        setattr(target, name, copy.copy(getattr(target, name)))
    return World(folder, target, world.clock, Random(1), settings=dict(world.settings))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_i3_i4_a_retry_killed_at_any_write_and_called_again_neither_loses_nor_doubles(
    tmp_path: Path, after: bool, step: int
) -> None:
    async def story(world: World, keys: Keys) -> None:
        assert await world.live() is True
        world.target.poison = frozenset()
        fixed = repair(world, good_email)
        crashes = 0
        for at in range(1 + after, 400, step):
            other = again(world, tmp_path / str(at))
            ended = await other.live(retry(repaired=fixed), crash_at=at, crash_after=after)
            check(other, keys)
            crashes += isinstance(ended, Crash)
            if not isinstance(ended, Crash):
                break
            await finish(other, keys, fixed)
        assert crashes > 60 // step

    async def finish(world: World, keys: Keys, fixed: Path) -> None:
        for work in (retry(repaired=fixed), retry()):
            ended = await world.live(work)
            check(world, keys)
            assert not isinstance(ended, Problem), ended
        parked = {name: totals.unknown.records for name, totals in world.totals().items() if totals.unknown.records}
        if parked:
            # Too few batches follow a retried one to prove that it did not land: it is parked, and the operator says.
            assert any("parked" in said for said in world.said)
        else:
            no_letter_is_left(world, keys)

    (tmp_path / "first").mkdir()
    in_world(tmp_path / "first", story)


@pytest.mark.parametrize("seed", range(6))
@retried()
async def test_i1_i3_i4_runs_and_retries_in_any_order_through_faults_and_crashes_deliver_all_once(
    world: World, keys: Keys, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a retry in the middle of a run, and letters taken one by one."""

    if seed % 2:
        monkeypatch.setattr("streammig.dead_letters.replay.WAVE_BYTES", 1)

    def repaired(world: World) -> Callable[[Migration], Coroutine[Any, Any, bool]]:
        return retry(repaired=repair(world, good_email))

    def any_work(world: World, rng: Random) -> Callable[[Migration], Coroutine[Any, Any, bool]]:
        if not (world.folder / "run.checkpoint").exists():
            return Migration.run
        return rng.choice([Migration.run, Migration.run, retry(), repaired(world)])

    rng = Random(seed)
    world.target.weather = Weather({name: rng.choice([0.0, 0.02, 0.05]) for name in FAULTS})
    for _ in range(rng.randrange(4, 9)):
        await world.live(
            any_work(world, rng), crash_at=rng.choice([None, rng.randrange(1, 150)]), crash_after=rng.random() < 0.5
        )
        check(world, keys)
        if rng.random() < 0.3:
            world.target.poison = frozenset()
    world.target.weather, world.target.poison = Weather(), frozenset()
    for work in (Migration.run, repaired(world), retry(), Migration.run, repaired(world), retry(), retry()):
        await world.live(work)
        check(world, keys)
    if not any(totals.unknown.records for totals in world.totals().values()):
        no_letter_is_left(world, keys)


@retried()
async def test_letters_of_many_waves_are_sent_in_one_run_of_their_stage(
    world: World, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows their customers goes in the same call."""

    monkeypatch.setattr("streammig.dead_letters.replay.WAVE_BYTES", 1)
    assert await world.live() is True
    world.target.poison = frozenset()
    begun: list[str] = []
    sealed: list[str] = []

    def watch(notice: Notice) -> None:
        if isinstance(notice, StageBegan):
            begun.append(notice.stage)
        if isinstance(notice, Sealed):
            sealed.append(notice.stage)

    world.watch = watch
    assert await world.live(retry(repaired=repair(world, good_email))) is True
    assert begun == ["customers", "events", "transactions"]
    assert sealed.count("customers") == len((*BAD, POISON))
    no_letter_is_left(world, keys)


# -- what is sent how -------------------------------------------------------------------------------------------------


def rewrite(world: World, stage: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = world.folder / f"{stage}.json"
    document = json.loads(path.read_text())
    change(document["data"])
    path.write_text(json.dumps(document))


def many_events(records: list[dict[str, Any]], thirtieth: str) -> None:
    """Let the first record hold 60 events, 15 KB, where a request may have 10; one has this date."""
    (event, *_) = records[0]["events"]
    records[0]["events"] = [event | {"order": event["order"] | {"purchase_id": f"many-{it}"}} for it in range(60)]
    records[0]["events"][30]["issued_at"] = thirtieth


@pytest.mark.parametrize("refused", [None, b'"many-0"', b'"many-59"'])
def test_i3_a_corrected_record_too_large_for_one_request_goes_in_parts_and_no_part_twice(
    tmp_path: Path, refused: bytes | None
) -> None:
    """Where the target refuses one part, the other is not sent again with the same correction."""

    def mend(line: dict[str, Any]) -> None:
        if len(line["record"].get("events", ())) == 60:
            line["record"]["events"][30]["issued_at"] = "2022-02-02T10:00:00Z"

    async def story(world: World, keys: Keys) -> None:
        rewrite(world, "events", lambda records: many_events(records, "yesterday"))
        many = {f"many-{number}" for number in range(60)}
        records = json.loads((world.folder / "events.json").read_text())["data"]
        keys["events"] = {event["order"]["purchase_id"] for record in records for event in record["events"]}
        world.target.poison = frozenset()
        assert await world.live() is True
        assert dead(world)["events"]["bad-date"] == 1
        fixed, before = repair(world, mend), world.target.requests
        if refused is None:
            for at in range(1, 60, 8):
                other = again(world, tmp_path / str(at))
                await other.live(retry(Choice(frozenset({"events"})), fixed), crash_at=at)
                check(other, keys)
        else:
            world.target._refused = lambda stage, body: refused in body  # type: ignore[method-assign]
        assert await world.live(retry(Choice(frozenset({"events"})), fixed)) is True
        check(world, keys)
        assert world.target.requests == before + 2
        world.target._refused = lambda stage, body: False  # type: ignore[method-assign]
        assert await world.live(retry(Choice(frozenset({"events"})), repair(world, mend))) is True
        check(world, keys)
        there = many & set(world.target.events)
        assert len(there) == (60 if refused is None else 30)
        assert dead(world)["events"].get("unclear-share", 0) == (refused is not None)

    (tmp_path / "first").mkdir()
    in_world(tmp_path / "first", story)


@retried()
async def test_i3_units_that_were_refused_corrected_and_refused_again_take_no_others_with_them(
    world: World, keys: Keys
) -> None:
    def cheaper(line: dict[str, Any]) -> None:
        if line["stage"] == "events":
            line["record"]["events"][0]["order"]["value"] = 1

    rewrite(world, "events", lambda records: many_events(records, "2022-02-02T10:00:00Z"))
    records = json.loads((world.folder / "events.json").read_text())["data"]
    keys["events"] = {event["order"]["purchase_id"] for record in records for event in record["events"]}
    world.target.poison = frozenset()
    world.target._refused = lambda stage, body: b'"many-0"' in body  # type: ignore[method-assign]
    assert await world.live() is True
    events = Choice(frozenset({"events"}))
    for _ in range(2):
        assert await world.live(retry(events, repair(world, cheaper))) is True
        check(world, keys)
        world.target._refused = lambda stage, body: False  # type: ignore[method-assign]
    assert await world.live(retry(events, repair(world, cheaper))) is True
    check(world, keys)


@retried()
async def test_all_that_waits_of_one_owner_travels_in_one_request_for_it_is_taken_once_only(
    world: World, keys: Keys
) -> None:
    def part(records: list[dict[str, Any]]) -> None:
        for record in [it for it in records if it["id"] in BAD]:
            entries = record["transactions"]
            if len(entries) > 1:
                record["transactions"] = entries[:1]
                records.append({"id": record["id"], "transactions": entries[1:]})

    rewrite(world, "transactions", part)
    world.target.poison = frozenset()
    assert await world.live() is True
    waiting = dead(world)["transactions"]["owner-bad-email"]
    assert waiting > len(BAD)
    sent = len(batches(world, "transactions"))
    assert await world.live(retry(repaired=repair(world, good_email))) is True
    no_letter_is_left(world, keys)
    owners = [owner for batch in batches(world, "transactions")[sent:] for owner in batch]
    assert sorted(owners) == sorted(BAD)


def batches(world: World, stage: str) -> list[list[str]]:
    """The owners in each request that the target took, in order."""
    return [
        [customer["id"] for customer in json.loads(body)["customers"]]
        for name, body in world.target.taken
        if name == stage
    ]


@retried()
async def test_what_a_retry_sent_is_looked_for_behind_the_last_stage_too(world: World, keys: Keys) -> None:
    world.target.poison = frozenset()
    assert await world.live() is True
    assert codes(world)["transactions"] == ""
    take = world.target._take

    def dropping(stage: str, body: bytes) -> None:
        world.target.drops = frozenset(BAD if stage == "transactions" else ())
        take(stage, body)

    world.target._take = dropping  # type: ignore[method-assign]
    assert await world.live(retry(repaired=repair(world, good_email))) is True
    assert codes(world) == {"customers": "", "events": "", "transactions": SAMPLES_MISSING}


def codes(world: World) -> dict[str, str]:
    with closing(Checkpoint.open(world.folder / "run.checkpoint", read_only=True)) as file:
        return {row.name: row.code for row in file.stages()}


@retried()
async def test_a_retry_that_is_drained_leaves_the_rest_for_the_next_call(world: World, keys: Keys) -> None:
    assert await world.live() is True
    fixed = repair(world, good_email)

    def drained(migration: Migration) -> Coroutine[Any, Any, bool]:
        migration.stop.set()
        return retry(repaired=fixed)(migration)

    assert await world.live(drained) is False
    assert dead(world)["customers"] == {"bad-email": 3, "refused": 1}
    assert await world.live(retry(repaired=fixed)) is True
    check(world, keys)


async def drained(migration: Migration) -> bool:
    asyncio.get_running_loop().call_later(600, migration.drain)  # behind the looks before a run
    return await migration.run()


@retried()
async def test_i4_what_waits_for_a_customer_is_not_released_by_a_retry_that_was_refused_or_lost(
    world: World, keys: Keys
) -> None:
    assert await world.live() is True
    refused = retry(Choice(codes=frozenset({"refused"})))
    assert await world.live(refused) is True
    assert dead(world)["customers"]["refused"] == 1
    sent = world.target._send

    async def lost(stage: str, body: bytes, began: Callable[[], None]) -> Receipt:
        world.target._send = sent  # type: ignore[method-assign]
        began()
        return Receipt(Kind.UNKNOWN, message="reset", latency=1.0)

    world.target._send = lost  # type: ignore[method-assign]
    await world.live(refused)
    assert world.totals()["customers"].unknown.units == 1
    await world.live(retry(Choice(stages=frozenset({"transactions"}))))
    assert "refused" not in dead(world)["customers"]
    assert dead(world)["transactions"]["owner-refused"] == 1
    world.target.settle()
    assert not world.target.dropped


@pytest.mark.parametrize("mapped", [False, True])
@retried()
async def test_a_letter_corrected_or_of_a_mended_mapping_is_not_sent_with_the_batch_around_it(
    world: World, keys: Keys, tmp_path: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mapping_of_retry.py").write_text(
        "MENDED = []\n\ndef customer(record):\n"
        "    return record | ({'email': record['id'] + '@example.org'} if MENDED else {})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    world.target.poison = frozenset()
    if mapped:
        files = [str(tmp_path / "customers.json")]
        world.settings["customers"] = {"files": files, "map": "mapping_of_retry:customer"}
    world.target.weather = Weather({"not-sent": 1.0})
    assert await world.live(drained) is False
    assert world.totals()["customers"].dead.records == len(BAD)
    assert world.totals()["customers"].pending.records
    world.target.weather = Weather()
    if mapped:
        importlib.import_module("mapping_of_retry").MENDED.append(True)
    else:
        assert await world.live(retry(repaired=repair(world, good_email))) is True
        check(world, keys)
    assert await world.live() is True
    assert dead(world).get("customers") == ({"bad-email": len(BAD)} if mapped else None)
    assert await world.live(retry()) is True
    no_letter_is_left(world, keys)


@retried()
async def test_what_no_request_has_room_for_stays_a_letter_with_that_reason(world: World, keys: Keys) -> None:
    """One event of 20 KB, and 80 transactions of one owner, which must not be split; a request may have 10 KB."""

    def swell(line: dict[str, Any]) -> None:
        good_email(line)
        if line["record"]["id"] not in BAD:
            return
        if line["stage"] == "events":
            line["record"]["events"][0]["order"]["products"] = [{"sku": "x" * 20_000, "amount": 1, "value": 1}]
        if line["stage"] == "transactions":
            line["record"]["transactions"] *= 80

    assert await world.live() is True
    assert await world.live(retry(repaired=repair(world, swell))) is True
    check(world, keys)
    assert dead(world)["transactions"]["owner-refused"] == 1
    assert dead(world)["transactions"].keys() - {"too-many-transactions"} == {"too-large", "owner-refused"}
    assert dead(world)["events"].keys() - {"owner-refused"} == {"too-large"}


@pytest.mark.parametrize(
    ("change", "one_by_one", "code"),
    [({"id": BAD[0]}, True, "duplicate-customer"), ({"email": "Same@example.org"}, False, "duplicate-email")],
)
@retried()
async def test_i3_of_letters_corrected_into_one_customer_one_is_sent(
    world: World, keys: Keys, change: dict[str, str], one_by_one: bool, code: str
) -> None:
    def as_one(line: dict[str, Any]) -> None:
        if line["code"] == "bad-email":
            good_email(line)
            line["record"] |= change

    assert await world.live() is True
    fixed = repair(world, as_one)
    if one_by_one:
        first = world.folder / "first.ndjson"
        first.write_text(fixed.read_text().splitlines(keepends=True)[0])
        assert await world.live(retry(repaired=first)) is True
    assert await world.live(retry(repaired=fixed)) is True
    check(world, keys)
    assert dead(world)["customers"] == {code: 2, "refused": 1}


@retried()
async def test_letters_of_an_export_that_breaks_off_are_retried_as_far_as_it_goes(world: World, keys: Keys) -> None:
    path = world.folder / "customers.json"
    path.write_text(path.read_text()[:-3])
    ended = await world.live()
    assert isinstance(ended, Problem)
    assert ended.code == "export-broken"
    world.target.poison = frozenset()
    assert await world.live(retry(repaired=repair(world, good_email))) is True
    assert await world.live(retry()) is True
    check(world, keys)
    assert dead(world) == {}
