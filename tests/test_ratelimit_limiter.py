"""Pacing under a virtual clock: windows strict at the target, over restarts, crashes and several processes."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from streammig.errors import MachineFault, TargetStop
from streammig.ratelimit import OFF, AccountState, Limits, RateLimiter, Window
from streammig.ratelimit.state import Taken
from streammig.telemetry import Notice, Notify, Waiting, ignore
from tests.problems import raises
from tests.shares import share
from tests.virtual import Inline, VirtualClock, VirtualLoop, run_virtual, virtual

GAP = Limits((Window(1, 5.0),))
DEV = Limits((Window(1, 5.0), Window(250, 3600.0)), (Window(1000, 86400.0),))
PROD = Limits((Window(1, 5.0), Window(1000, 3600.0)))


class Strict:
    """A target that keeps strict sliding windows and remembers every violation."""

    def __init__(self, limits: Limits) -> None:
        self._windows = [(kind, window, deque[float]()) for kind, window in limits.counted("migration")]
        self.arrivals = 0
        self.violations: list[tuple[str, float]] = []

    def arrive(self, at: float, kind: str = "migration") -> None:
        self.arrivals += 1
        for counted, window, seen in self._windows:
            if counted == "migration" and kind != "migration":
                continue
            while seen and seen[0] <= at - window.seconds:
                seen.popleft()
            if len(seen) >= window.count:
                self.violations.append((str(window), at))
            seen.append(at)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as one:
        yield one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts" / "acme.sqlite"


@asynccontextmanager
async def opened(
    path: Path, limits: Limits, executor: Executor, clock: VirtualClock | None = None, notify: Notify = ignore
) -> AsyncIterator[RateLimiter]:
    file = AccountState(path)
    limiter = RateLimiter(file, limits, clock or VirtualClock(), executor, notify=notify)
    try:
        yield limiter
        await limiter.close()
    finally:
        file.close()


@pytest.mark.parametrize(
    ("requests", "connecting", "jitter"),
    [(1000, (0.0, 0.0), 0.08), (500, (0.15, 0.17), 0.06)],  # three round trips to connect
)
@virtual()
async def test_i7_a_jittering_link_and_slow_connections_get_no_429_and_98_percent_of_the_slots(
    path: Path, executor: ThreadPoolExecutor, requests: int, connecting: tuple[float, float], jitter: float
) -> None:
    rng, loop, target = random.Random(7), asyncio.get_running_loop(), Strict(GAP)
    async with opened(path, GAP, executor) as limiter:
        begun = limiter.now()
        for _ in range(requests):
            permit = await limiter.acquire()
            await asyncio.sleep(rng.uniform(*connecting))
            permit.sent()
            if connecting[0]:
                limiter.answered(0.3)
            loop.call_later(rng.uniform(0, jitter), lambda: target.arrive(loop.time()))
        elapsed = limiter.now() - begun
    assert target.violations == []
    assert requests / (elapsed / 5 + 1) >= 0.98


@virtual()
async def test_i7_a_late_start_followed_by_a_prompt_one_keeps_the_gap(path: Path, executor: ThreadPoolExecutor) -> None:
    sent: list[float] = []

    async def worker(limiter: RateLimiter, late: float) -> None:
        permit = await limiter.acquire()
        await asyncio.sleep(late)
        sent.append(limiter.now())
        permit.sent()
        permit.sent()

    async with opened(path, GAP, executor) as limiter:
        await asyncio.gather(worker(limiter, 7.0), worker(limiter, 0.0), worker(limiter, 0.0))
    assert min(later - earlier for earlier, later in itertools.pairwise(sent)) >= 5.0
    assert sent[-1] - sent[0] < 10.5


@virtual()
async def test_first_come_is_first_served(path: Path, executor: ThreadPoolExecutor) -> None:
    served: list[int] = []

    async def worker(limiter: RateLimiter, number: int) -> None:
        permit = await limiter.acquire()
        served.append(number)
        permit.sent()

    async with opened(path, GAP, executor) as limiter:
        await asyncio.gather(*(worker(limiter, number) for number in range(12)))
    assert served == list(range(12))


@virtual()
async def test_reads_do_not_wait_behind_migration_requests_and_are_spread(
    path: Path, executor: ThreadPoolExecutor
) -> None:
    async with opened(path, PROD, executor) as limiter:
        begun = limiter.now()
        (await limiter.acquire()).sent()
        second = asyncio.create_task(limiter.acquire())
        for _ in range(11):
            await limiter.read()
        spent, waiting = limiter.now() - begun, not second.done()
        (await second).sent()
    assert spent == pytest.approx(2.0, abs=0.1)
    assert waiting


@virtual()
async def test_without_limits_nobody_waits_and_slots_share_a_commit_until_the_target_asks_to_wait(
    path: Path, executor: ThreadPoolExecutor
) -> None:
    commits: list[int] = []

    class Counted(AccountState):
        def take(self, *asked) -> Taken:  # type: ignore[no-untyped-def]
            taken = super().take(*asked)
            commits.append(len(taken.starts))
            return taken

    file = Counted(path)
    limiter = RateLimiter(file, OFF, VirtualClock(), executor)
    begun = limiter.now()
    permits = await asyncio.gather(*(limiter.acquire() for _ in range(200)))
    for permit in permits:
        permit.sent()
    await limiter.read()
    for _ in range(200):
        await limiter.acquire()  # one after the other
    assert limiter.now() == begun
    assert len(commits) <= 4
    await limiter.pause_for(30.0)
    await limiter.acquire()
    file.close()
    assert (limiter.now() - begun) == pytest.approx(30.0, abs=0.1)


@pytest.mark.parametrize("moment", [0.0, 1.0])
@virtual()
async def test_cancelled_while_waiting_takes_no_start_and_leaves_the_line_whole(
    path: Path, executor: ThreadPoolExecutor, moment: float
) -> None:
    async with opened(path, GAP, executor) as limiter:
        begun = limiter.now()
        (await limiter.acquire()).sent()
        tasks = [asyncio.create_task(limiter.acquire()) for _ in range(4)]
        await asyncio.sleep(moment)
        for number in (0, 2):
            tasks[number].cancel()
        for task in (tasks[1], tasks[3]):
            (await task).sent()
        assert tasks[0].cancelled()
        assert tasks[2].cancelled()
        await limiter.close()
        assert len(limiter.state.starts(Limits((Window(9, 60.0),)), limiter.now()).migration) == 3
        assert limiter.now() - begun == pytest.approx(10.17, abs=0.05)


class Slow(AccountState):
    """Cancels a task while its work is under way in the thread, once it is armed."""

    victim: asyncio.Task[object] | None = None

    def _cancel(self) -> None:
        victim, self.victim = self.victim, None
        if victim is not None:
            loop = victim.get_loop()
            loop.call_soon_threadsafe(victim.cancel)
            # Two rounds of the loop later the cancel has been delivered.
            for _ in range(2):
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(5)

    def take(self, *asked) -> Taken:  # type: ignore[no-untyped-def]
        self._cancel()
        return super().take(*asked)

    def hold(self, until: float) -> None:
        self._cancel()
        super().hold(until)


@pytest.mark.parametrize("victim", [0, 1])
@virtual()
async def test_cancelled_while_its_start_is_written_it_is_given_back(
    path: Path, executor: ThreadPoolExecutor, victim: int
) -> None:
    """The first of the line, and one for whom the first asks."""
    file = Slow(path)
    limiter = RateLimiter(file, Limits((Window(3, 5.0),)), VirtualClock(), executor)
    await limiter.pause_for(1.0)
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(2)]
    await asyncio.sleep(0.5)
    file.victim = tasks[victim]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[victim], asyncio.CancelledError)
    assert not isinstance(results[1 - victim], BaseException)
    await limiter.close()
    used = file.starts(limiter.limits, limiter.now()).usage(limiter.limits, limiter.now())[0].used
    file.close()
    assert used == 1


@virtual()
async def test_a_hold_is_written_also_when_its_caller_is_cancelled(path: Path, executor: ThreadPoolExecutor) -> None:
    file = Slow(path)
    limiter = RateLimiter(file, OFF, VirtualClock(), executor)
    task = asyncio.create_task(limiter.pause_for(60.0))
    file.victim = task
    with pytest.raises(asyncio.CancelledError):
        await task
    await limiter.acquire()
    file.close()
    assert asyncio.get_running_loop().time() == pytest.approx(60.0, abs=0.01)


@pytest.mark.parametrize(
    ("jumps", "between", "reboot", "gaps", "said"),
    [
        ((3600, -7200, 86400), False, False, [5, 5, 5], False),
        ((3600, -7200, 86400), True, False, [5, 5, 5], False),
        ((-3600,), True, True, [5], True),  # what lies in the future counts as made now
        ((3600,), True, True, [0], False),  # nobody can tell how long the machine was down
    ],
)
@virtual()
async def test_i7_a_wall_clock_that_is_set_changes_nothing_but_over_a_reboot(
    path: Path, executor: ThreadPoolExecutor, jumps: tuple[int, ...], between: bool, reboot: bool, gaps: list[int],
    said: bool,
) -> None:  # fmt: skip
    clock, sent, words = VirtualClock(), [], ""
    async with AsyncExitStack() as stack:
        for jump in (0, *jumps):
            clock.jump(jump)
            clock.start = f"after {jump} s" if reboot else clock.start
            if between or not jump:
                await stack.aclose()
                limiter = await stack.enter_async_context(opened(path, GAP, executor, clock))
                words = await limiter.enter("run")
            (await limiter.acquire()).sent()
            sent.append(asyncio.get_running_loop().time())
    assert [round(later - earlier) for earlier, later in itertools.pairwise(sent)] == gaps
    assert words.startswith("1 request of this account lies in the future") == said


@virtual()
async def test_a_hold_outlasts_a_restart_and_of_more_than_a_day_stops(path: Path, executor: ThreadPoolExecutor) -> None:
    clock = VirtualClock()
    async with opened(path, OFF, executor, clock) as limiter:
        await limiter.pause_for(86400)
        await limiter.pause_for(-5)
        with raises(TargetStop, "retry-after-too-long"):
            await limiter.pause_for(90_000)
    async with opened(path, OFF, executor, clock) as limiter:
        await limiter.acquire()
        assert asyncio.get_running_loop().time() == pytest.approx(86400, abs=0.01)


@pytest.mark.parametrize(
    ("limits", "asked", "kind", "code"),
    [
        (DEV, 30.0, "migration", "held"),
        (DEV, 30.0, "general", "held"),
        (DEV, 1.5, "migration", ""),
        (GAP, 0.0, "migration", ""),  # the pace itself
        (Limits((Window(1, 5.0), Window(2, 600.0))), 0.0, "migration", "limit"),
        (Limits((), (Window(2, 600.0),)), 0.0, "general", "limit"),
    ],
)
@virtual()
async def test_a_wait_of_more_than_two_seconds_is_told_once_with_its_reason_and_end(
    path: Path, executor: ThreadPoolExecutor, limits: Limits, asked: float, kind: Literal["migration", "general"],
    code: str,
) -> None:  # fmt: skip
    told: list[tuple[float, Notice]] = []
    end: list[float] = []
    clock, now = VirtualClock(), asyncio.get_running_loop().time
    async with opened(path, limits, executor, clock) as earlier:
        await earlier.pause_for(asked)
    async with opened(path, limits, executor, clock, lambda it: told.append((now(), it))) as limiter:
        for _ in range(3 - bool(asked)):
            (await limiter.acquire(kind)).sent()
        end.append(now())
    assert [it.json()["code"] for _, it in told] == [code] * bool(code)
    for at, it in told:
        assert isinstance(it, Waiting)
        assert at + (it.seconds or 0) == pytest.approx(30.0 if asked else end[0], abs=0.5)


@pytest.mark.parametrize(
    ("limits", "limit", "remaining", "reset", "waited"),
    [
        (DEV, 250, 0, 600, 600),
        (DEV, None, 0, 30, 30),
        (DEV, 250, 1, 600, 0),
        (DEV, None, None, 600, 0),
        (DEV, 250, 0, None, 0),
        (DEV, 250, 0, -4, 0),
        (DEV, 1, 0, 5, 0),
        (DEV, 1, 0, 60, 60),
        (DEV, 9999, 9999, 0, 0),
        (PROD, 250, 0, 86_400, 3600),
        (OFF, 250, 0, 600, 0),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_headers_may_only_slow_down_and_never_for_longer_than_the_longest_window(
    path: Path, executor: ThreadPoolExecutor, limits: Limits, limit: float | None, remaining: float | None,
    reset: float | None, waited: float, restart: bool,
) -> None:  # fmt: skip
    async def main() -> float:
        clock = VirtualClock()
        async with opened(path, limits, executor, clock) as limiter:
            await limiter.observe(limit, remaining, reset)
            if not restart:
                await limiter.acquire()
                return asyncio.get_running_loop().time()
        async with opened(path, limits, executor, clock) as limiter:
            await limiter.acquire("general")
            assert asyncio.get_running_loop().time() < 1
            await limiter.acquire()
            return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(waited, abs=0.01)


@pytest.mark.parametrize(("all_sent", "least", "most"), [(False, 1.8, 3.0), (True, 0.0, 0.1)])
@virtual()
async def test_reads_are_spread_beside_requests_and_no_more_once_all_is_sent(
    path: Path, executor: ThreadPoolExecutor, all_sent: bool, least: float, most: float
) -> None:
    async with opened(path, GAP, executor) as limiter:
        if all_sent:
            limiter.all_sent()
        for _ in range(10):
            await limiter.read()
        assert least <= asyncio.get_running_loop().time() <= most


@pytest.mark.parametrize(("age", "waited"), [(1.0, 10), (8.0, 10), (30.0, 600)])
@virtual()
async def test_headers_of_a_later_request_that_has_some_left_end_a_wait(
    path: Path, executor: ThreadPoolExecutor, age: float, waited: float
) -> None:
    """`age` is how long before its answer, ten seconds on, the other request left: not before the first one."""
    async with opened(path, DEV, executor) as limiter:
        await limiter.observe(250, 0, 600, 5.0)
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(10)
        await limiter.observe(250, 240, 600, age)
        await waiting
        assert asyncio.get_running_loop().time() == pytest.approx(waited, abs=60.0 if waited < 60 else 0.1)


@virtual()
async def test_a_start_that_nothing_left_for_is_free_again(path: Path, executor: ThreadPoolExecutor) -> None:
    async with opened(path, GAP, executor) as limiter:
        permit = await limiter.acquire()
        permit.unsent()
        permit.unsent()
        permit.sent()
        await limiter.acquire()
        assert asyncio.get_running_loop().time() == 0.0


@virtual()
async def test_i2_where_the_file_cannot_be_written_nobody_gets_a_slot(path: Path, executor: ThreadPoolExecutor) -> None:
    async with opened(path, GAP, executor) as limiter:
        permit = await limiter.acquire()
        await asyncio.get_running_loop().run_in_executor(executor, limiter.state._db.execute, "PRAGMA query_only = ON")
        permit.sent()  # its word is lost, which is said at the next permit
        results = await asyncio.gather(*(limiter.acquire() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [MachineFault] * 3


def test_short_windows_get_the_margin_that_the_link_was_seen_to_need(path: Path, executor: ThreadPoolExecutor) -> None:
    limits = Limits((Window(1, 0.05),))

    async def main(jitter: float) -> float:
        rng = random.Random(3)
        async with opened(path, limits, executor) as limiter:
            for number in range(100):
                if number == 50:
                    begun = limiter.now()
                permit = await limiter.acquire()
                permit.sent()
                limiter.answered(0.01 + rng.uniform(0, jitter))
            return (limiter.now() - begun) / 50

    calm = run_virtual(main(0.0))
    path.unlink()
    noisy = run_virtual(main(0.03))
    assert calm == pytest.approx(0.06, abs=0.002)
    assert 0.08 < noisy < 0.1


def _one_account(seed: int, hours: float, limits: Limits, folder: Path) -> float:
    """Crashes, restarts and second processes at random for some hours; returns the share of the allowance used."""
    rng = random.Random(seed)
    target = Strict(limits)
    path = folder / f"{seed}.sqlite"
    ends = hours * 3600

    async def work(limiter: RateLimiter, clock: VirtualClock) -> None:
        while True:
            permit = await limiter.acquire()
            await asyncio.sleep(rng.uniform(0.001, 0.02))
            permit.sent()
            asyncio.get_running_loop().call_later(rng.uniform(0, 0.08), lambda: target.arrive(clock.time()))

    async def main() -> None:
        clock = VirtualClock()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        while loop.time() < ends:
            async with opened(path, limits, Inline(), clock) as limiter:
                await limiter.enter("run")
                workers = [asyncio.create_task(work(limiter, clock)) for _ in range(rng.choice((1, 4)))]
                await asyncio.sleep(min(rng.expovariate(1 / 7200), ends - loop.time()) + 0.01)
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    run_virtual(main())
    assert target.violations == [], f"seed {seed}"
    allowed = min(window.count * math.ceil(ends / window.seconds) for _, window in limits.counted("migration"))
    return target.arrivals / allowed


@pytest.mark.parametrize(("limits", "hours"), [(DEV, 6.0), (PROD, 1.0)])
def test_i7_limits_hold_over_restarts_for_some_hours(tmp_path: Path, limits: Limits, hours: float) -> None:
    assert _one_account(2, hours, limits, tmp_path) >= 0.95  # the first hours of a budget are coarse


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(share(50)))
def test_i7_limits_hold_over_restarts_for_three_days(tmp_path: Path, seed: int) -> None:
    # Three days take a minute and more to play on production limits; CI plays one.
    used = _one_account(seed, max(24, share(72)), DEV if seed % 5 else PROD, tmp_path)
    assert used >= 0.98, f"seed {seed}: {used:.4f} of the allowance was used"
