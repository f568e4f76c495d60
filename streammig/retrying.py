"""Sends dead letters again, stage by stage, and releases what waited for a customer of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from streammig.batching import BatchLimits
from streammig.checkpoint import Checkpoint, outbox_path
from streammig.dead_letters.replay import Choice, Replay
from streammig.model import BatchState
from streammig.run import Run

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
            if not await self._stage(name):
                return False
        return True

    async def _stage(self, name: str) -> bool:
        run = self.run
        replay = await self._replay(name)
        if await is_sealed(run, name) or await run.reading.read(replay.any):
            await run.retry(name, replay.waves(outbox_path(run.reading.lookup.path)))
        return not run.context.stopping and await shown(run, name)

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


async def is_sealed(run: Run, name: str) -> bool:
    """Whether an earlier call has sealed what is to be sent."""
    return bool(await run.store.read(lambda file: file.batches(name, *TO_SEND)))


async def shown(run: Run, name: str) -> bool:
    """Wait at the barrier behind what was sent of a stage. When replayed customers can be seen, what waited for them
    may go. False if stopped before."""
    last = name == [*run.reading.inputs][-1]
    unseen = await run.store.read(lambda file: file.any_unseen(name))
    if unseen and not await run.barrier(retried=True).wait(name, last):
        return False
    if name == run.reading.owners:
        await run.store.write(Checkpoint.see_brought)
    return True
