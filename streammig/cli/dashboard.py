"""`streammig dashboard`: the page of a run, beside it or after it."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from pathlib import Path

import click

from streammig.checkpoint import Checkpoint
from streammig.cli import options, say
from streammig.dashboard.door import TOKEN, Door, opened
from streammig.dashboard.view import View


@click.command()
@options.checkpoint
@click.option(
    "--listen", default="127.0.0.1:8790", show_default=True, metavar="HOST:PORT",
    help="Where to serve it; elsewhere than on this machine only with a token in STREAMMIG_TOKEN.",
)  # fmt: skip
def command(checkpoint: Path, listen: str) -> None:
    """Serve the page of a run until Ctrl-C: how far it is, beside the run or after it.

    It changes nothing. /metrics has the numbers for Prometheus, /healthz says that the page is served.
    """
    from streammig.dashboard.server import served  # it imports aiohttp, which --help can do without

    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        file.verify(quick=True)

    async def serve(door: Door) -> None:
        async with served(door, View(checkpoint)):
            say(f"dashboard: {door.url}")
            await asyncio.Event().wait()

    asyncio.run(serve(opened(listen, "listen", os.environ.get(TOKEN, ""))))
