"""Whole migrations with records that the target refuses: just these are dead letters, all else arrives once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint
from streammig.dead_letters.replay import Choice
from streammig.errors import UnknownOutcome
from streammig.migration import Ask, Migration
from streammig.model import BatchState
from tests.commands import Shell, write
from tests.memory_target import FAULTS, Crash, Weather
from tests.refusing_target import RefusingTarget, nobody
from tests.test_system import check
from tests.virtual import run_virtual
from tests.world import World, new_world, write_export

CUSTOMERS = 120
Keys = dict[str, set[str]]
Story = Callable[[World, RefusingTarget, Keys], Awaitable[None]]


def first_of_many(bad: list[str]) -> str:
    return f"invalid customer entry: id {bad[0]}" if bad else "invalid customer entry"


def wrong(bad: list[str]) -> str:
    return "invalid customer entry near c119"


def in_world(folder: Path, seed: int, story: Story, **settings: Any) -> None:
    """A world in which three customers, and the events and transactions of two others each, are refused."""

    async def main() -> None:
        world = new_world(folder, seed, CUSTOMERS)
        keys = write_export(folder, CUSTOMERS, Random(seed))
        target = RefusingTarget(world.clock, Random(seed + 1), Weather(queue=(0.1, 5.0)))
        owners = Random(seed).sample(sorted(keys["customers"]), 3)
        with_events = sorted({owner_of(key) for key in keys["events"]} - set(owners))
        chosen = {"customers": owners, "events": Random(seed).sample(with_events, 2)}
        left = sorted(keys["customers"] - set(owners) - set(chosen["events"]))
        chosen["transactions"] = Random(seed).sample(left, 2)
        target.bad = frozenset((stage, owner) for stage, some in chosen.items() for owner in some)
        world.target = target
        world.settings.update({"bisect_events": True} | settings)
        await story(world, target, keys)

    run_virtual(main())


def owner_of(key: str) -> str:
    return "c" + key[1:].partition("-")[0]


def doomed(target: RefusingTarget, keys: Keys) -> Keys:
    """The keys that must not arrive: what is refused, and what belongs to a refused customer."""
    gone = {owner for stage, owner in target.bad if stage == "customers"}
    found = {"customers": gone}
    for stage in ("events", "transactions"):
        mine = gone | {owner for of, owner in target.bad if of == stage}
        found[stage] = {key for key in keys[stage] if owner_of(key) in mine}
    return found


def looked_at(world: World, ask: Callable[[Checkpoint], Any]) -> Any:
    with closing(Checkpoint.open(world.folder / "run.checkpoint", read_only=True)) as file:
        return ask(file)


def dead(world: World) -> dict[str, Counter[str]]:
    """Dead letters by stage and code, in units."""

    def count(file: Checkpoint) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {}
        for row in file.stages():
            found[row.name] = Counter()
            for _, letter in file.dead_letters(row.name):
                found[row.name][letter.code] += letter.tally.units
        return found

    counted: dict[str, Counter[str]] = looked_at(world, count)
    return counted


def arrived(world: World, target: RefusingTarget, keys: Keys) -> None:
    """Just the refused records are dead letters, those of refused customers wait, and all else is there once."""
    check(world, keys)
    lost, letters = doomed(target, keys), dead(world)
    for stage, wanted in keys.items():
        assert set(getattr(target, stage)) == wanted - lost[stage], stage
        refused = sum(1 for key in lost[stage] if (stage, key if stage == "customers" else owner_of(key)) in target.bad)
        assert letters[stage] == +Counter({"refused": refused, "owner-refused": len(lost[stage]) - refused}), stage


@pytest.mark.parametrize(("says", "seed"), [(nobody, 0), (first_of_many, 1), (wrong, 0)])
def test_only_what_is_refused_becomes_a_dead_letter_in_every_stage(tmp_path: Path, seed: int, says: Any) -> None:
    async def story(world: World, target: RefusingTarget, keys: Keys) -> None:
        target.says = says
        assert await world.live() is True
        arrived(world, target, keys)
        spent = [sum(looked_at(world, partial(Checkpoint.refused_parts, stage=stage)).values()) for stage in keys]
        assert max(spent) <= 60

    in_world(tmp_path, seed, story)


@pytest.mark.parametrize("says", [nobody, first_of_many])
@pytest.mark.parametrize("seed", range(2))
def test_i3_i4_a_crash_at_any_write_of_the_isolation_neither_loses_nor_doubles(
    tmp_path: Path, seed: int, says: Any
) -> None:
    assert crashing(tmp_path, seed, says) > 3


def resolve(world: World, target: RefusingTarget) -> None:
    """What was being sent when the process died may be beyond proof: decide what is parked as one who knows."""
    file = Checkpoint.open(world.folder / "run.checkpoint")
    for row in file.stages():
        for batch in file.batches(row.name, BatchState.PARKED):
            after = BatchState.ACCEPTED if batch.digest in target.took else BatchState.SEALED
            assert file.move(batch, BatchState.PARKED, after, world.clock.time())
    file.close()


def followers(migration: Migration) -> Coroutine[Any, Any, bool]:
    """Send what waited for customers whose batch was parked and is decided now."""
    migration.ask = Ask("streammig retry", unchecked=True, aside=True)
    return migration.retry(Choice(codes=frozenset({"owner-undecided"})))


def crashing(folder: Path, seed: int, says: Any, faults: dict[str, float] | None = None) -> int:
    """Live through up to eight crashes and then to the end; returns how many crashes there were."""
    ends: list[object] = []

    async def story(world: World, target: RefusingTarget, keys: Keys) -> None:
        target.says = says
        for life in range(8):
            target.weather.faults = faults or {}
            ends.append(await world.live(crash_at=world.rng.randrange(10, 120), crash_after=life % 2 == 0))
            check(world, keys)
            resolve(world, target)
        target.weather.faults = {}
        for _ in range(30):
            ended = await world.live()
            check(world, keys)
            if ended is True:
                break
            assert isinstance(ended, UnknownOutcome), ended
            resolve(world, target)
        assert await world.live(followers) is True
        arrived(world, target, keys)

    in_world(folder, seed, story)
    return sum(isinstance(end, Crash) for end in ends)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_hundreds_of_lives_with_refused_records_faults_and_crashes(tmp_path: Path) -> None:
    crashes = 0
    for seed in range(1000, 1150):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            faults = {name: Random(seed).choice([0.0, 0.01, 0.04]) for name in FAULTS}
            crashes += crashing(folder, seed, Random(seed).choice([nobody, first_of_many, wrong]), faults)
        except BaseException:
            print(f"seed {seed}: crashing(tmp_path, {seed}, ...)")
            raise
    assert crashes > 600


def test_a_run_that_may_not_search_delivers_all_else_and_drops_nothing(tmp_path: Path) -> None:
    async def story(world: World, target: RefusingTarget, keys: Keys) -> None:
        target.bad = frozenset(pair for pair in target.bad if pair[0] == "transactions")
        assert await world.live() is True
        check(world, keys)
        letters = dead(world)["transactions"]
        assert letters["refused-with-its-batch"] > 0
        assert set(letters) <= {"refused", "refused-with-its-batch"}  # whoever was alone in a batch was searched for
        assert len(target.transactions) + letters.total() == len(keys["transactions"])

    in_world(tmp_path, 6, story, isolation_requests=0, isolation_share=0)


def test_the_command_asks_for_the_stage_s_name_before_anything_may_be_sent_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capsys)
    write(tmp_path / "export.json", [])
    (tmp_path / "move.toml").write_text('[events]\nfiles = "export.json#customers"\nunknown = "resend"\n')
    refused = shell("run", "move.toml", "--base-url", "http://127.0.0.1:1")
    assert refused.code == 2
    assert "--i-accept-doubles events" in refused.err
    assert not list(tmp_path.glob("*.checkpoint"))
    other = shell("run", "move.toml", "--base-url", "http://127.0.0.1:1", "--i-accept-doubles", "customers")
    assert other.code == 2
    accepted = shell("run", "move.toml", "--dry-run", tmp_path / "look", "--i-accept-doubles", "events")
    assert accepted.code == 0, accepted.err
