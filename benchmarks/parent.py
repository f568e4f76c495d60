"""Where the CPU of the process that sends goes, step by step, for each batch of 1 MB.

    python -m benchmarks.parent [--batches N] [--rounds N] [--json]

The real command, `streammig run --limits off --settle-time 0 --unchecked`, sends customers of 1 KB to a target that
takes everything at once. Contestants take turns, each a process of its own:

- read: as every run, with a process beside it that reads the export, so batches come as fast as one core reads
- ready: its batches lie ready in the outbox, so they come as fast as they are sealed and sent, many to a commit
- request: streammig's HTTP client alone makes as many requests of that size

Milliseconds are CPU time of the first process, from the first request on, divided by the batches; `calls` are calls a
batch. A step does not count what others do within it. The loop's share holds the request.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import pickle
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import local
from time import process_time, thread_time
from typing import Any

from benchmarks.figures import figures, yes
from benchmarks.null_target import direct, null_target
from streammig import run
from streammig.batching import BatchLimits, Sealing
from streammig.checkpoint import Checkpoint, CheckpointWriter, Fence, outbox
from streammig.checkpoint.outbox import Outbox
from streammig.cli import main as streammig
from streammig.masivo.client import PATHS, MasivoClient
from streammig.masivo.http import Http
from streammig.masivo.rules import RuleOptions, rules
from streammig.model import Progress, Receipt
from streammig.ratelimit import AccountState
from streammig.reader import Reader
from streammig.sandbox.sample import Sample, write_sample
from streammig.sources import open_source, parse_input
from streammig.stage import StageReader

GOAL = 0.004
UNDER_WAY = 4
STEPS: dict[str, tuple[Any, str]] = {
    "take what the reader has": (StageReader, "_next"),
    "seal": (Checkpoint, "seal"),
    "permit": (AccountState, "take"),
    "read back, SHA-256": (Outbox, "body"),
    "mark as sending": (Checkpoint, "sending"),
    "fence": (Fence, "raise_to"),
    "receipt": (Checkpoint, "received"),
    "samples": (Outbox, "settle"),
    "sync names": (Outbox, "sync"),
    "commit": (CheckpointWriter, "_commit"),
    "sync samples, unlink": (outbox, "_clear"),
}
LOOP, REST, ALL, REQUEST = "event loop", "hand-overs, rest", "all", "of the loop: request"


class Steps:
    """The calls of each step, and the CPU seconds that they took without those within them."""

    def __init__(self) -> None:
        self.calls = dict.fromkeys(STEPS, 0)
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self._within = local()
        for name, (owner, method) in STEPS.items():
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def timed(*arguments: Any, **more: Any) -> Any:
            outside, self._within.seconds = getattr(self._within, "seconds", 0.0), 0.0
            begun = thread_time()
            try:
                return work(*arguments, **more)
            finally:
                took = thread_time() - begun
                self.calls[name] += 1
                self.seconds[name] += took - self._within.seconds
                self._within.seconds = outside + took

        return timed

    def now(self) -> list[tuple[int, float]]:
        """Calls and seconds so far of each step, of the loop (whose thread calls this), and of the process."""
        steps = [(self.calls[name], self.seconds[name]) for name in STEPS]
        return [*steps, (0, thread_time()), (0, process_time())]


class Ready:
    """In place of the reader's process: batches whose bodies lie in the folder `ready`."""

    broken, paused, ready = None, "", True

    def __init__(self, outbox: Path, **_: Any) -> None:
        self._outbox = outbox
        self._outbox.mkdir(mode=0o700, exist_ok=True)
        self._left: list[Sealing] = pickle.loads(Path("ready.pickle").read_bytes())[::-1]

    def next(self) -> Sealing | None:
        if not self._left:
            return None
        sealing = self._left.pop()
        if sealing.draft is not None:
            Path("ready", sealing.draft.file).rename(self._outbox / sealing.draft.file)
        return sealing

    def close(self) -> None:
        """There is nothing to close."""


# -- contestants, each in a process of its own -------------------------------------------------------------------------


