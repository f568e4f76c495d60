"""Reads of what the target shows: several at a time, told where they take long, and at an end when the run stops."""

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

LOOK = 30.0  # seconds between two looks, at most
ROUNDS = 5  # looks at what says nothing; more of them would say no more
FEW = 5  # answers in a form that says nothing after which the others are not asked for
AGAIN = 60.0  # seconds between two notices of the same reading
FIRST_GUESS = 0.2  # seconds a read takes, before any was measured


@dataclass(slots=True)
class Reads:
    """Reads of a read-back, which paces each by the general limit. Up to `most` go at a time; all end when the run is
    to stop, and say nothing then."""

    readback: ReadBack
    context: Context
    most: int = 4
    misread: str = ""
    _places: asyncio.Semaphore = field(init=False)
    _each: float = FIRST_GUESS  # seconds a read took last, beside the others

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
        """What is seen, and how the answer was misread: asked before another read begins."""
        return await self.readback.visible(stage, record), self.readback.misread

    async def all(self, stage: str, records: Sequence[Record], what: str = "") -> list[Seen]:
        """What is visible of each of these. `misread` is that of the first few where none of those was understood, and
        no more are read then. Named by `what`, a reading that takes long is told."""
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

    async def at_last(self, stage: str, records: Sequence[Record], what: str = "") -> list[Seen]:
        """As `all`; what says nothing is read again, up to five rounds, for it may have met a bad moment."""
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
    """The open way to a target, as a run uses it."""

    client: Client
    readback: ReadBack
    permits: Permits
    reads: Reads
