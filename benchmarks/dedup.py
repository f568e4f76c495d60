"""Measures the dedup index: seconds, CPU, peak memory, disk, and the time of one lookup.

    python -m benchmarks.dedup [--owners 1000000] [--twice 0.01] [--json]

The owners are made up, and a share of them repeats an earlier id and e-mail. No export is read, so the seconds are
those of the index alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.watching import Watching
from streammig.columns import Columns
from streammig.dedup import Build, scan
from streammig.model import Span

STEP = 1_000
LENGTH = 1_000  # bytes from one made-up record to the next


class Owners:
    """`Rules` over so many owners, of which a share repeats the key of an earlier one; the same at every reading."""

    head = tail = b""
    once = False

    def __init__(self, count: int, twice: float, seed: int) -> None:
        self._count, self._every, self._seed = count, round(1 / twice) if twice else 0, seed

    def key(self, nth: int) -> tuple[str, str]:
        if self._every and nth % self._every == self._every - 1:
            nth = nth * 7919 % nth // self._every * self._every
        return f"customer-{nth:012d}", f"customer-{nth:012d}@example.com"

    def spans(self) -> Iterator[Span]:
        for begin in range(0, self._count, STEP):
            numbers = range(begin, min(begin + STEP, self._count))
            starts = [(nth - begin) * LENGTH for nth in numbers]
            yield Span(0, begin * LENGTH, b"", starts, [it + LENGTH - 1 for it in starts], [nth + 1 for nth in numbers])

    def columns(self, span: Span) -> Columns:
        found = Columns()
        found.index = [*range(len(span))]
        found.unit = [0] * len(span)
        keys = [self.key(ordinal - 1) for ordinal in span.ordinals]
        found.owners, found.uniques = [owner for owner, _ in keys], [unique for _, unique in keys]
        return found


class DiskWatch(Watching):
    """The most bytes that lay in a folder, looked at 20 times a second."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self.peak = folder, 0

    def look(self) -> None:
        total = 0
        for path in self._folder.rglob("*"):
            try:
                total += path.stat().st_blocks * 512
            except OSError:
                continue
        self.peak = max(self.peak, total)


def measure(count: int, twice: float, seed: int) -> dict[str, Any]:
    owners, rng = Owners(count, twice, seed), Random(seed)
    top = Path(tempfile.mkdtemp(prefix="dedup-"))
    folder = top / "bench.dedup"
    try:
        with DiskWatch(folder) as disk, Build(folder, "") as build:
            began = time.perf_counter()
            for span in owners.spans():
                build.add(scan(owners, build.key, span))
            scanned, cpu = time.perf_counter(), time.process_time()
            index = build.finish()
            done, cpu = time.perf_counter(), time.process_time() - cpu
        with index:
            ask = [[owners.key(rng.randrange(count))[0] for _ in range(1_000)] for _ in range(100)]
            asked = []
            for some in ask:
                begin = time.perf_counter()
                index.missing(some)
                asked.append(time.perf_counter() - begin)
            size = sum(path.stat().st_size for path in index.folder.iterdir())
            duplicates = index.about.duplicates
    finally:
        shutil.rmtree(top)
    own = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "owners": count,
        "duplicates": duplicates,
        "scan_seconds": scanned - began,
        "sort_seconds": done - scanned,
        "sort_cpu_seconds": cpu,
        "peak_mb": own.ru_maxrss * unit / 1e6,
        "disk_peak_mb": disk.peak / 1e6,
        "index_mb": size / 1e6,
        "ask_1000_ms": statistics.median(asked) * 1e3,
        "ask_1000_p99_ms": sorted(asked)[98] * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owners", type=int, default=1_000_000)
    parser.add_argument("--twice", type=float, default=0.01, help="share of records that repeat an earlier one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.owners, options.twice, options.seed)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:18} {value:14,.1f}" if isinstance(value, float) else f"{name:18} {value:14,}")


if __name__ == "__main__":
    main()
