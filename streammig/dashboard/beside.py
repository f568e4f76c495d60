"""Shows a run of this process, on a page and in a metrics file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from streammig.dashboard.door import Door
from streammig.dashboard.metrics_file import metrics_kept
from streammig.dashboard.server import served
from streammig.dashboard.view import View
from streammig.migration import Migration
from streammig.telemetry import Notice


def beside(
    run: Migration, checkpoint: Path, door: Door | None, metrics_file: Path | None
) -> Callable[[], Awaitable[bool]]:
    """The run as a function to call, with a page at the door and the metrics file open as long as it lasts."""
    notify, view = run.notify, View(checkpoint)

    def heard(notice: Notice) -> None:
        notify(notice)
        view.hear(notice)

    async def work() -> bool:
        async with AsyncExitStack() as stack:
            if metrics_file is not None:
                await stack.enter_async_context(metrics_kept(metrics_file, view, notify))
            if door is not None:
                await stack.enter_async_context(served(door, view))
            return await run.run()

    run.notify = heard
    return work
