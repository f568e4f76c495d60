"""Tells a service manager how a run is, by systemd's protocol of NOTIFY_SOCKET: ready, alive, stopping, status."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

from streammig.report.watch import Watch
from streammig.telemetry import Notice, Notify, Stopping

STATUS = 10.0  # seconds between two status lines, at most
GRACE = 10.0  # seconds for the work after the last request


class Service:
    """A `Notify` in front of another one, which also tells a service manager. Without a manager it only passes on.

    The environment names the manager. That name is removed, so that no child speaks for the run. `alive` must run in
    the loop that does the work: a loop that hangs is not alive.
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
        """Tell that the run is ready, then at intervals that it is alive and how far it is."""
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
            with suppress(OSError):  # a manager that does not listen never stops a run
                self._socket.sendto(said.encode(), self._address)
