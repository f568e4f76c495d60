"""Sends dead letters again, stage by stage. Customers go first, then the records that waited for them."""

from __future__ import annotations

from streammig.batching import BatchLimits
from streammig.checkpoint import Checkpoint, outbox_path
from streammig.dead_letters.replay import Choice, Replay
from streammig.model import BatchState
from streammig.run import Run

TO_SEND = (BatchState.SEALED, BatchState.UNKNOWN, BatchState.REJECTED)


async def retry(run: Run, choice: Choice) -> bool:
    """Send the chosen dead letters, stage by stage. False if stopped. Raises like a run.

    After any interruption the same call resumes: one transaction turns dead letters into a batch like any other.
    """
    for name in run.reading.inputs:
        replay = await _replay(run, name, choice)
        if await is_sealed(run, name) or await run.reading.read(replay.any):
            await run.retry(name, replay.waves(outbox_path(run.reading.lookup.path)))
        if run.context.stopping or not await shown(run, name):
            return False
    return True


async def _replay(run: Run, name: str, choice: Choice) -> Replay:
    reading, owners = run.reading, name == run.reading.owners
    return Replay(
        name,
        reading.inputs[name].source,
        reading.inputs[name].rules,
        absent=None if owners else reading.absent(await reading.undecided()),
        index=reading.indexes.get(name) if owners else None,
        file=reading.lookup,
        limits=BatchLimits(bytes=run.settings.max_bytes),
        choice=choice,
        stopped=run.context.stop.is_set,
    )


async def is_sealed(run: Run, name: str) -> bool:
    """Whether an earlier call has left batches to send."""
    return bool(await run.store.read(lambda file: file.batches(name, *TO_SEND)))


async def shown(run: Run, name: str) -> bool:
    """Wait at the barrier after a stage's retried batches. False if stopped.

    Once retried customers can be seen at the target, the records that wait for them may be sent.
    """
    last = name == [*run.reading.inputs][-1]
    unseen = await run.store.read(lambda file: file.any_unseen(name))
    if unseen and not await run.barrier(retried=True).wait(name, last):
        return False
    if name == run.reading.owners:
        await run.store.write(Checkpoint.mark_replayed_seen)
    return True
