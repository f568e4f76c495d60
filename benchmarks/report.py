"""How long `status` and `report` take on a long run: python -m benchmarks.report [--batches N] [--rounds N] [--json].

Makes the checkpoint of a finished run of so many batches, and calls both commands as processes of their own. It also
says how many bytes a batch takes in the checkpoint, without its requests.
"""

from __future__ import annotations

import hashlib
import sqlite3
import statistics
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.figures import figures, yes
from streammig.checkpoint import Checkpoint
from streammig.checkpoint.codec import encode_tally, pack_ranges
from streammig.model import Place, Progress, Range, Tally

STATUS, REPORT, BYTES = 0.3, 3.0, 200  # seconds, seconds, bytes
STAGES = ("customers", "events", "transactions")
UNITS = 1000  # of a batch
BEGUN, EVERY = 1_800_000_000.0, 5.0  # when the run began, and how often it made a request, in seconds
REWARD = "11111111-1111-4111-8111-111111111111"
BATCH = (
    "INSERT INTO batch (stage, seq, state, ranges, tally, size, digest, sealed, settled, attempts)"
    " VALUES (?, ?, 'accepted', ?, ?, ?, ?, ?, ?, ?)"
)
ATTEMPT = (
    "INSERT INTO attempt (stage, seq, number, started, kind, status, latency, date, message, began, ended, code)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 'Thu, 01 Jan 2026 00:00:00 GMT', '', ?, ?, ?)"
)


def make(path: Path, batches: int) -> float:
    """The checkpoint of a finished run; returns the bytes that a batch takes without its requests. Of fifty batches
    one was throttled before it was accepted."""
    file = Checkpoint.create(path, binding={"account": "a", "target": "http://127.0.0.1"}, version="0", started=BEGUN)
    stages = {name: batches // len(STAGES) + (not at) * (batches % len(STAGES)) for at, name in enumerate(STAGES)}
    one = Tally(UNITS, UNITS, {REWARD: Decimal("1234.56")})
    for ordinal, (name, count) in enumerate(stages.items()):
        file.add_stage(name, ordinal, {}, [{"file": f"{name}.json", "size": count * 1_000_000}])
        file.stage_state(name, "complete", BEGUN + ordinal)
        read = Tally(UNITS * count, UNITS * count, {REWARD: Decimal("1234.56") * count})
        file.advance(name, Progress(Place(0, count * 1_000_000, 0, count * UNITS + 1), count * UNITS, read))
    file.close()
    with closing(sqlite3.connect(path)) as db:
        before = path.stat().st_size
        for name, count in stages.items():
            with db:
                db.executemany(BATCH, (batch_row(name, number, one) for number in range(1, count + 1)))
                read = Tally(UNITS * count, UNITS * count, {REWARD: Decimal("1234.56") * count})
                db.execute("UPDATE stage SET accepted = ? WHERE name = ?", (encode_tally(read), name))
        size = (path.stat().st_size - before) / batches
        with db:
            rows = (row for name, count in stages.items() for at in range(1, count + 1) for row in attempts(name, at))
            db.executemany(ATTEMPT, rows)
            db.execute("UPDATE run SET tick = ?", (batches + batches // 50,))
    return size


def batch_row(stage: str, number: int, tally: Tally) -> tuple[Any, ...]:
    begin, end = (Place(0, at * 1_000_000, 0, at * UNITS + 1) for at in (number - 1, number))
    at = BEGUN + number * EVERY
    digest = hashlib.sha256(b"%d" % number).digest()
    packed = pack_ranges([Range(begin, end)])
    return stage, number, packed, encode_tally(tally), 987_654, digest, at, at + 1.5, 1 + (number % 50 == 0)


def attempts(stage: str, number: int) -> list[tuple[Any, ...]]:
    """The requests of a batch, of which one in fifty was throttled."""
    at, throttled = BEGUN + number * EVERY, number % 50 == 0
    accepted = (stage, number, 1 + throttled, at + throttled, "accepted", 201, 0.2 + number % 17 / 10, 0, 0, "http-201")
    return [(stage, number, 1, at, "throttled", 429, 0.1, 0, 0, "http-429"), accepted] if throttled else [accepted]


def seconds(*arguments: object) -> float:
    """Of one command as a process."""
    begun = perf_counter()
    subprocess.run(
        [sys.executable, "-m", "streammig", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return perf_counter() - begun


def measure(batches: int, rounds: int, folder: Path) -> dict[str, Any]:
    path = folder / "run.checkpoint"
    size = make(path, batches)
    status = statistics.median(seconds("status", path) for _ in range(rounds))
    report = statistics.median(seconds("report", path, "--out", folder / "report.html") for _ in range(rounds))
    return {
        "batches": batches,
        "status_s": round(status, 3),
        "report_s": round(report, 3),
        "bytes_a_batch": round(size, 1),
        "report_kb": round((folder / "report.html").stat().st_size / 1000, 1),
        "reached": {"status": status <= STATUS, "report": report <= REPORT, "bytes": size <= BYTES},
    }


def show(found: dict[str, Any]) -> None:
    reached = found["reached"]
    print(f"{found['batches']:,} batches")
    print(f"status, seconds        {found['status_s']:>8.3f}   goal {STATUS}: {yes(reached['status'])}")
    print(f"report, seconds        {found['report_s']:>8.3f}   goal {REPORT}: {yes(reached['report'])}")
    print(f"bytes a batch          {found['bytes_a_batch']:>8.1f}   goal {BYTES}: {yes(reached['bytes'])}")
    print(f"the report, kilobytes  {found['report_kb']:>8.1f}")


def main() -> int:
    return figures(__doc__, "report", measure, show, batches=100_000, rounds=5)


if __name__ == "__main__":
    sys.exit(main())
