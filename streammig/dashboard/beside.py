"""Page and metrics file beside a run in this process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from streammig.dashboard.door import TOKEN, opened
from streammig.dashboard.metrics_file import metrics_kept
from streammig.dashboard.server import served
from streammig.dashboard.view import View
from streammig.migration import Migration
from streammig.telemetry import Notice, Notify


class Beside:
    """What is shown of a run, as it was asked for; nothing where nothing was. Raises `Unusable` where the page can't be
    served."""

    def __init__(self, checkpoint: Path, address: str | None, metrics_file: Path | None, notify: Notify) -> None:
        self.door = opened(address, "dashboard", os.environ) if address is not None else None
        os.environ.pop(TOKEN, None)  # a mapping in a process of its own has no use for it
        self._file = metrics_file
        self._notify = notify
        self._view = View(checkpoint)

    def beside(self, run: Migration) -> Callable[[], Awaitable[bool]]:
        """The work of a run, with all that is shown of it."""

        def heard(notice: Notice) -> None:
            self._notify(notice)
            self._view.hear(notice)

        async def work() -> bool:
            async with self._shown():
                return await run.run()

        run.notify = heard
        return work

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        """Show the run as long as this lasts."""
        async with AsyncExitStack() as stack:
            if self._file is not None:
                await stack.enter_async_context(metrics_kept(self._file, self._view, self._notify))
            if self.door is not None:
                await stack.enter_async_context(served(self.door, self._view))
            yield
