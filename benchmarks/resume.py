"""Time from the start of a resume to its first request: python -m benchmarks.resume [--gb N] [--rounds N] [--json].

Makes a plain export of `--gb` and a checkpoint with its frontier at 90 % of it, and starts the real command. Prints the
seconds until the first request, and the bytes that were read by then (with Python's own modules). For comparison, ijson
reads up to the same record: a resume without positions needs that.
"""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import ijson

from benchmarks.figures import figures, yes
from benchmarks.large import HEAD, write_large
from benchmarks.migrate import PROGRAM, processes
from benchmarks.null_target import direct, null_target, seen
from streammig.checkpoint import Checkpoint
from streammig.model import Place, Progress, Tally

GOAL_SECONDS, SHARE = 1.5, 0.9
PATIENCE = 120


def arguments(file: Path, url: str) -> list[str]:
    return [
        *PROGRAM, "run", "--customers", str(file), "--base-url", url, "--limits", "off", "--settle-time", "0",
        "--unchecked", "--state-dir", "state", "--quiet",
    ]  # fmt: skip


def at_share(file: Path, customers: int) -> Place:
    """The place before a record at about 90 % of the file, by its offset."""
    with file.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
        offset = data.find(b'{"id":', int(len(data) * SHARE))
    # Records repeat and are of nearly one length: the ordinal is for people, and need not be exact here.
    return Place(0, offset, 0, round(customers * offset / file.stat().st_size))


def interrupted(folder: Path, file: Path, url: str, place: Place) -> None:
    """Leave a checkpoint in the folder that has the frontier at this place, with totals that add up."""
    here = direct() | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    subprocess.run([*arguments(file, url), "--first", "1000"], cwd=folder, env=here, check=False)
    checkpoint = Checkpoint.open(folder / "migration.checkpoint")
    before, skipped = checkpoint.progress("customers"), Tally(place.ordinal, place.ordinal)
    progress = Progress(place, place.ordinal, before.read + skipped, {"skipped": skipped})
    checkpoint.advance("customers", progress)
    checkpoint.close()


def resumed(folder: Path, file: Path, place: Place) -> dict[str, float]:
    with null_target() as url, tempfile.TemporaryDirectory(dir=folder) as own:
        interrupted(Path(own), file, url, place)
        sent = seen(url)["requests"]
        here = direct() | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        begun, wall = perf_counter(), time.time()
        process = subprocess.Popen(arguments(file, url), cwd=own, env=here)
        try:
            while seen(url)["requests"] == sent:
                if perf_counter() - begun > PATIENCE or process.poll() is not None:
                    raise SystemExit("the run that was to go on made no request")
                time.sleep(0.002)
            seconds = time.time() - wall
            read = bytes_read(process.pid)
        finally:
            process.kill()
            process.wait()
    return {"seconds": seconds, "megabytes_read": read / 1e6}


def bytes_read(root: int) -> int:
    """By a process and its children, as the kernel counts them; 0 where it does not."""
    family = {root} | {pid for pid, parent, *_ in processes() if parent == root}
    total = 0
    for pid in family:
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/io").read_text().split()[1])
    return total


def walked(file: Path, place: Place) -> float:
    begun = perf_counter()
    with file.open("rb") as source:
        for _ in islice(ijson.items(source, "customers.item", use_float=True), place.ordinal):
            pass
    return perf_counter() - begun


def measure(gigabytes: float, rounds: int, folder: Path) -> dict[str, Any]:
    file = folder / "customers.json"
    customers = write_large(file, gigabytes)
    place = at_share(file, customers)
    assert place.offset > len(HEAD)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(resumed(folder, file, place))
        theirs.append(walked(file, place))
    seconds = statistics.median(each["seconds"] for each in ours)
    ijson_seconds = statistics.median(theirs)
    return {
        "gb": round(file.stat().st_size / 1e9, 2),
        "customers": customers,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "seconds_to_first_request": round(seconds, 2),
        "megabytes_read": round(statistics.median(each["megabytes_read"] for each in ours), 1),
        "ijson_seconds": round(ijson_seconds, 1),
        "ratio": round(ijson_seconds / seconds, 1),
        "reached": seconds <= GOAL_SECONDS,
    }


def show(found: dict[str, Any]) -> None:
    seconds, reached = found["seconds_to_first_request"], yes(found["reached"])
    print(f"resume at {SHARE:.0%} of {found['gb']} GB, {found['customers']:,} customers\n")
    print(f"start to first request, s    {seconds:>8.2f}   goal {GOAL_SECONDS}: {reached}")
    print(f"MB read by then              {found['megabytes_read']:>8.1f}")
    print(f"ijson reading up to there, s {found['ijson_seconds']:>8.1f}   {found['ratio']} times as long")


def main() -> int:
    return figures(__doc__, "resume", measure, show, gb=5.0, rounds=3)


if __name__ == "__main__":
    sys.exit(main())
