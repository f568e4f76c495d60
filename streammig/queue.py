"""The bounded queue between the producer and the workers: sealed batches, whose bodies hold up to so many bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from streammig.model import Batch


class ByteBoundedQueue:
    """First in, first out. `put` waits while the bodies of what is inside hold `limit` bytes or more; `get` waits for a
    batch and returns None once the queue is closed and empty."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._batches: deque[Batch] = deque()
        self._closed = False
        self._changed = asyncio.Condition()

    @property
    def is_over(self) -> bool:
        """Whether nothing is inside, and nothing comes."""
        return self._closed and not self._batches

    def __len__(self) -> int:
        return len(self._batches)

    async def put(self, batch: Batch) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._size < self._limit)
            self._batches.append(batch)
            self._size += batch.size
            self._changed.notify_all()

    async def get(self) -> Batch | None:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._batches) or self._closed)
            if not self._batches:
                return None
            batch = self._batches.popleft()
            self._size -= batch.size
            self._changed.notify_all()
            return batch

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds; looked at again at each change, and whenever `look_again` is called."""
        async with self._changed:
            await self._changed.wait_for(holds)

    async def look_again(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def close(self) -> None:
        """Nothing more is put in; who waits for a batch that will not come gets None."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
