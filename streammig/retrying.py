"""Sends dead letters again, stage by stage, and releases what waited for a customer of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from streammig.batching import BatchLimits
from streammig.checkpoint import FIRST, Checkpoint, outbox_path
from streammig.dead_letters.replay import Choice, Replay, Sealed, Wave, spot_of
from streammig.reader import nobody_absent
from streammig.records import BatchState
from streammig.report.progress import account_of
from streammig.run import Run
from streammig.sources import open_source
from streammig.telemetry import StageBegan, StageEnded

T = TypeVar("T")
TO_SEND = (BatchState.SEALED, BatchState.UNKNOWN, BatchState.REJECTED)


@dataclass(slots=True)
class Retry:
    """One call of `retry`. Whatever interrupts it, the same call goes on: a letter is dead until the transaction that
    seals it, and from then on it is a batch like any other."""

    crew: Run
    choice: Choice

    async def run(self) -> bool:
        """Try all that is chosen; False if stopped before. Raises like a run."""
        for name in self.crew.reading.inputs:
            if not await self._stage(name):
                return False
        return True

    # -- one stage ---------------------------------------------------------------------------------------------------

    async def _stage(self, name: str) -> bool:
        crew = self.crew
        if await crew.store.read(lambda file: file.batches(name, *TO_SEND)):
            await self._deliver(name)
        replay, after = self._replay(name), FIRST
        while not crew.context.stop.is_set():
            wave = await self._read(replay.wave, after)
            if wave is None or crew.context.stop.is_set():
                break
            after = wave.last
            drafts = await self._read(replay.drafts, wave, outbox_path(crew.reading.lookup.path))
            await crew.store.write(partial(_seal, name, wave, drafts, crew.context.now()))
            if drafts:
                await self._deliver(name)
        return not crew.context.stop.is_set() and await self._shown(name)

    async def _deliver(self, name: str) -> None:
        """Send what is sealed, and read nothing on."""
        crew = self.crew
        found = await crew.store.read(lambda file: account_of(file, name))
        crew.context.notify(StageBegan(name, found._replace(sizes=None)))
        run = await crew.prepare(name, open_source([]))
        await run.run()
        crew.context.notify(StageEnded(name, "interrupted" if crew.context.stop.is_set() else "retried"))
        await crew.verify(name)

    def _replay(self, name: str) -> Replay:
        crew, reading = self.crew, self.crew.reading
        customers = name == "customers"
        return Replay(
            name, reading.inputs[name].source, reading.inputs[name].rules,
            absent=nobody_absent if customers else reading.absent(), index=reading.owners if customers else None,
            file=reading.lookup, limits=BatchLimits(bytes=crew.settings.max_bytes), choice=self.choice,
            stopped=crew.context.stop.is_set,
        )  # fmt: skip

    async def _shown(self, name: str) -> bool:
        """Give the target's queue its time for what later stages build on. When replayed customers can be seen, what
        waited for them may go."""
        crew = self.crew
        since = crew.context.now() - crew.context.times.settle
        waits = await crew.store.read(
            lambda file: (
                file.any_brought() if name == "customers" else name == "events" and file.retried_at(name) > since
            )
        )
        if waits and not await crew.barrier(name, retried=True).wait(name):
            return False
        if waits and name == "customers":
            await crew.store.write(Checkpoint.see_brought)
        return True

    async def _read(self, work: Callable[..., T], *arguments: object) -> T:
        return await self.crew.reading.read(partial(work, *arguments))


def _seal(stage: str, wave: Wave, drafts: Sequence[Sealed], at: float, file: Checkpoint) -> None:
    file.refuse(stage, wave.dead, wave.filtered)
    file.seal_replayed(
        stage, drafts, [(spot_of(it.letter), it.units) for each in wave.groups for it in each.letters], at
    )
