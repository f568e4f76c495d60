"""Keeps a run's metrics in a file, for a collector that reaches no port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from streammig.dashboard.view import View
from streammig.disk import new_file
from streammig.errors import Problem
from streammig.report.metrics import BEGINNING, metrics
from streammig.telemetry import Notify, Warned

EVERY = 15.0  # seconds between two writes


@asynccontextmanager
async def metrics_kept(path: Path, view: View, notify: Notify, every: float = EVERY) -> AsyncIterator[None]:
    """Write the metrics every so many seconds, and once more at the end. The file is whole at any moment.

    Raises `Problem` where the first write fails. A later failure only warns, once: it never stops a run.
    """
    await _write(path, view)
    warned = False

    async def again() -> None:
        nonlocal warned
        try:
            await _write(path, view)
        except Problem as problem:
            if not warned:
                notify(Warned("metrics-failed", f"the metrics are not up to date: {problem.what}"))
            warned = True

    async def keep() -> None:
        while True:
            await asyncio.sleep(every)
            await again()

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        view.expire()
        await again()


async def _write(path: Path, view: View) -> None:
    text = metrics((await view.look()).found).encode()
    await asyncio.to_thread(_replace, path, text)


def _replace(path: Path, text: bytes) -> None:
    with new_file(path, may_replace=_is_ours) as file:
        file.write(text)


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(BEGINNING)) == BEGINNING.encode()
    except OSError:
        return False
