"""Tells a service manager how a run is (systemd's protocol of NOTIFY_SOCKET): ready, alive, stopping, and a line."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

from streammig.report.watch import Watch
from streammig.telemetry import Notice, Notify, Stopping

STATUS = 10.0  # seconds between two lines, at most
GRACE = 10.0  # seconds for what follows the last request


class Service:
    """A `Notify` in front of another one, that keeps the service manager told; without one it does nothing.

    The manager is named in the environment, from which it is taken: no child is to speak for the run. `alive` must run
    in the loop that does the work: a loop that hangs is not alive.
    """

    def __init__(self, environment: MutableMapping[str, str], notify: Notify) -> None:
        self._notify = notify
        self._watch = Watch()
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        period, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        mine = pid in ("", str(os.getpid()))
        self._watchdog = int(period) / 1e6 if mine and period.isdigit() and int(period) else None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)

    def __call__(self, notice: Notice) -> None:
        self._notify(notice)
        self._watch.hear(notice)
        if isinstance(notice, Stopping):
            self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int((notice.seconds + GRACE) * 1e6)}")

    async def alive(self) -> None:
        """Say that the run is ready, then again and again that it lives, and how far it is."""
        self._tell("READY=1\nSTATUS=reading the export")
        while self._socket is not None:
            await asyncio.sleep(min(STATUS, self._watchdog / 3 if self._watchdog is not None else STATUS))
            line = self._watch.line() if self._watch.stage else "reading the export"
            self._tell(f"WATCHDOG=1\nSTATUS={line}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, said: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # a manager that does not listen changes nothing
                self._socket.sendto(said.encode(), self._address)
