"""Serves the page of a run, its changes as they come, and its metrics. It only reads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from streammig.dashboard.door import Door
from streammig.dashboard.metrics import metrics, metrics_kept
from streammig.dashboard.view import EVERY, Look, View
from streammig.migration import Migration
from streammig.report.html import live_sections
from streammig.report.parts import style
from streammig.report.text import state_sentence
from streammig.telemetry import Notice

SECTIONS = ("now", "stages", "plan", "permits", "parked", "left", "time", "answers", "latency", "dead", "units")

MOST = 16  # browsers at once
SLOW = 20.0  # seconds that a browser may take to receive a change; then it is disconnected
LAST = 1.0  # seconds that answers under way may take at the end


@cache
def _ours(name: str) -> str:
    return (files("streammig") / "dashboard" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_hash(_ours('page.js'))}';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# aiohttp logs broken requests; in a terminal these lines would break up the bars.
SILENT = logging.Logger("streammig.dashboard", logging.CRITICAL + 1)


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


@asynccontextmanager
async def served(door: Door, view: View) -> AsyncIterator[None]:
    """Serve at an open door as long as this lasts, then close it. No failure of the page reaches the run beside it."""
    pages = _Pages(door, view)
    app = web.Application(middlewares=[pages.guard], logger=SILENT)
    app.router.add_get("/", pages.page)
    app.router.add_get("/events", pages.events)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/healthz", pages.health)
    runner = web.AppRunner(app, access_log=None, logger=SILENT, shutdown_timeout=LAST)
    with door.socket:
        await runner.setup()
        try:
            await web.SockSite(runner, door.socket).start()
            yield
        finally:
            view.expire()
            pages.ending.set()
            await runner.cleanup()


class _Pages:
    def __init__(self, door: Door, view: View) -> None:
        self._door = door
        self._view = view
        self._watching = 0
        self.ending = asyncio.Event()

    @property
    def guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            may = self._door.lets_in(request.host, request.headers.get("Authorization", ""))
            if request.path == "/healthz" or may:
                return await handler(request)
            if not self._door.token:
                return web.Response(status=421, text="ask for this machine by its name, as http://127.0.0.1\n")
            asks = {"WWW-Authenticate": 'Basic realm="streammig: the token is the password"'}
            return web.Response(status=401, text="the token is missing or wrong\n", headers=asks)

        return guard

    async def page(self, request: web.Request) -> web.Response:
        text = page(await self._view.look())
        answer = web.Response(text=text, content_type="text/html", headers=HEADERS)
        answer.enable_compression()
        return answer

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The sections that changed since this browser received them, as server-sent events.

        Nothing is queued: a slow browser gets the newest sections once it is ready.
        """
        if self._watching >= MOST:
            return web.Response(status=503, text="too many browsers look at this run\n")
        stream = web.StreamResponse(headers=HEADERS | {"Content-Type": "text/event-stream"})
        self._watching += 1
        try:
            await stream.prepare(request)
            await self._send(stream)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._watching -= 1
        return stream

    async def _send(self, stream: web.StreamResponse) -> None:
        sent: dict[str, str] = {}
        over = False
        while True:
            now = parts(await self._view.look())
            changed = {name: text for name, text in now.items() if sent.get(name) != text}
            sent = now
            event = f"event: parts\ndata: {json.dumps(changed)}\n\n" if changed else ": as before\n\n"
            await asyncio.wait_for(stream.write(event.encode()), SLOW)
            if over:
                await asyncio.wait_for(stream.write(b"event: end\ndata: \n\n"), SLOW)
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), EVERY)
            over = self.ending.is_set()

    async def metrics(self, request: web.Request) -> web.Response:
        text = metrics((await self._view.look()).found)
        kind = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=text.encode(), headers=HEADERS | kind)

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers=HEADERS)


def parts(look: Look) -> dict[str, str]:
    """The HTML of each section, and `state`: one sentence, as text."""
    fault = f" The page can't read the checkpoint [{look.fault}]." if look.fault else ""
    if look.found is None:
        waits = "".join(f"<p>{escape(line)}</p>" for line in look.doing)
        empty = {"state": f"The run begins: nothing is sent yet.{fault}", "now": waits}
        return {name: empty.get(name, "") for name in ("state", *SECTIONS)}
    state = state_sentence(look.found["status"]) + fault
    return {"state": state, **live_sections(look.found, look.doing)}


def page(look: Look) -> str:
    """The whole document, as of `look`. Its script then asks for the changes."""
    shown = parts(look)
    host = (urlsplit(look.found["target"]).hostname or "a folder") if look.found else "begins"
    body = "".join(f'<div id="{name}">{shown[name]}</div>' for name in SECTIONS)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>Migration: {escape(host)}</title><style>{style()}{_ours('page.css')}</style></head>\n"
        f'<body><main><header><p class="over">Migration</p><h1>{escape(host)}</h1>'
        f'<p class="state" role="status" id="state">{escape(shown["state"])}</p>'
        f'<p class="warning" id="lost" role="status" hidden></p></header>{body}</main>'
        f"<script>{_ours('page.js')}</script></body></html>\n"
    )
