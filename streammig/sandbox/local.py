"""Run a sandbox in a thread of this process, for the demo and for tests."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from streammig.sandbox.config import SandboxConfig
from streammig.sandbox.server import Sandbox

PATIENCE = 60.0  # seconds to wait for the queue


class LocalTarget:
    """A sandbox in its own thread, as a context manager. Entering raises the error if it can't start."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, Sandbox]] = Future()
        self._thread = threading.Thread(target=self._live, name="sandbox", daemon=True)

    def __enter__(self) -> LocalTarget:
        self._thread.start()
        self._loop, self._end, self._sandbox = self._ready.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return self._sandbox.url

    def ledger(self) -> dict[str, Any]:
        """Wait until the queue is empty, and return the ledger."""
        asyncio.run_coroutine_threadsafe(self._sandbox.drain(PATIENCE), self._loop).result()
        return self._sandbox.ledger()

    def _live(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        end = asyncio.Event()
        async with Sandbox(self._config) as sandbox:
            self._ready.set_result((asyncio.get_running_loop(), end, sandbox))
            await end.wait()
