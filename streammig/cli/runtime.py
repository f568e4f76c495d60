"""Shared by the commands that talk to the target: signals, and settings from a checkpoint."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from streammig.checkpoint import Checkpoint
from streammig.cli.announce import announcing
from streammig.cli.memory import keep_room_for_bodies
from streammig.cli.service import Service
from streammig.errors import Problem, Unusable
from streammig.migration import Ask, Migration
from streammig.report.live import watching
from streammig.settings import api_key, from_checkpoint
from streammig.stages import STAGES
from streammig.telemetry import Notify, Output, Stopping

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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

    result: object
    problem: Problem | None
    began: bool
    notify: Notify


def beside(
    checkpoint: Path, toml: Path | None, command: str, work: Callable[[Migration], Awaitable[object]],
    output: Output, current: bool = False, tells: str = "", **flags: object,
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
    ask = Ask(command, unchecked=context.get("unchecked", False), aside=True, current=current)
    with watching(sys.stderr, output) as notify:
        if tells:
            notify = announcing(settings, key, checkpoint, tells, notify)
        run = Migration(settings, ask, key, notify=notify, folder=folder)
        try:
            return Driven(driven(run, lambda: work(run), notify), None, run.assembled, notify)
        except Problem as problem:
            return Driven(None, problem, run.assembled, notify)
