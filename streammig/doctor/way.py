"""Looks at the way to the target: the token, one read, the clock and the limits as the target tells them."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from random import Random

from streammig.account import SharedAccount
from streammig.clock import SystemClock
from streammig.doctor import NOTE, OK, WRONG, Finding, wrong
from streammig.errors import Problem
from streammig.masivo.http import Answer, NoAnswer, check_base_url
from streammig.masivo.limits import PRESETS
from streammig.masivo.session import Secret, Session
from streammig.ratelimit import RateLimiter, account_name, parse_limits
from streammig.settings import Settings, api_key, state_folder

CLOCK_NOTE, CLOCK_WRONG = 5.0, 120.0  # seconds apart from the server
SLOW_READ = 5.0  # seconds


@asynccontextmanager
async def account(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[tuple[Session, RateLimiter]]:
    """A session with the target, whose requests count against the account's limits as those of a run do."""
    check_base_url(settings.base_url)
    key, clock = api_key(settings, environment), SystemClock()
    name = account_name(settings.account or None, settings.base_url, key)
    folder = state_folder(settings, environment, sys.platform)
    shared = SharedAccount(name, settings.base_url, folder, parse_limits(settings.limits, PRESETS))
    async with AsyncExitStack() as stack:
        limiter = shared.limiter(stack, clock, lambda: ThreadPoolExecutor(1))
        session = Session(
            settings.base_url, Secret(key), clock=clock, rng=Random(), pace=limiter.read, hold=limiter.pause_for,
            auth_url=settings.auth_url, request_timeout=settings.request_timeout,
        )  # fmt: skip
        yield await stack.enter_async_context(session), limiter


async def examine_way(settings: Settings, environment: Mapping[str, str]) -> AsyncGenerator[Finding, None]:
    """What two requests tell."""
    try:
        async with account(settings, environment) as (session, _):
            token = await session.token()
            if isinstance(token, NoAnswer):
                yield Finding("token", WRONG, f"{settings.base_url}: {token.why}", "Check base_url and the network.")
                return
            yield Finding("token", OK, f"{settings.base_url} gives a token for the key")
            begun = time.time()
            answer = await session.get("/tiers")
            taken = time.time() - begun
    except Problem as problem:
        yield wrong("token", problem)
        return
    for finding in _answered(answer, begun, taken):
        yield finding


def _answered(answer: Answer | NoAnswer, begun: float, taken: float) -> Iterator[Finding]:
    """What one read tells: that it works, how long it takes, the server's clock, the limits in its headers."""
    if isinstance(answer, NoAnswer) or answer.status != 200 or answer.html:
        said = answer.why if isinstance(answer, NoAnswer) else f"HTTP {answer.status}"
        do = "Check that the key may read: what was migrated is looked at by reads."
        yield Finding("read", WRONG, f"a read was not answered as Masivo does: {said}", do)
        return
    slow = taken > SLOW_READ
    yield Finding(
        "read", NOTE if slow else OK, f"a read takes {taken:.2f} s",
        "Reading back takes long. Raise request_timeout where reads time out." if slow else "",
    )  # fmt: skip
    yield _clock(answer.date, begun + taken / 2)
    limit, remaining, reset = answer.rate
    if limit is None and remaining is None:
        yield Finding("limits", NOTE, "no X-RateLimit headers came", "The limits of the settings are obeyed as given.")
    else:
        parts = [
            f"limit {limit:g}" if limit is not None else "",
            f"left {remaining:g}" if remaining is not None else "",
        ]
        parts.append(f"reset in {reset:g} s" if reset is not None else "")
        yield Finding("limits", OK, "headers say: " + ", ".join(filter(None, parts)))


def _clock(date: str, now: float) -> Finding:
    moment = None
    with suppress(ValueError, TypeError):
        moment = parsedate_to_datetime(date).timestamp()
    if moment is None:
        return Finding("clock", NOTE, "the server sends no Date", "See to it that this machine's clock is right.")
    apart = now - (moment + 0.5)  # a Date has whole seconds
    said = f"this clock and the server's are {abs(apart):.0f} s apart"
    do = "Set this machine's clock, for example with: timedatectl set-ntp true"
    if abs(apart) > CLOCK_NOTE:
        return Finding("clock", WRONG if abs(apart) > CLOCK_WRONG else NOTE, said, do)
    return Finding("clock", OK, said)
