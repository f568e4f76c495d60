"""Start, run and stop a sandbox as a server."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from aiohttp import web

from streammig.sandbox.applying import Queue
from streammig.sandbox.config import SandboxConfig, Span
from streammig.sandbox.handlers import PREFIX, Front
from streammig.sandbox.intake import Intake
from streammig.sandbox.ledger import holds, ledger
from streammig.sandbox.limits import Limiter, parse_limits
from streammig.sandbox.reads import Reads
from streammig.sandbox.script import MIGRATIONS, Script, load_script
from streammig.sandbox.store import Store
from streammig.sandbox.tokens import Tokens
from streammig.sandbox.worker import Pump, Worker

DAY = 86400.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Sandbox:
    """A local Masivo. Call `start` and `stop` once each, or use it as an async context manager.

    The constructor raises ValueError for limits, delays or a script that can't be read. `start` raises ValueError for
    the store, and OSError for a port in use. `clock` gives seconds since the epoch.
    """

    def __init__(self, config: SandboxConfig | None = None, clock: Callable[[], float] = time.time) -> None:
        self._config = config or SandboxConfig()
        self._clock = clock
        self._windows = parse_limits(self._config.limits)
        self._latency = Span.parse(self._config.latency, "latency")
        self._queue_delay = Span.parse(self._config.queue_delay, "queue delay")
        self._rules = load_script(self._config.script)
        self._stack = AsyncExitStack()
        self._front: Front | None = None
        self._url = ""

    async def __aenter__(self) -> Sandbox:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The base URL, with the prefix and without a final slash."""
        return self._url

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one."""
        async with AsyncExitStack() as stack:
            self._front = front = await self._open(stack)
            server = web.Server(front.handle, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=0.25)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            stack.callback(front.stopping.set)
            site = web.TCPSite(runner, host, port)
            await site.start()
            self._url = f"http://{_address(runner.addresses[0])}{PREFIX}"
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Close every connection and the store. A permanent store keeps its queue."""
        await self._stack.aclose()
        self._front = None

    def ledger(self) -> dict[str, Any]:
        """Return the answer of `GET /_sandbox/ledger`."""
        front = self._running()
        return front.worker.wait(ledger, front.store)

    def holds(self, entity: str, after: str = "", limit: int = 1000) -> dict[str, Any]:
        """Return the answer of `GET /_sandbox/holds`."""
        front = self._running()
        return front.worker.wait(holds, front.store, entity, after, limit)

    async def drain(self, timeout: float = 60.0) -> bool:
        """Wait until the queue is empty, at most `timeout` seconds. Return whether it is empty."""
        return await self._running().pump.empty(timeout)

    def _running(self) -> Front:
        if self._front is None:
            raise RuntimeError("the sandbox is not running")
        return self._front

    async def _open(self, stack: AsyncExitStack) -> Front:
        config, clock, dice = self._config, self._clock, Random(self._config.seed)
        executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sandbox"))
        path = config.store
        if path is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))) / "store.sqlite"
        store = await asyncio.wrap_future(executor.submit(Store, path))
        worker = Worker(executor, store)
        stack.callback(worker.wait, store.close)
        limiter = Limiter(self._windows)
        for at, kind in await worker.run(store.arrivals, clock() - DAY):
            limiter.judge(at, kind in MIGRATIONS)
        pump = Pump(worker, store, Queue(config, store), clock)
        pumping = asyncio.create_task(pump.run())
        stack.push_async_callback(_end, pumping)
        return Front(
            config=config,
            clock=clock,
            dice=dice,
            limiter=limiter,
            script=Script(self._rules, dice),
            tokens=Tokens(config.api_key, config.token_lifetime),
            store=store,
            worker=worker,
            pump=pump,
            intake=Intake(config, store, Random(config.seed)),  # its own dice, for it runs in another thread
            reads=Reads(config, store),
            latency=self._latency,
            queue_delay=self._queue_delay,
            stopping=asyncio.Event(),
        )


def serve(
    config: SandboxConfig, host: str = "127.0.0.1", port: int = 0, say: Callable[[str], None] | None = None
) -> None:
    """Run a sandbox until SIGINT or SIGTERM, as the only work of a process.

    `say` gets one line with the URL and the API key as soon as it listens. None prints it to stdout, flushed.
    Raises the same errors as `Sandbox`.
    """
    # The loop must note arrivals while the worker computes. With Python's switch interval of 5 ms, one in ten arrivals
    # was noted 4 to 20 ms late under full batches. With 0.5 ms it is 3 to 5 ms.
    sys.setswitchinterval(0.0005)
    asyncio.run(_serve(config, host, port, say or partial(print, flush=True)))


async def _serve(config: SandboxConfig, host: str, port: int, say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    sandbox = Sandbox(config)
    await sandbox.start(host, port)
    try:
        say(f"sandbox listens at {sandbox.url} with API key {config.api_key}")
        await stop.wait()
    finally:
        await sandbox.stop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task. If it has failed before, raise its error."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _address(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
