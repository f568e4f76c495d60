"""A run that is on is paused, slowed down and sped up from outside, through the state folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streammig.ratelimit import AccountState, Limits, Orders, RateLimiter, orders_path, parse_limits, write_orders
from streammig.sandbox.local import LocalTarget
from streammig.telemetry import Notice, Steered, Waiting, Warned
from tests.commands import Called, Shell, process, sandbox, states, until, write
from tests.sandbox_caller import customer
from tests.virtual import Inline, VirtualClock, virtual

RUN = "a1b2"


class Paced:
    """A limiter whose orders lie in a folder, and what it told."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.path = orders_path(folder, RUN)
        self.told: list[Notice] = []
        file = AccountState(folder / "accounts" / "acme.sqlite")
        self.limiter = RateLimiter(file, limits, VirtualClock(), Inline(), notify=self.told.append, orders=folder)

    async def grants(self, count: int) -> list[float]:
        """When each of so many permits was granted, in seconds of this loop."""
        found = []
        for _ in range(count):
            permit = await self.limiter.acquire()
            permit.sent()
            found.append(asyncio.get_running_loop().time())
        return found


@asynccontextmanager
async def paced(folder: Path, limits: str) -> AsyncIterator[Paced]:
    it = Paced(folder, parse_limits(limits, {}))
    yield it
    await it.limiter.close()
    it.limiter.state.close()


async def later(seconds: float, path: Path, orders: Orders) -> None:
    await asyncio.sleep(seconds)
    write_orders(path, orders)


@virtual()
async def test_a_pause_lets_no_request_begin_until_it_ends_also_in_a_run_that_starts_later(tmp_path: Path) -> None:
    async with paced(tmp_path, "1/5s") as it:
        write_orders(it.path, Orders(paused=True))
        await it.limiter.enter(RUN)
        ends = asyncio.create_task(later(1000.0, it.path, Orders()))
        (first,) = await it.grants(1)
        assert 1000.0 <= first <= 1006.0
        assert [type(notice) for notice in it.told] == [Waiting, Waiting, Steered]  # at once, and ten minutes later
        assert {notice.code for notice in it.told if isinstance(notice, Waiting)} == {"paused"}
        await ends


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param("1/1h", "1/5s", (100.0, 110.0), id="a wait for the old limits ends early"),
        pytest.param("1/5s", "1/1h", (3600.0, 3665.0), id="what was allowed a moment ago has to wait"),
    ],
)
@virtual()
async def test_other_limits_hold_from_the_moment_they_are_given(
    before: str, after: str, expected: tuple[float, float], tmp_path: Path
) -> None:
    async with paced(tmp_path, before) as it:
        await it.limiter.enter(RUN)
        if before == "1/5s":
            await it.grants(1)
            write_orders(it.path, Orders(limits=after))
            await asyncio.sleep(1.0)
        else:
            await it.grants(1)
        given = asyncio.create_task(later(100.0, it.path, Orders(limits=after)))
        (second,) = await it.grants(1)
        assert expected[0] <= second <= expected[1]
        assert Steered("limits", after) in it.told
        given.cancel()


@pytest.mark.parametrize("text", [b"{", b'{"paused": 3}', b'{"limits": "fast"}'])
@virtual()
async def test_orders_that_can_not_be_read_are_told_and_change_nothing(text: bytes, tmp_path: Path) -> None:
    async with paced(tmp_path, "1/5s") as it:
        await it.limiter.enter(RUN)
        it.path.write_bytes(text)
        await asyncio.sleep(2.0)
        await it.grants(2)
        assert [notice.code for notice in it.told if isinstance(notice, Warned)] == ["orders-unreadable"]


@pytest.fixture(scope="module")
def target() -> Iterator[LocalTarget]:
    with sandbox() as found:
        yield found


@pytest.mark.slow
def test_a_real_run_is_paused_seen_as_paused_and_goes_on(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "c.json", [customer(f"c-{number}") for number in range(6_000)])
    called = ["run", "--base-url", target.url, "--limits", "1/1s", "--settle-time", "0.1", "--customers", "c.json"]
    with process(shell.folder, *called) as run:
        until(lambda: "accepted" in states(shell.checkpoint).get("customers", []), "a batch is accepted")
        assert shell("pause", shell.checkpoint).code == 0
        found = shell("status", shell.checkpoint, "--json").document
        assert (found["state"], found["paused"]) == ("running", True)
        assert shell("rate", shell.checkpoint, "off").code == 0
        assert shell("unpause", shell.checkpoint).code == 0
        _, said = run.communicate(timeout=60)
    assert run.returncode == 0
    assert "paused by the operator" in said or "the operator changed the limits" in said
    refused: list[Called] = [shell("pause", shell.checkpoint), shell("rate", shell.checkpoint, "1/5s")]
    assert [(it.code, it.problem) for it in refused] == [(2, "not-running")] * 2
    assert shell("unpause", shell.checkpoint).code == 0
    assert shell("rate", shell.checkpoint, "settings").code == 0  # takes back what would hold the next run


def test_limits_that_name_no_general_limit_leave_it_as_it_is(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(shell.folder / "c.json", [customer("c-1")])
    flags = ["--base-url", target.url, "--limits", "9/1s;general=50/1s", "--settle-time", "0"]
    assert shell("run", *flags, "--customers", "c.json").code == 0
    monkeypatch.setattr("streammig.cli.steer.is_held", lambda _: True)
    for asked, given in [
        ("2/1s", "limits 2/1s;general=50/1s"), ("3/1s;general=7/1s", "limits 3/1s;general=7/1s"),
        ("4/1s", "limits 4/1s;general=7/1s"), ("prod", "limits 1/5s,1000/1h"), ("5/1s", "limits 5/1s"),
        ("off", "limits off"), ("settings", "limits of its settings again"), ("6/1s", "limits 6/1s;general=50/1s"),
    ]:  # fmt: skip
        assert f"has the {given}, within 5 s" in shell("rate", shell.checkpoint, asked).err


def test_limits_that_can_not_be_read_are_refused_before_anything_is_looked_at(shell: Shell) -> None:
    ended = shell("rate", "none.checkpoint", "fast")
    assert (ended.code, ended.problem) == (2, "limits-invalid")
