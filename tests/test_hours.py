"""A timetable lets a run send only then, or at a share of its limits; its time left counts with that."""

from __future__ import annotations

import datetime
import math
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from streammig.dead_letters.limit import DeadLimit, parse_dead_limit
from streammig.errors import TooManyDead, Unusable
from streammig.model import Tally
from streammig.ratelimit import AccountState, Hours, RateLimiter, Starts, parse_hours, parse_limits, part_of
from streammig.report.forecast import Leg, forecast
from streammig.telemetry import Notice, Sending, Steered, Waiting
from tests.commands import Shell, sandbox, write
from tests.problems import raises
from tests.sandbox_caller import customer
from tests.virtual import Inline, VirtualClock, virtual
from tests.world import new_world, write_export

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = "Mon-Fri 21:00-07:00; else 20%"


def parsed(text: str, zone: str = "Europe/Berlin") -> Hours:
    found = parse_hours(text, zone)
    assert found is not None
    return found


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("text", "moment", "share"),
    [
        (NIGHTS, "2026-11-23T21:00", 1.0),  # a Monday
        (NIGHTS, "2026-11-23T20:59", 0.2),
        (NIGHTS, "2026-11-28T06:59", 1.0),  # Saturday: the night of Friday
        (NIGHTS, "2026-11-28T07:00", 0.2),
        (NIGHTS, "2026-11-28T22:00", 0.2),
        (NIGHTS, "2026-11-23T06:00", 0.2),  # Monday: the night of Sunday, which is none
        ("Sat,Sun", "2026-11-29T00:00", 1.0),
        ("Sat,Sun", "2026-11-30T00:00", 0.0),
        ("Fri-Mon 10:00-11:00", "2026-11-29T10:30", 1.0),
        ("22:00-24:00 50%; Mon 00:00-24:00", "2026-11-23T23:00", 0.5),  # the first line that holds
        ("22:00-24:00 50%; Mon 00:00-24:00", "2026-11-23T21:00", 1.0),
        ("00:00-24:00 7%", "2026-11-23T21:00", 0.07),
    ],
)
def test_the_first_line_that_holds_tells_the_share(text: str, moment: str, share: float) -> None:
    assert parsed(text).share(at(moment)) == share


@pytest.mark.parametrize(
    ("day", "hours"),
    [("2026-03-28", 9.0), ("2026-10-24", 11.0), ("2026-11-20", 10.0)],  # forward, back, and an ordinary night
)
def test_a_night_on_which_the_clocks_are_set_ends_when_they_say_so(day: str, hours: float) -> None:
    begin = at(f"{day}T21:00")
    assert (parsed("21:00-07:00").until(begin) - begin) / 3600 == hours


@pytest.mark.parametrize(("day", "hours"), [("2026-03-28", 9), ("2026-10-24", 11), ("2026-11-20", 10)])
def test_the_time_left_knows_how_long_such_a_night_is(day: str, hours: int) -> None:
    begin, over = at(f"{day}T21:00"), 30
    left = [Leg(hours * 60 + over)]
    end = forecast(left, parse_limits("1/60s", {}), Starts(), begin, 0.1, 4, parsed("21:00-07:00")).ends[0]
    next_night = at(f"{datetime.date.fromisoformat(day) + datetime.timedelta(days=1)}T21:00")
    assert end == pytest.approx(next_night + over * 60, abs=180)


def test_the_next_change_is_told_over_a_week_and_never_where_nothing_changes() -> None:
    assert parsed("Mon 10:00-11:00").until(at("2026-11-23T11:00")) == at("2026-11-30T10:00")
    assert parsed("10:00-11:00; else 100%").until(at("2026-11-23T09:00")) == math.inf


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("Mon-Fri 21:00-07:00", ""), ("Mon-Fri 21:00-07:00", "Mars/Olympus"), ("Mon-Fri 21:00-07:00", "../etc"),
        ("Mon-Fry 21:00-07:00", "UTC"), ("25:00-26:00", "UTC"), ("10:61-11:00", "UTC"), ("10-11", "UTC"),
        ("10:00-11:00 101%", "UTC"), ("else 101%", "UTC"), ("else 0%", "UTC"), ("Mon 0%", "UTC"), ("Mon;", "UTC"),
        ("else 20%; Mon", "UTC"), ("night", "UTC"),
    ],
)  # fmt: skip
def test_a_timetable_that_can_not_be_read_or_never_sends_is_refused(text: str, zone: str) -> None:
    with raises(Unusable, "hours-invalid"):
        parse_hours(text, zone)


