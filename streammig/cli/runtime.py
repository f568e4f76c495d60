"""Shared by the commands that talk to the target: signals, service manager, and settings from a checkpoint."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import closing, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from streammig.checkpoint import Checkpoint
from streammig.cli import STOPPED, called, fail, say
from streammig.cli.announce import announcing
from streammig.errors import Problem, Unusable
from streammig.migration import Ask, Migration
from streammig.report.live import watching
from streammig.report.watch import Watch
from streammig.settings import api_key, from_checkpoint
from streammig.stages import STAGES
from streammig.telemetry import Notice, Notify, Output, Stopping

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_KEPT = 4 << 20  # bytes that are free at the end of a heap and stay there for the next body
_APART = 8 << 20  # bytes from which on a block is mapped by itself; no request body has so many
STATUS = 10.0  # seconds between two status lines, at most
GRACE = 10.0  # seconds for the work after the last request
T = TypeVar("T")


async def drive(run: Migration, work: Callable[[], Awaitable[T]], notify: Notify) -> T:
    """Run `work`. The first Ctrl-C, SIGTERM or SIGHUP drains; then a Ctrl-C or SIGTERM aborts. A further SIGHUP does
    nothing, because a closed terminal sends several."""
    keep_room_for_bodies()
    loop = asyncio.get_running_loop()

    def interrupted(number: int) -> None:
        if run.stop.is_set():
            if number != signal.SIGHUP:
                run.abort()
            return
        run.drain()
        notify(Stopping(run.settings.drain_time if run.assembled else 0.0))

    def heard(number: int, _: object) -> None:
        if number == signal.SIGHUP:
            _without_terminal()
        loop.call_soon_threadsafe(interrupted, number)

    # Not the loop's own handlers: it would leave SIGTERM to kill us while the totals are printed.
    unheard = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as under nohup
    before = {it: signal.signal(it, heard) for it in SIGNALS if it != signal.SIGHUP or not unheard}
    try:
        return await work()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def driven(run: Migration, work: Callable[[], Awaitable[T]], notify: Notify) -> T:
    """As `drive`, to its end, which a service manager is told of. What a mapping prints goes to stderr, so that a
    document on stdout stays whole."""
    run.notify = service = Service(os.environ, run.notify)

    async def served() -> T:
        telling = asyncio.create_task(service.alive())
        try:
            return await drive(run, work, service)
        finally:
            telling.cancel()

    with closing(service), redirect_stdout(sys.stderr):
        return asyncio.run(served())


def _without_terminal() -> None:
    """Redirect output to nowhere if the terminal is gone: a failed write would break the drain."""
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        try:
            os.get_terminal_size(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), descriptor)


class Driven(NamedTuple):
    """The result of a command beside the run, or the problem that ended it. `notify` is still to be told the end."""

    result: Any
    problem: Problem | None
    began: bool
    notify: Notify


def beside(
    checkpoint: Path, toml: Path | None, work: Callable[[Migration], Awaitable[object]], output: Output,
    current: bool = False, tells: str = "", **flags: object,
) -> Driven:  # fmt: skip
    """Work on an existing checkpoint with the settings that its run had, and those of a file and of `flags` on top. The
    API key comes from where `run` takes it. Raises `Unusable` for what can't be gone on with; other problems are part
    of the result. `tells` is the name of a command that tells its events.
    """
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        bound = file.run
    if bound["binding"].get("dry_run"):
        said = f"{checkpoint} is that of a dry run: nothing was sent"
        raise Unusable("checkpoint-of-dry-run", said, "Name the checkpoint of a run.")
    context = bound["context"]
    settings, folder = from_checkpoint(checkpoint, context, toml)
    settings = msgspec.structs.replace(settings, **{name: it for name, it in flags.items() if it is not None})
    for name in STAGES:
        if settings.stage(name).unknown == "resend":
            # Sending again without proof is for a run that was asked for it by name.
            safe = msgspec.structs.replace(settings.stage(name), unknown="read-back")
            settings = msgspec.structs.replace(settings, **{name: safe})
    if not settings.state_dir and context.get("state_dir"):
        settings = msgspec.structs.replace(settings, state_dir=context["state_dir"])
    key = api_key(settings, os.environ)
    ask = Ask(called(), unchecked=context.get("unchecked", False), aside=True, current=current)
    with watching(sys.stderr, output) as notify:
        if tells:
            notify = announcing(settings, key, checkpoint, tells, notify)
        run = Migration(settings, ask, key, notify=notify, folder=folder)
        try:
            return Driven(driven(run, lambda: work(run), notify), None, run.assembled, notify)
        except Problem as problem:
            return Driven(None, problem, run.assembled, notify)


def stopped_by(ended: Driven, output: Output) -> int | None:
    """Say what stopped a command whose result is a document, and return its exit code; None where it came to its
    end."""
    if ended.problem is not None:
        return fail(ended.problem, as_json=output.as_json)
    if ended.result is None:
        say(f"Stopped on request; nothing is lost. To go on: {called()}")
        return STOPPED
    return None


def keep_room_for_bodies() -> None:
    """Make glibc keep the memory of a request body for the next one, but no more than that.

    A block that is mapped by itself is given back at once, and cleared again page by page by the kernel for the next
    body: for 1 MB that takes longer than its SHA-256. By default glibc raises both thresholds as it sees fit, and a run
    of 5,000 batches grew by 12 MB. Other C libraries have no such thresholds.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
        libc.mallopt(_MMAP_THRESHOLD, _APART)


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
