"""Looks for what is to be sent at the target, where nobody can tell whether the checkpoint is the newest copy."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from streammig.delivery.verdict import Verdict
from streammig.errors import UnknownOutcome
from streammig.ports import Seen
from streammig.records import Batch


@dataclass(slots=True)
class Suspicion:
    """Shared by all stages of a run. A run that went on from a newer copy may have sent whatever this one would send.

    So every batch is looked for before it is sent, until the operator says that the checkpoint is the newest copy. No
    number of absent ones ends that: they may have been refused in that run, or dropped by the target's queue, or have
    been left out of a pilot or of a retry, and what stands behind them was sent all the same. What can't be looked for
    is not sent.
    """

    doubted: bool = False
    _settled: float | None = None  # when the queue has done what was sent before this run, in the loop's time

    async def check(self, batch: Batch, verdict: Verdict) -> None:
        """Return when a batch may be sent as far as this goes, or the run is to stop; raises `UnknownOutcome` if it is
        at the target, or can't be looked for."""
        if not self.doubted:
            return
        now = asyncio.get_running_loop().time
        if self._settled is None:
            self._settled = now() + verdict.settle_time
        seen = await verdict.glance(batch)
        if seen is Seen.NOTHING and now() < self._settled:  # it may have been sent just before this run began
            await verdict.rest(self._settled - now(), batch)
            seen = await verdict.glance(batch)
        if verdict.stop.is_set() or seen is Seen.NOTHING:
            return
        if seen is Seen.ALL:
            raise UnknownOutcome(
                "checkpoint-behind-target",
                f"the target holds records of batch {batch.seq} of {batch.stage} already, though by this checkpoint"
                " they were never sent: the checkpoint is probably an older copy",
                "Restore the newest copy of it, or bring back the state folder it was run with.",
            )
        raise UnknownOutcome(
            "fence-missing",
            "the account's file does not know this checkpoint from its beginning on, so nobody can tell whether it is"
            f" the newest copy, and batch {batch.seq} of {batch.stage} can't be looked for at the target",
            "It was not sent. Restore the newest copy of the checkpoint, or bring back the state folder it was run"
            " with. If you know that no run has gone on from a newer copy, run the same command once with"
            " --checkpoint-is-current.",
        )
