"""Looks at many records at once, and notes them in order, without a gap."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from streammig.context import Context
from streammig.inputs import Reading
from streammig.target import Difference
from streammig.verify.work import Item

PIECE = 128  # records that are read, and noted, together

Look = Callable[[Item], Awaitable[list[Difference] | None]]
"""How an item differs from what was sent; None if the run is to stop. It is cancelled then, too."""

Found = list[tuple[Item, list[Difference]]]


@dataclass(slots=True)
class _Piece:
    """Items that were read together; `left` of them are not looked at yet."""

    left: int
    found: Found = field(default_factory=list)


@dataclass(slots=True)
class Pool:
    """Looks at the items of an iterator with `concurrency` workers. The thread that reads takes the items, one piece
    ahead.

    That thread notes a piece once all its items, and all before it, are looked at: so the noted part has no gaps.
    """

    reading: Reading
    context: Context
    concurrency: int
    look: Look
    note: Callable[[Found], None]
    _ready: deque[tuple[Item, _Piece]] = field(default_factory=deque)
    _open: deque[_Piece] = field(default_factory=deque)
    _coming: asyncio.Task[list[Item]] | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def over(self, items: Iterator[Item]) -> bool:
        """Look at all of them; False if the run is to stop before."""
        try:
            await self.context.until_stopped(self._all(items))
        finally:
            if self._coming is not None:
                await asyncio.wait([self._coming])  # a thread can't be stopped
                self._coming.exception()  # the group raises the first failure; this one counts as seen
        await self.reading.read(self._noted)
        return not self.context.stopping

    async def _all(self, items: Iterator[Item]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(self._work(items))

    async def _work(self, items: Iterator[Item]) -> None:
        while (taken := await self._next(items)) is not None:
            item, piece = taken
            differences = await self.look(item)
            if differences is None:
                return
            piece.found.append((item, differences))
            piece.left -= 1

    async def _next(self, items: Iterator[Item]) -> tuple[Item, _Piece] | None:
        async with self._turn:
            while not self._ready:
                self._coming = self._coming or self._read(items)  # kept, so that `over` waits for it
                found = await asyncio.shield(self._coming)
                self._coming = self._read(items) if found else None
                if not found:
                    return None
                piece = _Piece(len(found))
                self._open.append(piece)
                self._ready.extend((item, piece) for item in found)
            return self._ready.popleft()

    def _read(self, items: Iterator[Item]) -> asyncio.Task[list[Item]]:
        return asyncio.create_task(self.reading.read(self._more, items))

    def _more(self, items: Iterator[Item]) -> list[Item]:
        self._noted()
        return list(islice(items, PIECE))

    def _noted(self) -> None:
        while self._open and not self._open[0].left:
            piece = self._open.popleft()
            self.note(piece.found)
