"""Two commands at the same time: on one checkpoint, or on one account.

Run as a module it is the starter: a process that has everything imported and nothing open, and forks the two of each
race that a line on its standard input describes, within a millisecond of each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.commands import environment, sandbox, write
from tests.proof_report import Found, scratch
from tests.sandbox_caller import customer

LIMITS = "1/0.1s,8/2s"
ROOT = Path(__file__).parent.parent
FAT = "x" * 90  # some six customers to a batch of 10,000 bytes


class Starter:
    """Starts both commands of a race and says how they ended."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.proof_races"], cwd=ROOT, env=environment(folder), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def race(self, *commands: list[str], delay: float) -> tuple[list[int], str]:
        """Exit codes in order, and what both said; the second starts `delay` seconds later."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([commands, delay]) + "\n")
        self._process.stdin.flush()
        codes, said = json.loads(self._process.stdout.readline())
        return codes, said

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Starter]:
    with contextlib.closing(Starter(folder)) as starter:
        yield starter


def export(folder: Path, name: str, count: int) -> Path:
    records: list[Any] = [customer(f"{name}-{number}", country=FAT) for number in range(count)]
    return write(folder / f"{name}.json", records)


def command(folder: Path, url: str, source: Path, checkpoint: str, limits: str) -> list[str]:
    return [
        "run", "--customers", str(source), "--base-url", url, "--checkpoint", str(folder / checkpoint), "--limits",
        limits, "--state-dir", str(folder / "state"), "--settle-time", "0.1", "--verify-sample", "0",
        "--max-bytes", "10000", "--unchecked",
        "--quiet",
    ]  # fmt: skip


def on_one_checkpoint(races: int, seed: int) -> Found:
    """One of two runs works, the other one says who does (11), unless it came when all was done."""
    found, count = Found(), 40
    with scratch() as folder, sandbox(latency=0.01) as target, started(folder) as starter:
        for number in range(races):
            source = export(folder, f"r{number}", count)
            both = command(folder, target.url, source, f"r{number}.checkpoint", "off")
            delay = Random(f"{seed} {number}").choice([0.0, 0.0, 0.01, 0.05, 0.2])
            codes, said = starter.race(both, both, delay=delay)
            found.points += 1
            found.refusals += codes.count(11)
            if sorted(codes) not in ([0, 0], [0, 11]):
                found.violations.append(f"seed {seed}, race {number}, {delay} s apart: ended with {codes}: {said}")
        holds = target.ledger()["holds"]["customers"]
        if (holds["count"], holds["landed"]) != (races * count, races * count):
            found.violations.append(f"seed {seed}: of {races * count} customers, {holds} are there")
    return found


def on_one_account(races: int, seed: int) -> Found:
    """Two migrations share the limits of one account: at the target no window is exceeded."""
    found, count = Found(), 30
    with scratch() as folder, sandbox(limits=LIMITS) as target, started(folder) as starter:
        for number in range(races):
            sides = [
                command(folder, target.url, export(folder, f"{side}{number}", count), f"{side}{number}", LIMITS)
                for side in ("a", "b")
            ]
            delay = Random(f"{seed} {number}").choice([0.0, 0.0, 0.01, 0.05, 0.2])
            codes, said = starter.race(*sides, delay=delay)
            found.points += 1
            if codes != [0, 0]:
                found.violations.append(f"seed {seed}, race {number}: ended with {codes}: {said}")
        ledger = target.ledger()
        if ledger["violations"]["count"]:
            found.violations.append(f"seed {seed}: the target saw {ledger['violations']}")
        holds = ledger["holds"]["customers"]
        if (holds["count"], holds["landed"]) != (races * 2 * count, races * 2 * count):
            found.violations.append(f"seed {seed}: of {races * 2 * count} customers, {holds} are there")
    return found


# -- inside the starter ----------------------------------------------------------------------------------------------


def _start() -> None:
    import asyncio  # noqa: F401 - what a command imports late is imported once here

    import streammig.cli.exit
    import streammig.cli.run
    import streammig.migration
    import streammig.report.live  # noqa: F401

    for line in sys.stdin:
        commands, delay = json.loads(line)
        reads, writes = os.pipe()
        children = []
        for number, arguments in enumerate(commands):
            child = os.fork()
            if child == 0:
                time.sleep(delay * number)
                _command(arguments, writes)
            children.append(child)
        os.close(writes)
        with os.fdopen(reads) as stream:
            said = stream.read()
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps([codes, said]), flush=True)


def _command(arguments: list[str], says: int) -> None:
    """Be that command, to its end."""
    code = 70
    try:
        from streammig.cli import main

        os.dup2(says, 1)
        os.dup2(says, 2)
        sys.argv = ["streammig", *arguments]
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _start()
