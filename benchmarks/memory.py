"""Peak memory by size of export: python -m benchmarks.memory [--gb N] [--wait SECONDS] [--json].

Runs the real command on plain JSON of a tenth, two fifths and all of `--gb`. The target waits `--wait` seconds for each
request, so the queue is full. Memory is the resident memory of the client and all its children together, sampled 20
times a second. Shared memory counts for each process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.figures import figures, yes
from benchmarks.large import write_large
from benchmarks.migrate import PROGRAM, Memory
from benchmarks.null_target import direct, null_target

GOAL_MB, GOAL_GROWTH = 120.0, 0.05
SHARES = (0.1, 0.4, 1.0)


def run(folder: Path, file: Path, url: str) -> tuple[float, float]:
    """Seconds and peak memory in MB."""
    arguments = [
        "run", "--customers", str(file), "--base-url", url, "--limits", "off", "--settle-time", "0", "--unchecked",
        "--state-dir", "state", "--quiet",
    ]  # fmt: skip
    begun = perf_counter()
    here = direct() | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen([*PROGRAM, *arguments], cwd=folder, env=here)
    with Memory(process.pid) as memory:
        _, status, _ = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"streammig run ended with {process.returncode}")
    return perf_counter() - begun, memory.peak / 1e6


def measure(gigabytes: float, wait: float, folder: Path) -> dict[str, Any]:
    rows = []
    file = folder / "customers.json"
    with null_target(wait) as url:
        for share in SHARES:
            customers = write_large(file, gigabytes * share)
            with tempfile.TemporaryDirectory(dir=folder) as own:
                seconds, peak = run(Path(own), file, url)
            size = file.stat().st_size / 1e9
            rows.append({"gb": round(size, 2), "customers": customers, "seconds": round(seconds, 1), "peak_mb": peak})
    peaks = [row["peak_mb"] for row in rows]
    growth = peaks[-1] / peaks[0] - 1
    reached = {"peak": max(peaks) <= GOAL_MB, "growth": growth <= GOAL_GROWTH}
    return {"rows": rows, "peak_mb": max(peaks), "growth": round(growth, 4), "reached": reached}


def show(found: dict[str, Any]) -> None:
    print(f"{'GB':>6}{'customers':>12}{'seconds':>9}{'peak MB':>9}")
    for row in found["rows"]:
        print(f"{row['gb']:>6}{row['customers']:>12,}{row['seconds']:>9}{row['peak_mb']:>9.1f}")
    right = found["reached"]
    print(f"\npeak    {found['peak_mb']:>8.1f} MB   goal {GOAL_MB:g}: {yes(right['peak'])}")
    print(f"growth  {found['growth']:>8.1%}      goal {GOAL_GROWTH:.0%}: {yes(right['growth'])}")


def main() -> int:
    return figures(__doc__, "memory", measure, show, gb=5.0, wait=0.1)


if __name__ == "__main__":
    sys.exit(main())
