"""Looks for what is to be sent first at the target, where nobody can tell whether the checkpoint is the newest copy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from streammig.errors import UnknownOutcome
from streammig.ports import Seen
from streammig.records import Batch


@dataclass(slots=True)
class Suspicion:
    """Shared by all stages of a run. A run that went on from a newer copy has sent what this one would send first: so
    the first `left` batches are looked for, one after the other, before anything else is sent."""

    left: int = 0
    _proven: bool = False  # one was looked for and is not there: then nothing behind it was sent, nor a later stage
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def check(self, batch: Batch, glance: Callable[[Batch], Awaitable[Seen]], stop: asyncio.Event) -> None:
        """Return when a batch may be sent as far as this goes; raises `UnknownOutcome` if it is at the target, or can't
        be looked for before one could."""
        async with self._one:
            if not self.left or stop.is_set():
                return
            seen = await glance(batch)
            if stop.is_set():
                return
            if seen is Seen.ALL:
                raise UnknownOutcome(
                    f"the target holds records of batch {batch.seq} of {batch.stage} already, though by this checkpoint"
                    " they were never sent: the checkpoint is probably an older copy",
                    "Restore the newest copy of it, or bring back the state folder it was run with.",
                )
            if seen is not Seen.NOTHING and not self._proven:
                raise UnknownOutcome(
                    "the account's file does not know this checkpoint, so nobody can tell whether it is the newest"
                    f" copy, and batch {batch.seq} of {batch.stage}, the first to be sent, can't be looked for at the"
                    " target",
                    "Nothing was sent. Restore the newest copy of it, or bring back the state folder it was run with."
                    " If you know that no run went on since this copy was made, run the same command once with"
                    " --checkpoint-is-current.",
                )
            self._proven = True
            self.left -= 1
