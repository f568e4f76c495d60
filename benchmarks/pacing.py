"""The share of allowed permits that is used, at a target with strict windows and a jittering link, in virtual time."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from collections import deque
from pathlib import Path

from streammig.ratelimit import AccountState, Limits, RateLimiter, parse_limits
from tests.virtual import Inline, VirtualClock, run_virtual


class StrictTarget:
    """Counts arrivals that any sliding window of the limits forbids."""

    def __init__(self, limits: Limits) -> None:
        self._seen = [(window, deque[float](maxlen=window.count)) for _, window in limits.counted("migration")]
        self.refused = 0

    def arrive(self, at: float) -> None:
        self.refused += any(len(seen) == window.count and at - seen[0] < window.seconds for window, seen in self._seen)
        for _, seen in self._seen:
            seen.append(at)


async def _run(
    path: Path, limits: Limits, requests: int, jitter: float, connect: float, seed: int
) -> tuple[float, int]:
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    target = StrictTarget(limits)
    file = AccountState(path)
    limiter = RateLimiter(file, limits, VirtualClock(), Inline())
    begun = loop.time()
    for _ in range(requests):
        permit = await limiter.acquire()
        await asyncio.sleep(connect + rng.uniform(0, jitter / 8))
        permit.sent()
        loop.call_later(rng.uniform(0, jitter), lambda: target.arrive(loop.time()))
    await asyncio.sleep(jitter + 1)
    elapsed = loop.time() - begun - jitter - 1
    await limiter.close()
    file.close()
    return elapsed, target.refused


def measure(text: str, requests: int, jitter: float, connect: float, seed: int) -> dict[str, object]:
    """One line of the table: `jitter` and `connect` in seconds."""
    limits = parse_limits(text, {})
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        elapsed, refused = run_virtual(_run(Path(folder) / "a.sqlite", limits, requests, jitter, connect, seed))
    # The window that allows least in that time; the first request may go at once.
    allowed = min(1 + elapsed * window.count / window.seconds for _, window in limits.counted("migration"))
    return {
        "limits": text,
        "jitter_ms": round(jitter * 1000),
        "connect_ms": round(connect * 1000),
        "requests": requests,
        "seed": seed,
        "used": round(min(1.0, requests / allowed), 4),
        "429": refused,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines = [
        measure("1/5s", options.requests, jitter, connect, options.seed)
        for jitter, connect in ((0.0, 0.0), (0.08, 0.0), (0.08, 0.15))
    ]
    if options.json:
        print(json.dumps(lines, indent=2))
        return
    print(f"{'limits':8}{'jitter':>10}{'connect':>10}{'requests':>10}{'used':>9}{'429':>6}   goal: >= 0.98, no 429")
    for line in lines:
        limits, jitter, connect, requests, _, used, refused = line.values()
        print(f"{limits:8}{jitter:>7} ms{connect:>7} ms{requests:>10}{used:>9.4f}{refused:>6}")


if __name__ == "__main__":
    main()
