"""The last batch of a stage: while an earlier outcome is unknown, parts of it go first, as evidence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from streammig.checkpoint import Checkpoint
from streammig.delivery.reconcile import LATER
from streammig.delivery.sender import Sender
from streammig.model import Batch, BatchState
from streammig.telemetry import Warned

PARTS = 10  # most parts of one owner each


@dataclass(frozen=True, slots=True)
class LastBatch:
    """Sends the last batch of a stage.

    Only batches accepted later can prove that an unknown batch did not land. So parts of one owner each go one at a
    time until there are enough. The rest goes when all outcomes are known, or parts can prove no more.
    """

    sender: Sender
    unknown: Callable[[], bool]  # whether an outcome is unknown
    doubts: Callable[[], int]  # how many outcomes were unknown so far
    known: Callable[[int], Awaitable[None]]  # waits until none is, there are more doubts than so many, or the run stops

    async def deliver(self, batch: Batch) -> BatchState:
        """Deliver the batch as `Sender.deliver`; return SPLIT if parts of it went."""
        split = False
        for _ in range(PARTS):
            if self.sender.context.stopping or not self.unknown():
                break
            doubts = self.doubts()
            if await self._has_evidence(batch.stage):
                await self.known(doubts)  # a batch that is sent again may become unknown again
                continue
            parts = await self._part(batch)
            if parts is None:
                break
            if not split and batch.parent is None:  # for a part, the notice came already
                self._tell_split(batch)
            split = True
            one, batch = parts
            await self.sender.deliver(one)
        state = await self.sender.deliver(batch)
        return BatchState.SPLIT if split and state is not BatchState.SEALED else state

    async def _has_evidence(self, stage: str) -> bool:
        """Tell whether enough batches were accepted later than every unknown one."""
        store, now = self.sender.store, self.sender.context.now()

        def enough(file: Checkpoint) -> bool:
            left = file.batches(stage, BatchState.UNKNOWN)
            return all(len(file.accepted_after(it, now, LATER)) == LATER for it in left)

        return await store.read(enough)

    async def _part(self, batch: Batch) -> tuple[Batch, Batch] | None:
        """Split off one owner who can be looked for; return that part and the rest, None if one of both is empty."""
        contents = await self.sender.store.contents(batch)
        can_tell = self.sender.reconciler.reads.can_tell
        chosen = next((it.owner for it in contents.records if can_tell(batch.stage, it)), None)
        mine = [it for it in contents.records if it.owner == chosen]
        others = [it for it in contents.records if it.owner != chosen]
        if not mine or not others:
            return None
        one, rest = await self.sender.part(batch, contents, (mine, others))
        return one, rest

    def _tell_split(self, batch: Batch) -> None:
        self.sender.context.notify(
            Warned(
                "last-batch-split",
                f"the last batch of {batch.stage} is split while an outcome is unknown: parts accepted later can"
                " prove whether that batch landed",
            )
        )
