"""Reads from the target: several at a time, with notices of long waits, ended when the run stops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streammig.context import Context
from streammig.errors import counted
from streammig.model import Record
from streammig.target import Client, Permits, ReadBack, Seen
from streammig.telemetry import Waiting

LOOK = 30.0  # most seconds between two looks
ROUNDS = 5  # most looks at answers that tell nothing
FEW = 5  # after so many answers in an unknown form, no more are read
AGAIN = 60.0  # seconds between two notices of the same reading
FIRST_GUESS = 0.2  # assumed seconds for a read, before one was measured


@dataclass(slots=True)
class Reads:
    """Reads through a read-back, up to `most` at a time. The read-back paces them by the general limit.

    When the run must stop, open reads end as CANT_TELL. `misread` is the status and shape of the last answer, if it
    was in an unknown form.
    """

    readback: ReadBack
    context: Context
    most: int = 4
    misread: str = ""
    _places: asyncio.Semaphore = field(init=False)
    _each: float = FIRST_GUESS  # seconds a read takes on average, several at a time

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.most)

    def can_tell(self, stage: str, record: Record) -> bool:
        return self.readback.can_tell(stage, record)

    def proves(self, stage: str) -> bool:
        return self.readback.proves(stage)

    async def reachable(self) -> bool:
        return bool(await self.context.until_stopped(self.readback.reachable()))

    async def visible(self, stage: str, record: Record) -> Seen:
        async with self._places:
            found = await self.context.until_stopped(self._read(stage, record))
        seen, self.misread = found or (Seen.CANT_TELL, "")
        return seen

    async def _read(self, stage: str, record: Record) -> tuple[Seen, str]:
        """Return what is seen, and `misread`, taken before another read begins."""
        return await self.readback.visible(stage, record), self.readback.misread

    async def all(self, stage: str, records: Sequence[Record], what: str = "") -> list[Seen]:
        """Read each record. If none of the first few answers is in a known form, the others are not read.

        A long reading is notified if `what` names it.
        """
        few = list(await asyncio.gather(*[self.visible(stage, record) for record in records[:FEW]]))
        rest = records[FEW:]
        if not rest or (self.misread and set(few) == {Seen.CANT_TELL}):
            return few + [Seen.CANT_TELL] * len(rest)
        now = asyncio.get_running_loop().time
        began, told, done = now(), now(), 0

        def tell() -> None:
            left = len(rest) - done
            read = f", {done + len(few):,} of {counted(len(records), 'read')} made"
            if what:
                self.context.notify(Waiting("reading-back", what + read, left * self._each))

        async def one(record: Record) -> Seen:
            nonlocal done, told
            seen = await self.visible(stage, record)
            done += 1
            self._each = (now() - began) / done
            if now() - told >= AGAIN:
                told = now()
                tell()
            return seen

        tell()
        return few + list(await asyncio.gather(*map(one, rest)))

    async def all_retried(self, stage: str, records: Sequence[Record], what: str = "") -> list[Seen]:
        """Read each record as `all`, and those that can't be told again, up to five rounds: the trouble may pass."""
        seen = await self.all(stage, records, what)
        for _ in range(ROUNDS - 1):
            again = [at for at, it in enumerate(seen) if it is Seen.CANT_TELL]
            if not again or not await self.context.pause(min(LOOK, self.context.times.settle)):
                break
            found = await self.all(stage, [records[at] for at in again], what)
            for at, it in zip(again, found, strict=True):
                seen[at] = it
        return seen


class Connection(NamedTuple):
    """The open connection of a run to its target."""

    client: Client
    readback: ReadBack
    permits: Permits
    reads: Reads
