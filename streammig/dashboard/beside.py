"""Shows a run of this process, on a page and in a metrics file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from streammig.dashboard.door import Door
from streammig.dashboard.metrics_file import metrics_kept
from streammig.dashboard.server import served
from streammig.dashboard.view import View
from streammig.migration import Migration
from streammig.telemetry import Notice, Notify


@dataclass(frozen=True, slots=True)
class Beside:
    """What the options ask to show of a run: a page at a door, a metrics file, or both."""

    checkpoint: Path
    door: Door | None
    metrics_file: Path | None

    def beside(self, run: Migration) -> Callable[[], Awaitable[bool]]:
        """The run as a function to call, with the page and the metrics file open as long as it lasts."""
        notify, view = run.notify, View(self.checkpoint)

        def heard(notice: Notice) -> None:
            notify(notice)
            view.hear(notice)

        async def work() -> bool:
            async with self._shown(view, notify):
                return await run.run()

        run.notify = heard
        return work

    @asynccontextmanager
    async def _shown(self, view: View, notify: Notify) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self.metrics_file is not None:
                await stack.enter_async_context(metrics_kept(self.metrics_file, view, notify))
            if self.door is not None:
                await stack.enter_async_context(served(self.door, view))
            yield
