"""The virtual loop is a tool of other tests, so it has tests of its own."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiolimiter import AsyncLimiter

from tests.virtual import EPOCH, Stuck, VirtualClock, run_virtual


def test_days_pass_in_no_time_and_in_order() -> None:
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, asyncio.get_running_loop().time()))

    async def main() -> float:
        clock = VirtualClock()
        await asyncio.gather(sleeper("long", 259_200), sleeper("short", 5), sleeper("middle", 90_000))
        return clock.time()

    begun = time.monotonic()
    assert run_virtual(main()) == pytest.approx(EPOCH + 259_200, abs=1e-4)
    assert time.monotonic() - begun < 5
    assert [(name, round(moment, 4)) for name, moment in seen] == [("short", 5), ("middle", 90_000), ("long", 259_200)]


def test_time_stands_still_while_the_executor_is_busy() -> None:
    async def main(executor: ThreadPoolExecutor) -> tuple[float, bool]:
        loop = asyncio.get_running_loop()
        timer = asyncio.create_task(asyncio.sleep(0.001))
        await loop.run_in_executor(executor, time.sleep, 0.05)
        return loop.time(), timer.done()

    with ThreadPoolExecutor(1) as executor:
        assert run_virtual(main(executor)) == (0.0, False)


def test_a_cancelled_call_still_holds_time_until_its_thread_is_done() -> None:
    done: list[float] = []

    async def main(executor: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()

        def work() -> None:
            time.sleep(0.05)
            done.append(loop.time())

        call = loop.run_in_executor(executor, work)
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.sleep(3600)

    with ThreadPoolExecutor(1) as executor:
        run_virtual(main(executor))
    assert done == [0.0]


def test_a_simple_limiter_makes_progress() -> None:
    async def main() -> float:
        limiter = AsyncLimiter(1, 0.2)
        for _ in range(101):
            await limiter.acquire()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(20.0, abs=0.01)


def test_waiting_for_nothing_is_an_error_and_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run_virtual(main())


def test_an_executor_must_be_passed() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)

    with pytest.raises(TypeError, match="executor"):
        run_virtual(main())


def test_the_wall_clock_can_jump_while_the_loops_own_time_does_not() -> None:
    async def main() -> tuple[float, float]:
        clock = VirtualClock(start=1000.0)
        clock.jump(-300.0)
        await asyncio.sleep(7)
        return clock.time(), asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx((707.0, 7.0), abs=1e-4)
