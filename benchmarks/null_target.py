"""A target that takes everything and keeps nothing, as cheap as Python allows.

    python -m benchmarks.null_target [--wait SECONDS]

It prints its base URL, then counts: `GET /_seen` says how many migration requests and bytes of bodies came, and when
the first of them began to arrive (seconds since the epoch). `--wait` seconds pass before each of them is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HEAD = 65536


class Seen:
    """What came so far."""

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self.requests = self.bytes = 0
        self.first: float | None = None


class Taking(asyncio.BufferedProtocol):
    """One connection: the head of a request is kept, its body is read into a buffer that nobody looks at."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._buffer = memoryview(bytearray(1 << 18))
        self._head = b""
        self._left = 0  # bytes of the body that are still to come
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._left:
            self._left -= nbytes
            if not self._left:
                self._end()
            return
        self._head += bytes(self._buffer[:nbytes])
        head, found, rest = self._head.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"POST"):
            length = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0])
            if self._seen.first is None:
                self._seen.first = time.time()
            self._seen.bytes += length
            self._left = length - len(rest)
            if not self._left:
                self._end()
            return
        self._answer(b"200 OK", self._body_of(head.split(b" ")[1].decode()))

    def _body_of(self, path: str) -> bytes:
        seen = self._seen
        if path.endswith("/_seen"):
            return json.dumps({"requests": seen.requests, "bytes": seen.bytes, "first": seen.first}).encode()
        return b'{"data":"token"}'

    def _end(self) -> None:
        self._seen.requests += 1
        if self._seen.wait:
            asyncio.get_running_loop().call_later(self._seen.wait, self._answer, b"201 Created", b"")
        else:
            self._answer(b"201 Created", b"")

    def _answer(self, status: bytes, body: bytes) -> None:
        self._head = b""
        if not self._transport.is_closing():
            head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self._transport.write(head % (status, len(body)) + body)


async def serve(wait: float) -> None:
    seen = Seen(wait)
    server = await asyncio.get_running_loop().create_server(lambda: Taking(seen), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextmanager
def null_target(wait: float = 0.0) -> Iterator[str]:
    """Its base URL, as long as the block lasts."""
    command = [sys.executable, "-m", "benchmarks.null_target", "--wait", str(wait)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def seen(url: str) -> Any:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/_seen", timeout=60) as answer:
        return json.load(answer)


def direct() -> dict[str, str]:
    """An environment for a client of it: a key, no proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "MASIVO_API_KEY": "key"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--wait", type=float, default=0.0)
    asyncio.run(serve(parser.parse_args().wait))
