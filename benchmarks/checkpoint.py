"""Whether the checkpoint keeps up with the requests: python -m benchmarks.checkpoint [--batches N] [--mb N] [--json].

Measures the cost of each batch in the checkpoint and the account's file, without a network: seal, permit, sending,
receipt. All are synced (`synchronous=FULL`), by as many workers as a run has. For comparison it also prints the time of
one fsync, and the batches a second of the real command from end to end.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.end_to_end import timed
from benchmarks.figures import figures, yes
from benchmarks.null_target import null_target
from streammig.checkpoint import Checkpoint, CheckpointWriter, Fence
from streammig.clock import SystemClock
from streammig.model import Batch, BatchState, Draft, Kind, Place, Progress, Range, Receipt, Tally
from streammig.ratelimit import OFF, AccountState, RateLimiter
from streammig.sandbox.sample import Sample, write_sample
from tests.drafts import made

GOAL, WORKERS, RECORDS, ROUNDS = 3.0, 5, 1000, 3


def fsync_seconds(folder: Path) -> float:
    """The median of 200 syncs of 4 KB each."""
    times = []
    with (folder / "synced").open("wb") as out:
        for _ in range(200):
            out.write(os.urandom(4096))
            begun = perf_counter()
            out.flush()
            os.fsync(out.fileno())
            times.append(perf_counter() - begun)
    return statistics.median(times)


def sealed(number: int) -> tuple[Draft, Progress]:
    """A draft like a run's, but for its body, which is short."""
    begin, end = (Place(0, each * 1_000_000, 0, each * RECORDS + 1) for each in (number, number + 1))
    tally = Tally(RECORDS, RECORDS, {"11111111-1111-4111-8111-111111111111": Decimal("1234.56")})
    read = Tally(number * RECORDS, number * RECORDS)
    return made([Range(begin, end)], tally, b"%d" % number), Progress(end, end.ordinal, read)


async def keep_checkpoint(folder: Path, batches: int) -> float:
    """Batches a second."""
    clock = SystemClock()
    file = Checkpoint.create(folder / "run.checkpoint", binding={"account": "a"}, version="0", started=clock.time())
    file.add_stage("customers", 0, {}, [])
    account = AccountState(folder / "account.sqlite")
    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as pacing:
        limiter = RateLimiter(account, OFF, clock, pacing)
        fence = Fence(folder, file.run["id"])
        writing = CheckpointWriter(file, writer, fence)
        queue: asyncio.Queue[Batch | None] = asyncio.Queue(16)

        async def produce() -> None:
            for number in range(batches):
                draft, progress = sealed(number)
                await queue.put(
                    await writing.write(lambda f, d=draft, p=progress: f.seal("customers", d, p, clock.time()))  # type: ignore[misc]
                )
            for _ in range(WORKERS):
                await queue.put(None)

        async def work() -> None:
            while (batch := await queue.get()) is not None:
                permit = await limiter.acquire()
                attempt = await writing.write(lambda f, b=batch: f.sending(b, clock.time()))  # type: ignore[misc]
                permit.sent()
                receipt = Receipt(Kind.ACCEPTED, 201)
                await writing.write(
                    lambda f, b=batch, n=attempt, r=receipt: f.received(b, n, r, BatchState.ACCEPTED, clock.time())  # type: ignore[misc]
                )

        begun = perf_counter()
        await asyncio.gather(produce(), *(work() for _ in range(WORKERS)))
        seconds = perf_counter() - begun
        await writing.flush()
        await limiter.close()
    fence.close()
    file.close()
    account.close()
    return batches / seconds


def measure(batches: int, megabytes: float, folder: Path) -> dict[str, Any]:
    file = folder / "customers.json"
    write_sample(Sample(max(round(megabytes * 1000), 1)), {"customers": file})
    totals, whole, syncs = [], [], []
    with null_target() as url:
        for _ in range(ROUNDS):
            syncs.append(fsync_seconds(folder))
            with tempfile.TemporaryDirectory(dir=folder) as own:
                totals.append(asyncio.run(keep_checkpoint(Path(own), batches)))
            found = timed("streammig", file, url, folder)
            whole.append(found["requests"] / found["seconds"])
    ratio = statistics.median(left / right for left, right in zip(totals, whole, strict=True))
    return {
        "batches": batches,
        "rounds": ROUNDS,
        "fsync_ms": round(statistics.median(syncs) * 1000, 3),
        "checkpoint_batches_s": round(statistics.median(totals), 1),
        "end_to_end_batches_s": round(statistics.median(whole), 1),
        "ratio": round(ratio, 2),
        "reached": ratio >= GOAL,
    }


def show(found: dict[str, Any]) -> None:
    print(f"one fsync, ms             {found['fsync_ms']:>8.3f}")
    print(f"checkpoint alone, batches/s    {found['checkpoint_batches_s']:>8.1f}")
    print(f"end to end, batches/s     {found['end_to_end_batches_s']:>8.1f}")
    print(f"ratio                     {found['ratio']:>8.2f}   goal {GOAL}: {yes(found['reached'])}")


def main() -> int:
    return figures(__doc__, "checkpoint", measure, show, batches=1000, mb=300.0)


if __name__ == "__main__":
    sys.exit(main())
