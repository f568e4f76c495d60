"""A scripted HTTP server on a raw socket, for answers and faults that no HTTP library would produce."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple


class Seen(NamedTuple):
    """One request as it arrived; `headers` by lower-case name."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


Act = Callable[["Seen", asyncio.StreamWriter], Awaitable[None] | None]


def answer(status: int, body: bytes | str | dict[str, object] = b"", **headers: str) -> bytes:
    """An answer as it goes over the wire; `Retry_After="7"` and the like are headers."""
    if isinstance(body, dict):
        body, headers = json.dumps(body).encode(), {"Content_Type": "application/json", **headers}
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Word", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def jwt(**claims: object) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, claims)]
    return ".".join([*parts, "signature"])


class Wire:
    """Answers each request by `script[path]`: bytes, or a callable that writes (or cuts, or hangs) as it likes.

    A list is used up from the front, its last element for ever. `/auth/authorize` gives a token unless scripted.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[bytes | Act]] = {"/auth/authorize": [answer(200, {"data": jwt(exp=2_000_000_000)})]}
        self.seen: list[Seen] = []
        self.url = ""
        self._connections = 0

    def on(self, path: str, *acts: bytes | Act) -> None:
        self.script[path] = list(acts)

    def paths(self) -> list[str]:
        return [each.path for each in self.seen]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                seen = Seen(method, path, headers, body, number)
                self.seen.append(seen)
                acts = self.script[path.partition("?")[0]]
                act = acts.pop(0) if len(acts) > 1 else acts[0]
                if isinstance(act, bytes):
                    writer.write(act)
                elif (more := act(seen, writer)) is not None:
                    await more
                await writer.drain()
        writer.close()


def reset(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hang(_: Seen, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


def cut(data: bytes) -> Act:
    """Send this much and close."""

    def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    return act


@asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    wire = Wire()
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await wire.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    wire.url = f"{'https' if tls else 'http'}://localhost:{port}"
    try:
        yield wire
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.asynccontextmanager
async def speaking(how: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """The port of a server that speaks to each connection in this way."""
    async with await asyncio.start_server(how, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
