"""The library's `Migration`: assembles a run from the settings, runs one command, and ends it early if asked to."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from streammig.ask import Ask as Ask
from streammig.checkpoint import Checkpoint
from streammig.clock import Clock, SystemClock
from streammig.context import Context, Stop, Times
from streammig.listening import Hub
from streammig.masivo.limits import PRESETS as PRESETS
from streammig.model import BatchState
from streammig.settings import Settings, state_folder
from streammig.stages import STAGES
from streammig.telemetry import Notice, Notify, ignore

# Every command imports this module, also for its --help. So what a run is made of, aiohttp with it, is imported when
# one is made: half a second.
if TYPE_CHECKING:
    from streammig.assembly import Call
    from streammig.dead_letters.replay import Choice
    from streammig.inputs import StageInput
    from streammig.run import Run
    from streammig.target import Client, ReadBack, Target
    from streammig.verify.verdict import Told

# A stage whose files have at least this size is read in a process of its own, which costs 0.2 s at the start and 40 MB.
READER_PROCESS_BYTES = 20_000_000
T = TypeVar("T")


def one_thread() -> Executor:
    return ThreadPoolExecutor(1)


@dataclass(slots=True)
class Migration:
    """One migration in one process. `run` delivers it, `drain` and `abort` end it early.

    Tests replace `clock`, `rng` and `executor` to run the whole system in virtual time.
    """

    settings: Settings
    ask: Ask = Ask("streammig run")  # noqa: RUF009  # frozen
    key: str = field(default="", repr=False)
    state_dir: Path = Path()  # by default the folder in the settings, or the platform's
    clock: Clock = field(default_factory=SystemClock)
    rng: Random = field(default_factory=Random)
    notify: Notify = ignore
    folder: Path = Path()  # first place to look for a mapping's module
    executor: Callable[[], Executor] = field(default=one_thread)
    reader_process_bytes: int = READER_PROCESS_BYTES
    stop: Stop = field(default_factory=Stop)
    assembled: bool = False  # whether requests may be under way
    _task: asyncio.Task[Any] | None = None
    _hub: Hub = field(init=False)

    def __post_init__(self) -> None:
        self.notify = self._hub = Hub(self.notify)
        if self.state_dir == Path():
            self.state_dir = state_folder(self.settings, os.environ, sys.platform)

    # -- ending early ------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Make no new request. Wait for those under way, at most for `drain_time`."""
        if not self.assembled:
            self.abort()
        elif not self.stop.is_set():
            self.stop.set()
            asyncio.get_running_loop().call_later(self.settings.drain_time, self.abort)

    def abort(self) -> None:
        """Cut off the requests under way. The next run finds in the checkpoint that their outcome is unknown."""
        self.stop.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def inputs(self, started: float) -> dict[str, StageInput]:
        """The source and the rules of each stage. Makes no request.

        `started`: when the checkpoint was made, in seconds since the epoch.
        """
        return self._call().inputs(self._context(), started)

    def telemetry(self) -> AsyncIterator[Notice]:
        """The notices of the run, as an async iterator that ends with it. Iterate in a task that begins before the run.

        A slow listener loses the oldest notices and never slows the run down.
        """
        return self._hub.listen()

    async def readable(self) -> dict[str, bool]:
        """Say for each stage whether a read-back can prove that a record landed. Makes no request."""
        from streammig.delivery.folder import Unlimited

        target = self._call().target(self._context(), 0.0, dict.fromkeys(STAGES), Unlimited())
        async with target.connect() as (_, readback):
            return {name: readback.proves(name) for name in STAGES}

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> bool:
        """Deliver every stage. True if everything is read and settled, False if the run was stopped or paused.

        Raises the `Problem` that ended the run. In every case the checkpoint can be resumed.
        """
        from streammig.verify.verifier import run_and_look

        work = partial(run_and_look, state_folder=self.state_dir)
        return bool(await self._work(work, lambda file: any(row.state != "complete" for row in file.stages())))

    async def retry(self, choice: Choice) -> bool:
        """Send the chosen dead letters again. False if stopped before all are settled or dead again.

        Raises like `run`. The same call resumes.
        """
        from streammig.retrying import retry

        work = partial(retry, choice=choice)
        return bool(await self._work(work, lambda file: any(file.dead_codes(row.name) for row in file.stages())))

    async def retry_missing(self) -> bool:
        """Send missing records again: those that a verify did not find. Returns and raises like `retry`."""
        from streammig.resending import resend

        return bool(await self._work(partial(resend, state_folder=self.state_dir)))

    async def read_back(self, stage: str, seq: int) -> BatchState:
        """Read back an unknown or parked batch.

        Returns ACCEPTED, SEALED (it did not land), PARKED (still undecided), or UNKNOWN if stopped.
        """
        return await self._work(lambda run: run.read_back(stage, seq)) or BatchState.UNKNOWN

    async def verify(self, count: int | None, tell: Callable[[Told], None]) -> dict[str, Any] | None:
        """Read back `count` customers (all if None) and compare them with the export.

        Returns a summary, None if stopped. `tell` gets each difference, with its values.
        """
        from streammig.verify.verifier import Verifier

        return await self._work(lambda run: Verifier(run, count, self.state_dir, tell).verify(), sends=False)

    async def revert(self, customers: int, tell: Callable[[str], None]) -> dict[str, Any] | None:
        """Revert the run, then read back every customer. `customers` is the number that the operator confirmed.

        Returns a summary, None if stopped. `tell` gets the id of each customer that is still there.
        """
        from streammig.revert import Revert

        return await self._work(lambda run: Revert(run, self.state_dir, customers, tell).revert(), sends=False)

    async def _work(
        self, work: Callable[[Run], Awaitable[T]], reads: Callable[[Checkpoint], bool] = lambda _: False,
        sends: bool = True,
    ) -> T | None:  # fmt: skip
        """Assemble a run and let it `work`; None if aborted. `reads` and `sends` are as in `Assembly.run`."""
        from streammig.assembly import Assembly
        from streammig.delivery.beside import write_beside
        from streammig.grouping import forget as forget_grouped
        from streammig.scan import forget, scan_folder

        self._task = task = asyncio.current_task()
        self._hub.closed = False
        try:
            async with AsyncExitStack() as stack:
                assembly = Assembly(self._call(), self._context(), self.executor, self._connect, stack)
                run = await assembly.run(reads, sends)
                self.assembled = True
                done = await work(run)
                if self.ask.dry_run is not None:
                    mapped = {name: it[:2] for name, it in run.reading.inputs.items() if it.mapping}
                    await run.reading.read(write_beside, self.ask.dry_run, mapped)
                if done is True:
                    await run.store.write(Checkpoint.forget_samples)
                whole = all(row.state == "complete" for row in await run.store.read(Checkpoint.stages))
            if done is True:
                forget(scan_folder(run.reading.lookup.path), STAGES)
            if done is not None and whole:
                forget_grouped(run.reading.lookup.path, STAGES)
            return done
        except asyncio.CancelledError:
            if not self.stop.is_set() or task is None:
                raise
            task.uncancel()
            return None
        finally:
            self._task = None
            self._hub.close()

    def _call(self) -> Call:
        from streammig.assembly import Call

        return Call(self.settings, self.ask, self.key, self.state_dir, self.folder, self.reader_process_bytes)

    def _context(self) -> Context:
        return Context(self.clock, self.rng, self.notify, self.stop, Times(0.0, 0.0))

    @asynccontextmanager
    async def _connect(self, target: Target) -> AsyncIterator[tuple[Client, ReadBack]]:
        async with target.connect() as (client, readback):
            await client.renew()  # find a wrong key or host before reading a record
            yield client, readback
