"""The whole system in virtual time: what the target holds is what the export holds, whatever happens on the way."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint
from streammig.errors import Problem, UnknownOutcome
from streammig.model import BatchState
from streammig.report.document import document
from streammig.report.progress import share_settled
from streammig.report.watch import Watch
from streammig.telemetry import Advanced, Answered, DeadLettered, Notice, StageBegan, StageEnded
from tests.memory_target import FAULTS, Crash, Weather
from tests.shares import share
from tests.virtual import run_virtual, teller, virtual
from tests.world import SETTLE_TIME, Keys, World, new_world, write_export

CUSTOMERS = 80


def check(world: World, keys: Keys) -> None:
    """What must hold at every moment: nothing twice, nothing that was never there, totals that balance (I1, I3, I4)."""
    target = world.target
    target.settle()
    for stage, wanted in keys.items():
        held = getattr(target, stage)
        twice = {key: count for key, count in held.items() if count > 1}
        assert not twice, f"{stage}: came twice: {twice}"
        assert set(held) <= wanted, f"{stage}: never asked for: {set(held) - wanted}"
    if not (world.folder / "run.checkpoint").exists():
        return
    for stage, totals in world.totals().items():
        assert totals.balanced, f"{stage}: {totals.taken} != {totals.placed}"
        held = len(getattr(target, stage)) + sum(1 for key in target.dropped if key.startswith(stage))
        least, most = totals.accepted.units, totals.accepted.units + totals.unknown.units + totals.pending.units
        assert least <= held <= most, f"{stage}: target has {held}, totals say {least} to {most}"
    assert not target.violations, target.violations[:3]


def whole(world: World, keys: Keys) -> None:
    """Everything has arrived, once, but for what a queue slower than the settle time dropped."""
    check(world, keys)
    dropped = {key.partition(" ")[2] for key in world.target.dropped}
    assert not dropped or world.target.weather.queue[1] > SETTLE_TIME
    for stage, wanted in keys.items():
        assert set(getattr(world.target, stage)) | (dropped & wanted) == wanted, f"{stage}: missing or extra"
        assert world.totals()[stage].accepted.units == len(wanted)


def run_world(tmp_path: Path, story: Any, seed: int, **more: Any) -> None:
    async def main() -> None:
        world = new_world(tmp_path, seed, CUSTOMERS, **more)
        keys = write_export(tmp_path, CUSTOMERS, Random(seed))
        await story(world, keys)

    run_virtual(main())


lived = teller(run_world, 2)


@lived(1, limits=((1, 5.0), (500, 3600.0)))
async def test_a_migration_on_a_good_day_delivers_everything_once_within_its_limits(world: World, keys: Keys) -> None:
    assert await world.live() is True
    whole(world, keys)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_i3_i4_a_crash_at_any_write_neither_loses_nor_doubles(tmp_path: Path, seed: int, after: bool) -> None:
    async def story(world: World, keys: Keys) -> None:
        crashes = 0
        for _ in range(12):
            ended = await world.live(crash_at=world.rng.randrange(1, 80), crash_after=after)
            crashes += isinstance(ended, Crash)
            check(world, keys)
        assert crashes > 3
        assert_done(await world.live(), world, keys)

    run_world(tmp_path, story, seed, limits=((1, 5.0), (500, 3600.0)))


def assert_done(ended: object, world: World, keys: Keys) -> None:
    """All is delivered, or what is parked could not have been decided by anyone."""
    if ended is True:
        whole(world, keys)
        return
    assert isinstance(ended, UnknownOutcome), ended
    with closing(Checkpoint.open(world.folder / "run.checkpoint", read_only=True)) as file:
        assert any(file.batches(row.name, BatchState.PARKED) for row in file.stages())


def live_through(tmp_path: Path, seed: int) -> str:
    """One random life: faults, crashes, slow queues, then good weather and it must finish. Returns a trace."""
    trace: list[Any] = []

    async def story(world: World, keys: Keys) -> None:
        rng = world.rng
        weather = Weather(
            {name: rng.choice([0.0, 0.01, 0.05]) for name in FAULTS},
            queue=rng.choice([(0.1, 5.0), (0.1, 50.0), (30.0, 300.0)]),
        )
        world.target.weather = weather
        world.settings["concurrency"] = rng.choice([1, 2, 4])
        world.settings["limits"] = rng.choice(["1/5s", "1/1s,200/1h", "off"])
        ended: object = None
        for _ in range(rng.randrange(1, 6)):
            ended = await world.live(crash_at=rng.choice([None, rng.randrange(1, 400)]), crash_after=rng.random() < 0.5)
            trace.append((type(ended).__name__, world.target.requests, round(world.clock.time(), 3)))
            check(world, keys)
        world.target.weather = Weather(queue=weather.queue)
        for _ in range(3):
            ended = await world.live()
            check(world, keys)
            if not isinstance(ended, Problem):
                break
        trace.append((type(ended).__name__, world.target.requests, round(world.clock.time(), 3)))
        assert_done(ended, world, keys)

    run_world(tmp_path, story, seed)
    return json.dumps(trace)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_life_ends_with_everything_delivered_once_or_honestly_parked(tmp_path: Path, seed: int) -> None:
    live_through(tmp_path, seed)


def test_the_same_seed_gives_the_same_life(tmp_path: Path) -> None:
    lives = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        lives.append(live_through(tmp_path / name, 77))
    assert lives[0] == lives[1]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_hundreds_of_random_lives(tmp_path: Path) -> None:
    for seed in range(100, 100 + share(500)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            live_through(folder, seed)
        except BaseException:
            print(f"seed {seed}: live_through(tmp_path, {seed})")
            raise


@virtual()
async def test_the_target_itself_sees_what_comes_twice() -> None:
    world = new_world(Path(), 1, 1)
    body = b'{"customers":[{"id":"c1"}]}'
    for _ in range(2):
        await world.target.send("customers", body)
    world.target.settle()
    assert world.target.customers["c1"] == 2


@lived(7)
async def test_bar_log_and_status_show_the_same_share_over_crashes_and_resumes(world: World, keys: Keys) -> None:
    heard, shares, resumed = Watch(world.clock.time), [], 0

    def watch(notice: Notice) -> None:
        nonlocal resumed
        heard.hear(notice)
        match notice:
            case StageBegan(stage) | StageEnded(stage) | Advanced(stage) | DeadLettered(stage):
                pass
            case Answered(batch):
                stage = batch.stage
            case _:
                return
        with closing(Checkpoint.open(world.folder / "run.checkpoint", read_only=True)) as file:
            found = document(file, running=True, now=0.0)["stages"][stage]["done"]
        if isinstance(notice, StageEnded) and notice.state == "complete":
            assert found == 1.0
            return
        assert found == share_settled(heard.accounts[stage])
        shares.append(found)
        resumed += isinstance(notice, StageBegan) and found > 0

    world.watch = watch
    for _ in range(6):
        await world.live(crash_at=world.rng.randrange(20, 60), crash_after=False)
    assert await world.live() is True
    whole(world, keys)
    assert resumed > 2
    assert len(set(shares)) > 20
    assert max(shares) > 0.5
