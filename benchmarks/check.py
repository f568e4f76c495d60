"""Measures the whole check of an export against ijson, which reads the same bytes once and checks nothing.

    python -m benchmarks.check [--mb N] [--rounds N] [--json]

The export has customers, events and transactions. The contestants take turns: ijson in one process, `streammig check
--offline` with one process, and with two workers. Speed is that of the whole command, by the clock. CPU is counted for
each process: `worker` is that of all workers together, `serial` that of the command itself,
which no worker can share. The start of the command, measured on a tiny export, is left out of `serial`. The projection
adds the serial part to a sixteenth of the workers' CPU. Memory is that of all processes together.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

import ijson

from benchmarks.figures import apart, figures, yes
from benchmarks.migrate import PROGRAM, descendants
from benchmarks.watching import Watching
from streammig.sandbox.sample import Sample, write_sample

STAGES = ("customers", "events", "transactions")
BYTES_A_CUSTOMER = 3_860  # with five events and three transactions
PROJECTED = 16
GOALS = {"speed": 2.0, "serial": 0.10, "peak_mb": 700.0}
TICKS = os.sysconf("SC_CLK_TCK")


class Watched(Watching):
    """CPU seconds of each process of a command, and the most memory that they hold together, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.cpu: dict[int, float] = defaultdict(float)
        self.peak = 0
        self._pid = pid

    def look(self) -> None:
        family = list(descendants(self._pid))
        self.peak = max(self.peak, sum(it.resident for it in family))
        for it in family:
            try:
                fields = Path(f"/proc/{it.pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended since
            self.cpu[it.pid] = (int(fields[11]) + int(fields[12])) / TICKS

    def of(self, *, workers: bool) -> float:
        """The CPU seconds of the workers, or of all others."""
        return sum(seconds for pid, seconds in self.cpu.items() if (pid != self._pid) == workers)


def by_ijson(folder: str) -> int:
    count = 0
    for stage in STAGES:
        with open(f"{folder}/{stage}.json", "rb") as source:
            count += sum(1 for _ in ijson.items(source, f"{stage}.item"))
    return count


def checked(folder: Path, workers: int) -> dict[str, float]:
    """Seconds, CPU of workers and of the rest, and peak memory of one check."""
    named = [word for stage in STAGES for word in (f"--{stage}", str(folder / f"{stage}.json"))]
    with tempfile.TemporaryDirectory(dir=folder) as own:
        command = [*PROGRAM, "check", *named, "--offline", "--quiet", "--workers", str(workers)]
        here = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        begun = perf_counter()
        process = subprocess.Popen(command, cwd=own, env=here)
        with Watched(process.pid) as watched:
            code = process.wait()
        seconds = perf_counter() - begun
    if code:
        raise SystemExit(f"streammig check ended with {code}")
    serial, shared = watched.of(workers=False), watched.of(workers=True)
    return {"seconds": seconds, "serial": serial, "worker": shared, "peak_mb": watched.peak / 1e6}


def export(folder: Path, customers: int) -> int:
    folder.mkdir()
    sample = Sample(customers, 5.0, 3.0)
    return write_sample(sample, {stage: folder / f"{stage}.json" for stage in STAGES}).bytes


def measure(mb: float, rounds: int, folder: Path) -> dict[str, Any]:
    size = export(folder / "large", round(mb * 1e6 / BYTES_A_CUSTOMER))
    export(folder / "tiny", 10)
    start = checked(folder / "tiny", 1)["serial"]
    turns: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
    ratios = []
    for _ in range(rounds):
        begun = perf_counter()
        cpu = apart(by_ijson, str(folder / "large"), reader=False)[0]
        theirs = perf_counter() - begun
        for workers, found in turns.items():
            found.append(checked(folder / "large", int(workers)))
        ratios.append({"cpu": cpu, **{name: theirs / found[-1]["seconds"] for name, found in turns.items()}})
    rows = {
        workers: {key: round(statistics.median(it[key] for it in found), 2) for key in found[0]}
        for workers, found in turns.items()
    }
    two = rows["2"]
    serial = max(two["serial"] - start, 0.0)
    share = serial / two["worker"]
    projected = serial + two["worker"] / PROJECTED
    speed = statistics.median(it["2"] for it in ratios)
    return {
        "mb": round(size / 1e6, 1), "ijson_cpu": round(statistics.median(it["cpu"] for it in ratios), 2),
        "start_cpu": round(start, 2), "workers": rows, "to_ijson": round(speed, 2),
        "to_ijson_1": round(statistics.median(it["1"] for it in ratios), 2), "serial_share": round(share, 3),
        "projected_seconds": round(projected, 2), "projected_mb_s": round(size / 1e6 / projected, 1),
        "reached": {
            "speed": speed >= GOALS["speed"], "serial": share <= GOALS["serial"],
            "peak_mb": two["peak_mb"] <= GOALS["peak_mb"],
        },
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    print(f"{found['mb']:,.1f} MB; ijson {found['ijson_cpu']} s of CPU; start {found['start_cpu']} s\n")
    print(f"{'workers':>8}{'seconds':>9}{'serial':>8}{'worker':>8}{'peak MB':>9}")
    for workers, row in found["workers"].items():
        print(f"{workers:>8}{row['seconds']:>9}{row['serial']:>8}{row['worker']:>8}{row['peak_mb']:>9}")
    right = found["reached"]
    print(f"\nspeed to ijson, one process {found['to_ijson_1']:>8}")
    print(f"speed to ijson, two workers {found['to_ijson']:>8}   goal {GOALS['speed']}: {yes(right['speed'])}")
    share, peak = found["serial_share"], found["workers"]["2"]["peak_mb"]
    print(f"serial part of worker's CPU {share:>8.1%}   goal {GOALS['serial']:.0%}: {yes(right['serial'])}")
    print(f"memory, all processes       {peak:>8}   goal {GOALS['peak_mb']:g}: {yes(right['peak_mb'])}")
    print(f"projected to {PROJECTED} workers     {found['projected_seconds']:>8} s, {found['projected_mb_s']:,} MB/s")


def main() -> int:
    return figures(__doc__, "check", measure, show, mb=200.0, rounds=1)


if __name__ == "__main__":
    sys.exit(main())
