"""What waits for a run: stopped at once, without tasks of its own; and several batches sealed in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from streammig.checkpoint import Checkpoint
from streammig.context import Stop, until_stopped
from streammig.errors import Unusable
from streammig.model import Batch
from streammig.stage import StageReader, Step, Steps
from tests.problems import raises
from tests.virtual import Inline, virtual


@pytest.mark.parametrize(
    ("stopped_at", "goes_on", "found", "ended"),
    [
        (None, False, "done", 10.0),
        (4.0, False, None, 4.0),
        (4.0, True, "done", 10.0),
        (0.0, False, None, 0.0),
        (11.0, False, "done", 10.0),
    ],
)  # fmt: skip
@virtual()
async def test_a_wait_ends_at_once_when_the_run_is_to_stop_unless_it_must_go_on(
    stopped_at: float | None, goes_on: bool, found: str | None, ended: float
) -> None:
    async def work() -> str:
        await asyncio.sleep(10.0)
        return "done"

    loop, stop = asyncio.get_running_loop(), Stop()
    if stopped_at == 0.0:
        stop.set()
    elif stopped_at is not None:
        for _ in range(2):  # an abort behind a drain
            loop.call_at(stopped_at, stop.set)
    before = len(asyncio.all_tasks())
    result = await until_stopped(stop, work(), unless=lambda: goes_on)
    at, task = loop.time(), asyncio.current_task()
    await asyncio.sleep(5.0)  # no cancel is left over
    assert task is not None
    assert len(asyncio.all_tasks()) == before
    result, at, cancelling = result, at, task.cancelling()
    assert (result, cancelling) == (found, 0)
    assert at == pytest.approx(ended, abs=0.01)


@virtual()
async def test_a_wait_within_a_wait_ends_with_it() -> None:
    loop, stop = asyncio.get_running_loop(), Stop()
    loop.call_at(4.0, stop.set)
    assert await until_stopped(stop, until_stopped(stop, asyncio.sleep(10.0, "done"))) is None
    await asyncio.sleep(1.0)
    assert loop.time() == pytest.approx(5.0, abs=0.01)


@virtual()
async def test_a_wait_that_is_cancelled_as_the_run_stops_is_cancelled() -> None:
    stop = Stop()
    waiting = asyncio.ensure_future(until_stopped(stop, asyncio.sleep(10.0)))
    await asyncio.sleep(1.0)
    stop.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@dataclass
class Noted:
    """A step that puts nothing anywhere."""

    number: int
    progress: None = None
    sealed: list[Batch] = field(default_factory=list)

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        return self.sealed


class Ready(Steps):
    """Steps that are all there."""

    ready = True


def numbered(count: int) -> Iterator[Step]:
    yield from map(Noted, range(count))
    raise Unusable("export-changed", "the export has changed", "Put it back.")


@pytest.mark.parametrize(("feed", "most", "sizes"), [(Ready, 4, [4, 2]), (Ready, 1, [1] * 6), (Steps, 4, [1] * 6)])
@virtual()
async def test_what_is_ready_is_sealed_together_and_a_problem_behind_it_comes_after_it(
    feed: type[Steps], most: int, sizes: list[int]
) -> None:
    reading = StageReader(feed(numbered(6)), Inline())
    found = [len(await reading.next(most)) for _ in sizes]
    with raises(Unusable, "export-changed"):
        await reading.next(most)
    assert found == sizes
