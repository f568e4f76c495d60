"""Sends dead letters again, stage by stage, and releases what waited for a customer of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from streammig.batching import BatchLimits
from streammig.checkpoint import FIRST, Checkpoint, outbox_path
from streammig.dead_letters.replay import Choice, Replay, Sealed, Wave, spot_of
from streammig.model import BatchState
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

    run: Run
    choice: Choice

    async def all(self) -> bool:
        """Try all that is chosen; False if stopped before. Raises like a run."""
        for name in self.run.reading.inputs:
            if not await self._stage(name) or not await self.shown(name):
                return False
        return True

    async def _stage(self, name: str) -> bool:
        run = self.run
        await self.finish(name)
        replay, after = await self._replay(name), FIRST
        while not run.context.stopping:
            wave = await self._read(replay.wave, after)
            if wave is None or run.context.stopping:
                break
            after = wave.last
            drafts = await self._read(replay.drafts, wave, outbox_path(run.reading.lookup.path))
            await run.store.write(partial(_seal, name, wave, drafts, run.context.now()))
            if drafts:
                await self.deliver(name)
        return not run.context.stopping

    async def finish(self, name: str) -> None:
        """Send what an earlier call has sealed."""
        if await self.run.store.read(lambda file: file.batches(name, *TO_SEND)):
            await self.deliver(name)

    async def deliver(self, name: str) -> None:
        """Send what is sealed, and read nothing on."""
        run = self.run
        found = await run.store.read(lambda file: account_of(file, name))
        run.context.notify(StageBegan(name, found._replace(sizes=None)))
        stage = await run.prepare(name, open_source([]))
        await stage.run()
        run.context.notify(StageEnded(name, "interrupted" if run.context.stopping else "retried"))
        await run.verify(name)

    async def _replay(self, name: str) -> Replay:
        run, reading = self.run, self.run.reading
        owners = name == reading.owners
        return Replay(
            name,
            reading.inputs[name].source,
            reading.inputs[name].rules,
            absent=None if owners else reading.absent(await reading.undecided()),
            index=reading.indexes.get(name) if owners else None,
            file=reading.lookup,
            limits=BatchLimits(bytes=run.settings.max_bytes),
            choice=self.choice,
            stopped=run.context.stop.is_set,
        )

    async def shown(self, name: str) -> bool:
        """Wait at the barrier behind what was sent of a stage. When replayed customers can be seen, what waited for
        them may go."""
        run, last = self.run, name == [*self.run.reading.inputs][-1]
        unseen = await run.store.read(lambda file: file.any_unseen(name))
        if unseen and not await run.barrier(retried=True).wait(name, last):
            return False
        if name == run.reading.owners:
            await run.store.write(Checkpoint.see_brought)
        return True

    async def _read(self, work: Callable[..., T], *arguments: object) -> T:
        return await self.run.reading.read(partial(work, *arguments))


def _seal(stage: str, wave: Wave, drafts: Sequence[Sealed], at: float, file: Checkpoint) -> None:
    file.refuse(stage, wave.dead, wave.filtered)
    file.seal_replayed(
        stage, drafts, [(spot_of(it.letter), it.units, it.part) for each in wave.groups for it in each.letters], at
    )