@pytest.mark.parametrize(
    ("limits", "share", "part"),
    [
        ("1/5s,250/1h;general=1000/1d", 0.5, "1/10s,125/1h;general=500/1d"),
        ("100/1m", 0.29, "29/1m"),
        ("3/1m", 0.5, "1/1m"),
        ("2/1m", 0.25, "1/2m"),
        ("off", 0.5, "off"),
        ("1/5s", 1.0, "1/5s"),
    ],
)
def test_a_share_of_the_limits_leaves_the_rest_of_each_window_to_others(limits: str, share: float, part: str) -> None:
    assert str(part_of(parse_limits(limits, {}), share)) == part


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "count"), [("21:00-23:00", 3_000), ("21:00-23:00; else 20%", 2_000), ("22:15-22:45 50%", 600)]
)
@virtual()
async def test_requests_keep_to_the_hours_and_the_time_left_is_true_before_the_first_one(
    text: str, count: int, tmp_path: Path
) -> None:
    hours, limits = parsed(text, "UTC"), parse_limits("1/5s,700/1h", {})
    told: list[Notice] = []
    clock = VirtualClock()
    file = AccountState(tmp_path / "account.sqlite")
    limiter = RateLimiter(file, limits, clock, Inline(), notify=told.append, hours=hours)
    begun, made = clock.time(), []
    end = forecast([Leg(count)], limits, Starts(), begun, 0.01, 4, hours).ends[0]
    for _ in range(count):
        permit = await limiter.acquire()
        permit.sent()
        made.append(clock.time())
    await limiter.close()
    file.close()
    assert end - begun == pytest.approx(made[-1] - begun, rel=0.1)
    assert all(hours.share(moment) for moment in made)
    closed = {notice.code for notice in told if isinstance(notice, Waiting)} & {"hours"}
    assert closed or any(isinstance(notice, Steered) for notice in told)


@pytest.mark.slow
@virtual()
async def test_a_whole_run_keeps_to_its_share_of_the_limits_and_to_its_hours(tmp_path: Path) -> None:
    made: list[float] = []
    world = new_world(tmp_path, 4, 200)
    write_export(tmp_path, 200, world.rng)
    world.settings |= {"limits": "1/5s", "budget_share": 0.5, "hours": "23:00-24:00", "hours_zone": "UTC"}
    world.settings |= {"max_bytes": 10_000}
    world.watch = lambda it: made.append(world.clock.time()) if isinstance(it, Sending) else None
    assert await world.live() is True
    assert len(made) > 10
    assert {datetime.datetime.fromtimestamp(at, datetime.UTC).hour for at in made} == {23}
    assert min(after - before for before, after in pairwise(made)) > 9.5


@pytest.mark.parametrize(
    ("value", "dead", "read", "stops"),
    [
        ("", 10_000, 10_000, False),
        (10, 10, 10, False),
        (10, 11, 1_000_000, True),
        (0, 1, 5, True),
        ("1%", 10, 500, False),  # counted as 1,000
        ("1%", 11, 500, True),
        ("1%", 20, 2_000, False),
        ("0.5%", 11, 2_000, True),
    ],
)
def test_more_dead_letters_than_allowed_stop_a_stage(value: int | str, dead: int, read: int, stops: bool) -> None:
    limit = parse_dead_limit(value)
    if stops:
        with raises(TooManyDead, "too-many-dead"):
            limit.check("customers", Tally(dead, dead), Tally(read, read), "streammig dead-letters c")
    else:
        limit.check("customers", Tally(dead, dead), Tally(read, read), "streammig dead-letters c")


@pytest.mark.parametrize("value", ["many", "101%", "-1%", -1, "1 percent"])
def test_a_limit_of_dead_letters_that_can_not_be_read_is_refused(value: int | str) -> None:
    with raises(Unusable, "max-dead-invalid"):
        parse_dead_limit(value)
    assert parse_dead_limit("") == DeadLimit()


@pytest.mark.slow
def test_a_run_that_makes_too_many_dead_letters_stops_with_3_and_goes_on_with_more(shell: Shell) -> None:
    bad = [{"id": f"c-{number}", "email": "none"} for number in range(20)]
    write(shell.folder / "c.json", [*(customer(f"d-{number}") for number in range(20)), *bad])
    settings = shell.folder / "move.toml"
    settings.write_text('max_dead = 5\ncheckpoint = "migration.checkpoint"\n[customers]\nfiles = "c.json"\n')
    with sandbox() as target:
        stopped = shell.run(target.url, settings)
        assert (stopped.code, stopped.problem) == (3, "too-many-dead")
        assert shell("status", shell.checkpoint, "--json").document["state"] == "interrupted"
        settings.write_text(settings.read_text().replace("max_dead = 5", 'max_dead = "50%"'))
        assert shell.run(target.url, settings).code == 3
        assert shell("status", shell.checkpoint, "--json").document["state"] == "complete"
        assert target.ledger()["holds"]["customers"]["count"] == 20
