"""Send an answer over a connection: whole, cut, or byte by byte; or reset the connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise

from aiohttp import web

JSON = "application/json"
HTML = "text/html"

SHORTEST_PAUSE = 0.002  # seconds; a shorter sleep is not exact


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def head(self) -> dict[str, str]:
        typed = {"Content-Type": self.content_type} if self.body else {}
        return {**self.headers, **typed}

    def raw(self) -> bytes:
        """Write the answer as it is on the wire, to be cut or sent slowly."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.head().items()]
        lines += [f"Content-Length: {len(self.body)}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode() + self.body


class Gone(Exception):
    """The connection ended without the right answer. The message says how, for the ledger."""


class Wire:
    """One request's connection."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request

    def reset(self) -> Gone:
        """Reset the connection (TCP RST). The client loses everything that it has not read yet."""
        transport = self._request.transport
        if transport is not None:
            # With a linger time of zero, a close is a reset.
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        return Gone("reset")

    def close(self, how: str) -> Gone:
        if self._request.transport is not None:
            self._request.transport.close()
        return Gone(how)

    async def truncate(self, reply: Reply, at: str) -> Gone:
        """Send the first half of the head or of the body, then close. An empty body is replaced, so it can be cut."""
        whole = Reply(reply.status, reply.body or b'{"message": "enqueued"}', reply.content_type, reply.headers)
        raw = whole.raw()
        behind_head = len(raw) - len(whole.body)
        self._write(raw[: behind_head // 2 if at == "head" else behind_head + len(whole.body) // 2])
        return self.close("truncated")

    async def drip(self, reply: Reply, seconds: float) -> Gone:
        """Send the answer byte by byte, or in the smallest pieces that the time allows."""
        raw = reply.raw()
        pieces = max(1, min(len(raw), int(seconds / SHORTEST_PAUSE)))
        ends = [len(raw) * piece // pieces for piece in range(pieces + 1)]
        for begin, end in pairwise(ends):
            self._write(raw[begin:end])
            await asyncio.sleep(seconds / pieces)
        return self.close(str(reply.status))

    def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)
