"""Parts of the demo: a target of its own, a machine that is lost at the right moment, and the comparison."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from streammig.checkpoint import Books, Checkpoint
from streammig.errors import Problem
from streammig.records import STAGES, BatchState
from streammig.sandbox import Sandbox, SandboxConfig
from streammig.sandbox.sample import Part, Written

GLANCE = 0.02  # seconds between two looks at a run that goes on
STANDSTILL = 0.03  # seconds after which a process that was told to stop has stopped
PATIENCE = 60.0  # seconds to wait for a quiet moment, and for the target's queue

Document = Mapping[str, Any]


class LocalTarget:
    """A sandbox in a thread of its own, as a context manager. Entering raises the error if it can't start."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, Sandbox]] = Future()
        self._thread = threading.Thread(target=self._live, name="sandbox", daemon=True)

    def __enter__(self) -> LocalTarget:
        self._thread.start()
        self._loop, self._end, self._sandbox = self._ready.result()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return self._sandbox.url

    def ledger(self) -> Document:
        """Its ledger, once its queue is empty."""
        asyncio.run_coroutine_threadsafe(self._sandbox.drain(PATIENCE), self._loop).result()
        return self._sandbox.ledger()

    def _live(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        end = asyncio.Event()
        async with Sandbox(self._config) as sandbox:
            self._ready.set_result((asyncio.get_running_loop(), end, sandbox))
            await end.wait()


class Command:
    """One `streammig` command as a process, in a folder. It is killed when the block is left."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *arguments: str) -> None:
        # Everything it says goes where we speak, in one order.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streammig", *arguments], cwd=folder, env=environment, stderr=sys.stdout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> Command:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        return self._process.wait()

    def lose(self, checkpoint: Path, batches: int) -> bool:
        """Kill it like a lost machine, once `batches` are accepted and no request is under way. False if it ended
        before."""
        while (enough := _accepted(checkpoint)) < batches:
            if self._process.poll() is not None:
                return False
            time.sleep(GLANCE if enough else GLANCE * 5)
        until = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            # It is stopped while we look, so it is killed in the state that we see.
            self._process.send_signal(signal.SIGSTOP)
            time.sleep(STANDSTILL)
            if time.monotonic() > until or not _under_way(checkpoint):
                self._process.kill()
                return self._process.wait() == -signal.SIGKILL
            self._process.send_signal(signal.SIGCONT)
            time.sleep(GLANCE)
        return False


def _accepted(checkpoint: Path) -> int:
    """The number of accepted batches. 0 while there is no checkpoint to read."""
    return _count(checkpoint, BatchState.ACCEPTED)


def _under_way(checkpoint: Path) -> int:
    return _count(checkpoint, BatchState.SENDING)


def _count(checkpoint: Path, state: BatchState) -> int:
    try:
        file = Checkpoint.open(checkpoint, read_only=True)
    except Problem:
        return 0
    try:
        return sum(len(file.batches(stage.name, state)) for stage in file.stages())
    except Problem:
        return 0
    finally:
        file.close()


def environment(key: str) -> dict[str, str]:
    """This process's environment with the API key and without proxies: the target is on this machine."""
    return {**os.environ, "MASIVO_API_KEY": key, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def accounts(checkpoint: Path) -> dict[str, Books]:
    """The totals of each stage, from the checkpoint."""
    file = Checkpoint.open(checkpoint, read_only=True)
    try:
        return {stage: file.books(stage) for stage in STAGES}
    finally:
        file.close()


def held(ledger: Document, stage: str) -> Part:
    """The units and sums that the target holds of a stage."""
    found = ledger["holds"][stage]
    if stage == "customers":
        # A customer that came twice is held once: count what landed.
        return Part(found["landed"], found["landed"], _exact(found["balances"]))
    if stage == "events":
        return Part(found["owners"], found["count"], _exact({"purchases": found["purchase_value"]}))
    return Part(found["owners"], found["count"], _exact(found["amounts"]))


def _exact(sums: Mapping[str, str]) -> dict[str, Decimal]:
    return {key: Decimal(text) for key, text in sums.items() if Decimal(text)}


def dropped(ledger: Document, stage: str) -> int:
    """The number of units that the target's queue dropped."""
    return sum(of["units"] for of in ledger["dropped"][stage].values())


def differences(written: Written, books: Mapping[str, Books], ledger: Document) -> list[str]:
    """Each difference between the export, the totals of the run and the target's ledger, as a sentence. Empty if they
    agree."""
    found: list[str] = []
    for stage in STAGES:
        own, there, good = books[stage], held(ledger, stage), written.good[stage]
        accepted = own.accepted.units
        if not own.balanced:
            found.append(f"{stage}: the books of the run do not balance")
        if own.unknown.records:
            found.append(f"{stage}: the outcome of {own.unknown.units:,} is unknown, so they are not sent again")
        found += _unlike(stage, "are in the export", written.units[stage], "were read", own.taken.units)
        found += _unlike(stage, "were to be accepted", good.units, "were accepted", accepted)
        found += _unlike(stage, "were accepted", accepted, "are held by the stand-in", there.units)
        found += _unlike_sums(stage, good.sums, own.accepted.sums, there.sums)
        if twice := ledger["twice"][stage]["count"]:
            found.append(f"{stage}: {twice:,} are there more than once")
        if lost := dropped(ledger, stage):
            found.append(f"{stage}: the stand-in accepted {lost:,} and dropped them in its queue")
    if broken := ledger["violations"]["count"]:
        found.append(f"{broken:,} requests came earlier than the limits allow")
    return found


def _unlike(stage: str, one: str, left: int, other: str, right: int) -> list[str]:
    return [] if left == right else [f"{stage}: {left:,} {one}, {right:,} {other}"]


def _unlike_sums(
    stage: str, wanted: Mapping[str, Decimal], accepted: Mapping[str, Decimal], there: Mapping[str, Decimal]
) -> list[str]:
    return [
        f"{stage}: the sum of {key} is {wanted.get(key, 0):,} in the export, {accepted.get(key, 0):,} in the books and"
        f" {there.get(key, 0):,} at the stand-in"
        for key in sorted({*wanted, *accepted, *there})
        if not wanted.get(key) == accepted.get(key) == there.get(key)
    ]
