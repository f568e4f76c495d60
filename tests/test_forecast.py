"""Time left: what is told at any moment is what it then takes, under every window, over resumes and settle times."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streammig.checkpoint import Checkpoint
from streammig.masivo.limits import PRESETS
from streammig.migration import Migration
from streammig.model import Place
from streammig.ratelimit import (
    OFF,
    AccountState,
    Limits,
    RateLimiter,
    Starts,
    Window,
    parse_hours,
    parse_limits,
    part_of,
    starts_of,
)
from streammig.report.document import document
from streammig.report.forecast import Leg, forecast
from streammig.report.progress import requests_left
from streammig.report.reports import pace_of
from streammig.report.watch import Watch
from streammig.telemetry import Account, Answered, Expected, Notice, RunBegan, StageBegan
from tests.virtual import Inline, VirtualClock, run_virtual, virtual
from tests.world import new_world, write_export

NEAR = 0.10  # of what it takes
SLACK = 2.0  # seconds: the last of a stage may be a request more or less


def near(told: float, true: float) -> bool:
    return abs(told - true) <= max(NEAR * true, SLACK)


# The limits of the proofs of pacing, with so many requests that each window bites; a share of them, and timetables.
SCHEDULES = [
    ("1/5s", 300, 1.0, ""), ("1/5s,500/1h", 1_500, 1.0, ""), ("1/5s,1000/1h", 1_200, 1.0, ""),
    ("1/1s,25/90s", 60, 1.0, ""), ("12/50s", 60, 1.0, ""), ("1/0.5s,40/60s;general=60/100s", 200, 1.0, ""),
    ("1/0.05s,2000/100s", 3_000, 1.0, ""), ("1/5s,250/1h;general=1000/1d", 1_300, 1.0, ""),
    ("1/5s,1000/1h", 600, 0.5, ""), ("1/5s,700/1h", 1_500, 1.0, "21:00-23:00; else 20%"),
    ("1/5s,700/1h", 900, 0.8, "22:00-22:45 50%; 23:30-24:00"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("text", "count", "share", "timetable"), SCHEDULES)
def test_time_left_is_true_at_every_moment_also_right_after_a_resume(
    tmp_path: Path, text: str, count: int, share: float, timetable: str
) -> None:
    limits, latency, lanes = part_of(parse_limits(text, {}), share), 0.05, 4
    hours = parse_hours(timetable, "UTC")

    async def main() -> list[tuple[float, int, float]]:
        clock, told = VirtualClock(), []
        file = AccountState(tmp_path / "account.sqlite")
        limiter = RateLimiter(file, limits, clock, Inline(), hours=hours)
        for made in range(count):
            if made == count // 3:  # down for a while, then another process goes on
                await limiter.close()
                await asyncio.sleep(40)
                limiter = RateLimiter(file, limits, clock, Inline(), hours=hours)
            if made % (count // 30) == 0 or made in (count // 3, count // 3 + 1):
                left = Leg(count - made, settle=60.0)
                made_so_far = file.starts(limits, clock.time())
                found = forecast([left], limits, made_so_far, clock.time(), latency, lanes, hours)
                told.append((clock.time(), made, found.ends[0]))
            permit = await limiter.acquire()
            permit.sent()
        end = clock.time() + latency + 60.0
        await limiter.close()
        file.close()
        return [(now, made, abs((told_end - now) - (end - now)) / (end - now)) for now, made, told_end in told
                if made >= count // 3 or made == 0]  # fmt: skip

    wrong = run_virtual(main())
    # Before the stop nobody can know of it; it takes 40 s.
    worst = [it for it in wrong[1:] if it[2] > NEAR]
    assert worst == []


@pytest.mark.parametrize(
    ("limits", "left", "seconds"),
    [
        (OFF, [Leg(1_000)], 1_000 * 0.1 / 4),
        (Limits((Window(1, 5.0),)), [Leg(1)], 0.1),
        (Limits((Window(1, 5.0),)), [Leg(0)], 0.0),
        (Limits((Window(1, 5.0),)), [Leg(0, settle=30.0, settled=90.0)], 20.0),  # 10 of 30 s are over
        (Limits((Window(1, 5.0),)), [Leg(0, settle=30.0, settled=0.0)], 0.0),
        (PRESETS["prod"], [Leg(100_000)], 100_000 * 5.085),
        (PRESETS["dev"], [Leg(41_000)], 40 * 86_400.0 + 3 * 3_600.0 + 1_250.0),
        (Limits((Window(10, 50.0),)), [Leg(10), Leg(10), Leg(10, settle=7.0)], 107.0),
    ],
)
def test_what_is_left_is_counted_by_requests_windows_and_settle_times(
    limits: Limits, left: list[Leg], seconds: float
) -> None:
    found = forecast(left, limits, Starts(), 100.0, 0.1, 4)
    assert found.ends[-1] - 100.0 == pytest.approx(seconds, rel=0.02, abs=0.5)
    assert list(found.ends) == sorted(found.ends)


def test_the_next_request_starts_when_each_window_and_the_hold_allow_it() -> None:
    limits = parse_limits("1/5s,3/100s;general=4/200s", {})
    made = Starts([10.0, 20.0, 90.0], [5.0, 10.0, 20.0, 90.0])
    assert forecast([], limits, made, 99.0, 0.1, 4).next == pytest.approx(205.085)
    assert forecast([], limits, made._replace(hold=300.0), 99.0, 0.1, 4).next == 300.0
    assert forecast([], limits, Starts(), 99.0, 0.1, 4).next == 99.0


def test_a_hold_delays_what_is_to_be_requested_and_nothing_else() -> None:
    limits, held = parse_limits("1/5s;general=4/200s", {}), Starts(hold=130.0)
    legs = Leg(0, settle=30.0, settled=90.0), Leg(0, reads=1), Leg(1)
    ends = [forecast([leg], limits, held, 100.0, 0.1, 4).ends[0] for leg in (Leg(0), *legs)]
    assert ends == [pytest.approx(end, abs=0.3) for end in (100.0, 120.0, 130.0, 130.0)]


@pytest.mark.parametrize(
    ("account", "left"),
    [
        (Account(), None),
        (Account(expected=Expected(12.5)), 12.5),
        (Account(Place(0, 500), (1_000,), made=4, waiting=1), 5.0),
        (Account(Place(0, 0), (1_000,), made=4, waiting=4, bytes=400), 4 + 6.0),  # bins are sealed out of order
        (Account(Place(0, 0), (1_000,), made=4, bytes=800, expected=Expected(9, 2.0)), 5.4),
        (Account(Place(0, 60), (1_000,), made=1, expected=Expected(5)), 4.7),  # a pilot without a check
        (Account(Place(0, 1_000), (1_000,), made=4, waiting=2, complete=True), 2),
        (Account(Place(1, 0), (600, 400), made=6), 4.0),
        (
            Account(Place(0, 60), (1_000,), read=300, made=1, expected=Expected(5, units=5_000)),
            4.7,
        ),  # cut short: a pilot
    ],
)
def test_requests_left_are_those_sealed_and_what_the_unread_part_will_take(
    account: Account, left: float | None
) -> None:
    assert requests_left(account) == (pytest.approx(left) if left else left)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "customers", "stops"),
    [("1/5s", 3_000, ""), ("1/1s,25/90s", 2_000, ""), ("12/50s", 2_000, ""), ("1/5s", 1_000, "transactions")],
)
@virtual()
async def test_bars_and_status_tell_the_time_left_of_the_whole_job_from_the_first_request_on_also_of_a_resume(
    tmp_path: Path, limits: str, customers: int, stops: str
) -> None:
    world = new_world(tmp_path, 5, customers)
    write_export(tmp_path, customers, world.rng)
    world.target.weather.read = 0.8  # four at a time, as the rate limiter spaces them by 0.2 s
    world.settings |= {"limits": limits, "max_bytes": 40_000}
    told: list[tuple[float, str, float]] = []
    watch: list[Watch] = []
    running: list[Migration] = []

    async def run(migration: Migration) -> bool:
        running[:] = [migration]
        return await migration.run()

    def hear(notice: Notice) -> None:
        if isinstance(notice, RunBegan):
            watch[:] = [Watch(world.clock.time)]
            told.clear()
        if stops and isinstance(notice, Answered) and (notice.batch.stage, notice.batch.seq) == (stops, 7):
            running[0].drain()
        if not watch:
            return
        watch[0].hear(notice)
        now = world.clock.time()
        if (isinstance(notice, Answered) and notice.batch.seq % 10 == 0) or isinstance(notice, StageBegan | RunBegan):
            ahead = watch[0].ahead()
            file = Checkpoint.open(tmp_path / "run.checkpoint", read_only=True)
            found = document(file, running=True, pace=pace_of(file, now), now=now)["seconds_left"]
            file.close()
            assert ahead is not None
            assert ahead.whole is not None
            assert found is not None
            told.extend([(now, "bar", ahead.whole), (now, "status", found)])

    world.watch = hear
    if stops:
        assert await world.live(run) is False
        await asyncio.sleep(3_600.0)  # for so long nobody looks at it
    assert await world.live(run) is True
    end = world.clock.time()
    assert len(told) > (2 if stops else 20)
    wrong = [(round(now - told[0][0]), who, round(left), round(end - now)) for now, who, left in told
             if not near(left, end - now)]  # fmt: skip
    assert wrong == [], wrong


def test_an_account_that_was_never_used_has_nothing_to_wait_for(tmp_path: Path) -> None:
    assert starts_of(tmp_path / "none.sqlite", OFF, 1.0) == Starts()
