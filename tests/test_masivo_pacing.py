"""RateLimiter and client together in real time, against a target that keeps strict windows."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streammig.masivo.client import MasivoClient
from streammig.model import Kind
from streammig.ratelimit import AccountState, RateLimiter, parse_limits
from tests.masivo_session import WallClock, session_on
from tests.wire import Act, Seen, answer, listening


def strict(*windows: tuple[int, float]) -> Act:
    """Answers 429 where any sliding window over arrivals, refused ones too, is exceeded."""
    seen = [deque[float](maxlen=count) for count, _ in windows]

    def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        now = time.monotonic()
        full = any(
            len(last) == count and now - last[0] < seconds for last, (count, seconds) in zip(seen, windows, strict=True)
        )
        for last in seen:
            last.append(now)
        writer.write(answer(429, Retry_After="1") if full else answer(201))

    return act


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_i7_five_hundred_requests_at_twenty_a_second_get_no_429(tmp_path: Path) -> None:
    limits = parse_limits("1/0.05s,2000/100s", {})
    kinds: list[Kind] = []
    async with listening() as wire, session_on(wire.url) as session:
        wire.on("/customers/migrate/events", strict((1, 0.05), (2000, 100.0)))
        client = MasivoClient(session, WallClock())
        with ThreadPoolExecutor(1) as executor:
            file = AccountState(tmp_path / "accounts" / "a.sqlite")
            limiter = RateLimiter(file, limits, WallClock(), executor)

            async def worker() -> None:
                while len(kinds) < 500:
                    permit = await limiter.acquire()
                    receipt = await client.send("events", b"x" * 20_000, permit.sent)
                    limiter.answered(receipt.latency)
                    kinds.append(receipt.kind)

            begun = time.monotonic()
            await asyncio.gather(*(worker() for _ in range(4)))
            elapsed = time.monotonic() - begun
            await limiter.close()
            file.close()
    assert set(kinds) == {Kind.ACCEPTED}
    assert elapsed < 120
    print(f"{len(kinds) / elapsed:.1f} requests a second of 20")
