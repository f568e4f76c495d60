"""A run of eight days that is stopped every few hours leaves nothing behind, and nothing of it grows."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from streammig.cli.announce import Events
from streammig.migration import Migration
from streammig.report.live import JsonLines, Lines
from streammig.telemetry import Answered, Notice
from tests.virtual import virtual
from tests.world import new_world, write_export

DAYS, HOURS = 8, 5  # how long it takes, and how often it is stopped
CUSTOMERS, LIMITS = 2_000, "1/1100s"
LOG, START = 1_000, 3_000  # bytes of either form of the log: for each request, and for each start
CHECKPOINT = 1_000  # bytes of the checkpoint for each request
STATE = 300_000  # bytes of the state folder
KEPT = {"run.checkpoint", "run.checkpoint.lock", "run.checkpoint.outbox", "state"}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@virtual()
async def test_eight_days_with_a_stop_every_few_hours_leave_no_file_no_task_and_no_descriptor(tmp_path: Path) -> None:
    world = new_world(tmp_path, 3, CUSTOMERS, {"429": 0.01})
    keys = write_export(tmp_path, CUSTOMERS, world.rng)
    exports = names_in(tmp_path)
    world.settings |= {"limits": LIMITS}
    stream, lines, requests = io.StringIO(), io.StringIO(), 0
    now = world.clock.time
    tells: list[Callable[[Notice], object]] = [JsonLines(stream, now), Lines(lines, now), Events(clock=now).hear]

    def hear(notice: Notice) -> None:
        nonlocal requests
        requests += isinstance(notice, Answered)
        for tell in tells:
            tell(notice)

    async def for_hours(migration: Migration) -> bool:
        asyncio.get_running_loop().call_later(HOURS * 3_600.0, migration.drain)
        return await migration.run()

    world.watch = hear
    begun, lives, before, done = now(), 0, 0, False
    while not done:
        done = await world.live(for_hours)
        assert isinstance(done, bool), done
        lives += 1
        assert asyncio.all_tasks() == {asyncio.current_task()}
        before = before or descriptors()
        assert descriptors() <= before
        assert names_in(tmp_path) - exports <= KEPT
        await asyncio.sleep(60.0)
    assert now() - begun > DAYS * 86_400
    assert lives > DAYS * 24 / HOURS * 0.9
    assert set(world.target.customers) == keys["customers"]
    assert max([*world.target.customers.values(), *world.target.events.values()]) == 1
    for log in (stream, lines):
        assert len(log.getvalue().encode()) < LOG * requests + START * lives
    assert bytes_in(tmp_path / "run.checkpoint.outbox") == 0
    assert (tmp_path / "run.checkpoint").stat().st_size / requests < CHECKPOINT
    assert bytes_in(tmp_path / "state") < STATE
