"""Servers of objects on loopback: one that gives ranges of an object, and a relay that cuts connections to another."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class WebObject:
    """What a server holds at `path`, and how it behaves. `asked` are the Range headers that it saw.

    Reads of an object through the XML API of Google's store and through Azure's Blob API are the same: HEAD and ranged
    GET with ETag and If-Match, below the bucket's or the account's and the container's path. `signed` is what the
    Authorization header must begin with.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.path, self.signed = "/export", ""
        self.etag = '"{}"'
        self.cut = 0  # bytes of an answer behind which the connection is cut
        self.ranges = self.matches = True
        self.status = 0  # of every answer, where it is set
        self.fails_behind = -1  # answers nothing behind this byte
        self.asked: list[str] = []
        self.url = ""

    def tag(self) -> str:
        return self.etag.format(hashlib.md5(self.data).hexdigest())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    it: WebObject

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        it = self.it
        asked = self.headers.get("Range", self.headers.get("x-ms-range", "")) if it.ranges else ""
        status = it.status or (404 if unquote(self.path) != it.path else 206 if asked else 200)
        if not self.headers.get("Authorization", "").startswith(it.signed):
            status = 403
        match = self.headers.get("If-Match", "")
        if it.matches and match and (match != it.tag() or match.startswith("W/")):
            status = 412
        if status >= 300:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin, end = 0, len(it.data)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(end, int(last) + 1)
            it.asked.append(asked)
        if 0 <= it.fails_behind < begin:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Last-Modified", "Sat, 28 Nov 2020 10:00:00 GMT")
        if it.tag():
            self.send_header("ETag", it.tag())
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(it.data)}")
        self.end_headers()
        if self.command == "GET":
            self.close_connection = bool(it.cut) and end - begin > it.cut
            self.wfile.write(it.data[begin : min(end, begin + it.cut) if it.cut else end])


@contextmanager
def web_object(data: bytes) -> Iterator[WebObject]:
    """A web server with one object."""
    it = WebObject(data)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"it": it}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    it.url = f"http://127.0.0.1:{server.server_port}/export"
    try:
        yield it
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def cutting_relay(port: int, every: int) -> Iterator[int]:
    """The port of a relay to a port of this machine. It cuts each connection behind `every` bytes of answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    server = socket.create_connection(("127.0.0.1", port))
                    threading.Thread(target=_pass_on, args=(client, server, None), daemon=True).start()
                    threading.Thread(target=_pass_on, args=(server, client, every), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _pass_on(source: socket.socket, sink: socket.socket, most: int | None) -> None:
    with suppress(OSError):
        while (most is None or most > 0) and (data := source.recv(65536 if most is None else min(65536, most))):
            sink.sendall(data)
            most = None if most is None else most - len(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        if most is not None:
            end.close()
