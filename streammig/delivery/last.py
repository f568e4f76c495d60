"""The last batch of a stage, while the outcome of an earlier one is unknown: parts of it show what became of that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from streammig.checkpoint import Checkpoint
from streammig.delivery.reconcile import LATER
from streammig.delivery.sender import Sender
from streammig.model import Batch, BatchState
from streammig.telemetry import Warned

PARTS = 10  # of one owner each, at most


@dataclass(frozen=True, slots=True)
class LastBatch:
    """Sends the last batch of a stage.

    Only what is accepted later shows that an unknown batch did not land. So parts of one owner each go one at a time,
    until there are enough of them; the rest goes when all outcomes are known, or nothing more can be shown.
    """

    sender: Sender
    unknown: Callable[[], bool]  # whether an outcome is unknown still
    known: Callable[[], Awaitable[None]]  # returns when none is, or the run is to stop

    async def deliver(self, batch: Batch) -> BatchState:
        """As `Sender.deliver`; SPLIT where parts of it went."""
        split = False
        for _ in range(PARTS):
            if self.sender.context.stopping or not self.unknown():
                break
            if await self._shown(batch.stage):
                await self.known()
                break
            parts = await self._part(batch)
            if parts is None:
                break
            if not split and batch.parent is None:  # what is left of a split batch was told of already
                self._say(batch)
            split = True
            one, batch = parts
            await self.sender.deliver(one)
        state = await self.sender.deliver(batch)
        return BatchState.SPLIT if split and state is not BatchState.SEALED else state

    async def _shown(self, stage: str) -> bool:
        """Whether enough was accepted later than every unknown batch."""
        store, now = self.sender.store, self.sender.context.now()

        def enough(file: Checkpoint) -> bool:
            left = file.batches(stage, BatchState.UNKNOWN)
            return all(len(file.accepted_after(it, now, LATER)) == LATER for it in left)

        return await store.read(enough)

    async def _part(self, batch: Batch) -> tuple[Batch, Batch] | None:
        """One owner who can be looked for, and the others; None where there are not both."""
        contents = await self.sender.store.contents(batch)
        can_tell = self.sender.reconciler.reads.can_tell
        chosen = next((it.owner for it in contents.records if can_tell(batch.stage, it)), None)
        mine = [it for it in contents.records if it.owner == chosen]
        others = [it for it in contents.records if it.owner != chosen]
        if not mine or not others:
            return None
        one, rest = await self.sender.part(batch, contents, (mine, others))
        return one, rest

    def _say(self, batch: Batch) -> None:
        self.sender.context.notify(
            Warned(
                "last-batch-split",
                f"the last batch of {batch.stage} is split while an outcome is unknown: what is accepted later shows"
                " whether that landed",
            )
        )