def send(file: str, url: str) -> None:
    """The real command; writes the milliseconds and calls of each step to `steps.json`."""
    steps, begun = Steps(), list[list[tuple[int, float]]]()
    requests = 0
    client_send = MasivoClient.send

    async def counted(*arguments: Any, **more: Any) -> Receipt:
        nonlocal requests
        requests += 1
        if not begun:
            begun.append(steps.now())
        return await client_send(*arguments, **more)

    MasivoClient.send = counted  # type: ignore[method-assign]
    sys.argv = [
        "streammig", "run", "--customers", file, "--base-url", url, "--limits", "off", "--settle-time", "0",
        "--unchecked", "--state-dir", "state", "--quiet",
    ]  # fmt: skip
    try:
        streammig()
    finally:
        *found, loop, whole = [
            ((calls - before) / requests, (seconds - since) / requests * 1000)
            for (calls, seconds), (before, since) in zip(steps.now(), begun[0], strict=True)
        ]
        rest = whole[1] - loop[1] - sum(milliseconds for _, milliseconds in found)
        table = dict(zip(STEPS, found, strict=True)) | {LOOP: loop, REST: (0.0, rest), ALL: whole}
        Path("steps.json").write_text(json.dumps(table))


def request(count: int, url: str) -> None:
    """Requests of 1 MB each by streammig's HTTP client alone."""
    bodies = [os.urandom(1_000_000) for _ in range(16)]  # so that each comes out of memory, as in a run

    async def main() -> float:
        tls = ssl.create_default_context()
        async with Http(fresh=True, tls=tls, connect_timeout=10.0, request_timeout=60.0) as http:
            left = iter(range(count))

            async def work() -> None:
                for at in left:
                    await http.exchange(
                        "POST", url + PATHS["customers"], lambda: {"Authorization": "none"}, bodies[at % 16]
                    )

            begun = thread_time()
            await asyncio.gather(*(work() for _ in range(UNDER_WAY)))
            return (thread_time() - begun) / count * 1000

    Path("steps.json").write_text(json.dumps({REQUEST: (1.0, asyncio.run(main()))}))


def contend() -> int:
    """Be one of the contestants."""
    _, contestant, file, url = sys.argv[1:]
    if contestant == "request":
        request(int(file), url)
        return 0
    if contestant == "ready":
        vars(run)["ReaderProcess"] = Ready
    send(file, url)
    return 0


# -- the race ----------------------------------------------------------------------------------------------------------


def make_ready(file: Path, folder: Path) -> None:
    """The batches of this export, as its reader's process would hand them over."""
    options = RuleOptions(now=datetime(2024, 1, 1, tzinfo=UTC))
    source = open_source([parse_input(str(file))])
    reader = Reader(source, rules("customers", options, None), BatchLimits(), Progress(), outbox=folder / "ready")
    (folder / "ready.pickle").write_bytes(pickle.dumps(list(iter(reader.next, None))))


def table(contestant: str, file: str, url: str, folder: Path) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        if contestant == "ready":
            shutil.copytree(folder / "ready", Path(own) / "ready")
            shutil.copy(folder / "ready.pickle", own)
            os.sync()
        subprocess.run(
            [sys.executable, "-m", "benchmarks.parent", "--as", contestant, file, url], cwd=own, check=True,
            env=direct() | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )  # fmt: skip
        found: dict[str, tuple[float, float]] = json.loads((Path(own) / "steps.json").read_text())
        return found


def measure(batches: int, rounds: int, folder: Path) -> dict[str, Any]:
    file = folder / "customers.json"
    write_sample(Sample(batches * 1000), {"customers": file})
    make_ready(file, folder)
    runs: dict[str, list[dict[str, tuple[float, float]]]] = {"read": [], "ready": [], "request": []}
    with null_target() as url:
        for _ in range(rounds):
            for name, tables in runs.items():
                tables.append(table(name, str(batches) if name == "request" else str(file), url, folder))
    steps = {
        name: {
            step: [round(statistics.median(each[step][at] for each in tables), 3) for at in (0, 1)]
            for step in tables[0]
        }
        for name, tables in runs.items()
    }
    parent = steps["ready"][ALL][1] / 1000
    return {"batches": batches, "rounds": rounds, "steps": steps, "parent": parent, "reached": parent <= GOAL}


def show(found: dict[str, Any]) -> None:
    read, ready = found["steps"]["read"], found["steps"]["ready"]
    print(f"{'':<24}{'read: calls':>12}{'ms':>8}{'ready: calls':>14}{'ms':>8}")
    for step in read:
        (calls, took), (fast_calls, fast) = read[step], ready[step]
        print(f"{step:<24}{calls or '':>12}{took:>8.2f}{fast_calls or '':>14}{fast:>8.2f}")
        if step == LOOP:
            print(f"{REQUEST:<24}{'':>12}{found['steps']['request'][REQUEST][1]:>8.2f}")
    print(f"\nCPU ms a batch, ready: {found['parent'] * 1000:.2f}   goal {GOAL * 1000:g}: {yes(found['reached'])}")


def main() -> int:
    return contend() if "--as" in sys.argv else figures(__doc__, "parent", measure, show, batches=300, rounds=3)


if __name__ == "__main__":
    sys.exit(main())
