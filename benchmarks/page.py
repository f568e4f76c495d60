"""CPU seconds of a run with its page open and without: python -m benchmarks.page [--customers N] [--rounds N] [--json].

Runs the real command to a target that takes everything, at ten requests a second, in turn without a page and with one
that a client follows. The CPU is that of the run and its readers; the client is this process.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.figures import figures, yes
from benchmarks.migrate import PROGRAM
from benchmarks.null_target import direct, null_target
from streammig.sandbox.sample import Sample, write_sample

GOAL = 1.05
LIMITS = "10/1s,1000000/1h"


def follow(url: str) -> int:
    """Open the page, and read its changes to the end; the bytes that came."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=60) as answer:
        got = len(answer.read())
    with opener.open(f"{url}events", timeout=60) as answer, suppress(OSError):
        while line := answer.readline():
            got += len(line)
    return got


def seconds(file: Path, url: str, paged: bool) -> float:
    """The CPU seconds of one run."""
    with tempfile.TemporaryDirectory(dir=file.parent) as own:
        command = [
            *PROGRAM, "run", "--customers", str(file), "--base-url", url, "--limits", LIMITS, "--settle-time", "0",
            "--state-dir", "state", "--unchecked", *(["--dashboard=0"] if paged else []),
        ]  # fmt: skip
        here = direct() | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        before = spent()
        with subprocess.Popen(command, cwd=own, env=here, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("dashboard: "):
                    threading.Thread(target=follow, args=(line.split()[1],), daemon=True).start()
        if process.returncode:
            raise SystemExit(f"the run ended with {process.returncode}")
        return spent() - before


def spent() -> float:
    """CPU seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(customers: int, rounds: int, folder: Path) -> dict[str, Any]:
    file = folder / "customers.json"
    write_sample(Sample(customers), {"customers": file})
    with null_target() as url:
        pairs = [(seconds(file, url, False), seconds(file, url, True)) for _ in range(rounds)]
    ratio = statistics.median(paged / plain for plain, paged in pairs)
    return {
        "customers": customers,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "seconds_without": round(statistics.median(plain for plain, _ in pairs), 2),
        "seconds_with_page": round(statistics.median(paged for _, paged in pairs), 2),
        "ratio": round(ratio, 3),
        "reached": ratio <= GOAL,
    }


def show(found: dict[str, Any]) -> None:
    print(f"{found['customers']:,} customers, {found['rounds']} pairs of runs\n")
    print(f"CPU of a run without a page, s  {found['seconds_without']:>7.2f}")
    print(f"with the page open, s           {found['seconds_with_page']:>7.2f}")
    print(f"ratio, median of the pairs      {found['ratio']:>7.3f}   goal {GOAL}: {yes(found['reached'])}")


def main() -> int:
    return figures(__doc__, "page", measure, show, customers=100_000, rounds=5)


if __name__ == "__main__":
    sys.exit(main())
