"""What a run may ask of the target: how many reads, how many at a time, and bodies of which size."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from streammig.context import Context, Stop, Times
from streammig.delivery.barrier import Barrier
from streammig.delivery.folder import Unlimited
from streammig.delivery.reads import Reads
from streammig.delivery.sizes import Sizes, shares
from streammig.model import Position, Record
from streammig.target import Seen
from streammig.telemetry import Notice, Waiting
from tests.memory_target import MemoryTarget
from tests.test_isolation import Room, ids, in_room
from tests.virtual import VirtualClock, run_virtual

RECORDS = [Record(Position(0, nth * 10, 9, nth + 1), 0, f"c{nth}", b"{}", 1) for nth in range(600)]


@dataclass
class Slow(MemoryTarget):
    """Each read takes five seconds."""

    asked: int = 0
    most: int = 0
    says: str = ""

    async def visible(self, stage: str, record: Record) -> Seen:
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(5.0)
        self.under_way -= 1
        self.misread = self.says
        return Seen.CANT_TELL if self.says else Seen.ALL


def reading(says: str, stop_after: float = math.inf) -> tuple[Slow, list[Notice], float]:
    async def main() -> tuple[Slow, list[Notice], float]:
        clock, told, stop = VirtualClock(), list[Notice](), Stop()
        target = Slow(clock, Random(1), says=says)
        context = Context(clock, Random(1), told.append, stop, Times(60.0, 600.0))
        if stop_after < math.inf:
            asyncio.get_running_loop().call_later(stop_after, stop.set)
        await Reads(target, context, 4).all_retried("customers", RECORDS, "reading back all 600 owners")
        return target, told, asyncio.get_running_loop().time()

    return run_virtual(main())


def test_many_reads_go_side_by_side_and_are_told_with_count_and_end() -> None:
    target, told, seconds = reading("")
    assert (target.asked, target.most) == (600, 4)
    assert seconds == pytest.approx(5.0 * 600 / 4, abs=10)
    first, second, *_ = [it for it in told if isinstance(it, Waiting)]
    assert (first.code, second.code) == ("reading-back", "reading-back")
    assert "of 600 reads made" in second.reason
    assert second.seconds == pytest.approx(seconds - 60, rel=0.1)


def test_reads_whose_answers_say_nothing_end_after_five_rounds_of_a_few() -> None:
    assert reading("200 with null")[0].asked == 25


def test_reads_end_at_once_when_the_run_is_to_stop() -> None:
    assert reading("", stop_after=42.0)[2] == pytest.approx(42.0, abs=0.1)


@pytest.mark.parametrize(("largest", "requests"), [(450, 35), (900, 22), (299, 48), (1000, 10)])
def test_a_413_teaches_the_size_that_passes(largest: int, requests: int) -> None:
    """Ten bodies of 1,000 bytes each, in parts of any size."""
    sizes, made, todo = Sizes(), 0, [1000.0] * 10
    while todo:
        size = todo.pop()
        if sizes.takes(int(size)):
            made += 1
            if size <= largest:
                sizes.accept(int(size))
                continue
            sizes.refuse(int(size))
        count = sizes.parts(int(size))
        todo += [size / count] * count
    assert made <= requests


def test_a_batch_is_shared_out_by_owner_in_order_and_in_equal_sizes() -> None:
    for count in (2, 3, 7, 600, 900):
        groups = shares(RECORDS, count)
        assert [it for group in groups for it in group] == RECORDS
        assert len(groups) == min(count, 600)
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert len(shares(RECORDS[:1] * 3, 2)) == 1


@pytest.mark.parametrize(("spare", "reads"), [(math.inf, 10), (100.0, 4), (41.0, 2), (7.0, 1)])
def test_i7_a_barrier_takes_a_twentieth_of_the_reads_that_are_left_and_at_least_one(
    tmp_path: Path, spare: float, reads: int
) -> None:
    class Spare(Unlimited):
        async def spare(self) -> float:
            return spare

    async def story(room: Room) -> None:
        for start in range(0, 50, 10):
            room.seal(*ids(10, start))
        await room.run()
        room.target.settle()
        target = Slow(room.clock, Random(1))
        barrier = Barrier(Reads(target, room.context), Spare(), room.store, room.context)
        assert await barrier.wait("customers")
        assert target.asked == reads

    in_room(tmp_path, story)
