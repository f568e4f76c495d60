"""How steadily `verify --all` reads: python -m benchmarks.reads [--customers N] [--concurrency N] [--latency S].

Migrates customers with their transactions to a sandbox in a process of its own, without limits, and verifies all of
them in this one. It says for which share of the time as many reads were in flight as there may be, from the moment a
read leaves to the moment its answer is here. `latency` is what the sandbox waits before an answer, in seconds: with 0
both processes are bound by their CPU, and judging an answer takes a tenth of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.figures import figures, yes
from benchmarks.migrate import sandbox
from streammig.masivo.http import Answer, Http, NoAnswer
from streammig.migration import Ask, Migration
from streammig.sandbox.sample import Sample, write_sample
from streammig.settings import Settings

GOAL = 0.9  # of the time
STAGES = {"customers": "customers.json", "transactions": "transactions.ndjson"}


class Flights:
    """How many reads are in flight, and for how long it were so many."""

    def __init__(self) -> None:
        self.now, self.since = 0, perf_counter()
        self.seconds: dict[int, float] = {}

    def change(self, by: int) -> None:
        at = perf_counter()
        self.seconds[self.now] = self.seconds.get(self.now, 0.0) + at - self.since
        self.now, self.since = self.now + by, at

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Every request that is made meanwhile is counted."""
        exchange = Http.exchange

        async def counted(http: Http, *arguments: Any, **more: Any) -> Answer | NoAnswer:
            self.change(1)
            try:
                return await exchange(http, *arguments, **more)
            finally:
                self.change(-1)

        Http.exchange = counted  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Http.exchange = exchange  # type: ignore[method-assign]


def measure(customers: int, concurrency: int, latency: float, folder: Path) -> dict[str, Any]:
    write_sample(Sample(customers, events=0.0), {stage: folder / name for stage, name in STAGES.items()})
    flights = Flights()
    with sandbox(folder, latency) as (url, key):
        settings = Settings.load(
            None, base_url=url, limits="off", settle_time=0.1, verify_sample=0, concurrency=concurrency,
            checkpoint=str(folder / "run.checkpoint"), state_dir=str(folder / "state"),
            **{stage: {"files": [str(folder / name)]} for stage, name in STAGES.items()},
        )  # fmt: skip
        assert asyncio.run(Migration(settings, Ask("reads"), key).run()), "the run did not come to its end"
        flights.seconds.clear()
        begun = perf_counter()
        with flights.watched():
            found = asyncio.run(Migration(settings, Ask("reads", aside=True), key).verify(None, print))
        taken = perf_counter() - begun
    assert found is not None, "it was stopped"
    assert found["same"], found
    # Without any read there is none to make: the export is opened, or the result is kept.
    seconds = {count: it for count, it in sorted(flights.seconds.items()) if count}
    whole = sum(seconds.values())
    looked = sum(it["looked"] for it in found["stages"].values())
    return {
        "customers": customers,
        "concurrency": concurrency,
        "latency_s": latency,
        "read_back": looked,
        "seconds": round(taken, 2),
        "in_flight": round(sum(count * it for count, it in seconds.items()) / whole / concurrency, 3),
        "share_of_time": {count: round(it / whole, 4) for count, it in seconds.items()},
        "reached": seconds.get(concurrency, 0.0) / whole >= GOAL,
    }


def show(found: dict[str, Any]) -> None:
    print(
        f"verify --all of {found['customers']:,} customers, {found['read_back']:,} records, in {found['seconds']} s\n"
    )
    print("reads in flight   share of the time")
    for count, share in found["share_of_time"].items():
        print(f"{count:>15}   {share:.1%}")
    print(f"\non average {found['in_flight']:.1%} of {found['concurrency']}")
    print(f"all of them at least {GOAL:.0%} of the time: {yes(found['reached'])}")


def main() -> int:
    return figures(__doc__, "reads", measure, show, customers=10_000, concurrency=4, latency=0.01)


if __name__ == "__main__":
    sys.exit(main())
