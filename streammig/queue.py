"""The bounded queue between the producer and the workers: sealed batches, whose bodies hold up to so many bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streammig.model import Batch


class ByteBoundedQueue:
    """First in, first out. `put` waits while the bodies of what is inside hold `limit` bytes or more; `get` waits for a
    batch and returns None once the queue is closed and empty."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._batches: asyncio.Queue[Batch | None] = asyncio.Queue()  # behind the last one None
        self._closed = False
        self._watching: set[asyncio.Future[None]] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing is inside, and nothing comes."""
        return self._closed and not len(self)

    def __len__(self) -> int:
        return self._batches.qsize() - self._closed

    async def put(self, batch: Batch) -> None:
        if self._size >= self._limit:
            await self.until(lambda: self._size < self._limit)
        self._batches.put_nowait(batch)
        self._size += batch.size
        self.look_again()

    async def get(self) -> Batch | None:
        batch = await self._batches.get()
        if batch is None:
            self._batches.put_nowait(None)
            return None
        self._size -= batch.size
        self.look_again()
        return batch

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds; looked at again at each change, and whenever `look_again` is called."""
        while not holds():
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watching.add(change)
            try:
                await change
            finally:
                self._watching.discard(change)

    def look_again(self) -> None:
        for change in self._watching:
            if not change.done():
                change.set_result(None)

    def close(self) -> None:
        """Nothing more is put in; who waits for a batch that will not come gets None."""
        if not self._closed:
            self._closed = True
            self._batches.put_nowait(None)
        self.look_again()
