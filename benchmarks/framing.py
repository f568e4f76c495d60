"""How fast records are found in an export, against other readers: python -m benchmarks.framing [--json] [--mb N].

Each line is one export of `--mb` megabytes. The contestants take turns, so that noise of the machine meets all of them.
The medians of their MB/s are compared. Each turn is a process of its own: streammig's is set up like its reader, the
others are plain Python. ijson and `json` build objects and give no positions; orjson builds objects line by line.
streammig gives spans: checked bytes with the places of their records. It builds no objects. `judged` is streammig with
the compiled judge, which checks all rules as it frames. Of CSV streammig makes JSON of each row, with its place; the
`csv` module makes a dict of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ijson
import orjson

from benchmarks.figures import apart
from streammig.masivo.rules import RuleOptions, rules
from streammig.masivo.rules.compiled import is_compiled
from streammig.sources import Input, open_source

ROUNDS = 5
SIZES = (1000, 3000, 10_000)
SHAPES = ("compact", "pretty", "ndjson", "csv")
# (shape, contestant): how many times as fast streammig is to be.
GOALS = {("compact", "ijson"): 8.0, ("pretty", "ijson"): 6.0, ("ndjson", "orjson"): 1.5}


def customer(rng: random.Random, number: int, size: int) -> dict[str, Any]:
    """A customer of about `size` bytes of compact JSON."""
    record: dict[str, Any] = {
        "id": f"C{number:09d}",
        "name": f"Zoë Müller {number}",
        "email": f"customer{number}@example.com",
        "registration_date": "1995-03-01T10:00:00Z",
        "gender": rng.choice(["MALE", "FEMALE"]),
        "balance": [],
        "metrics": {"lifetime": {"spend_total": rng.randrange(10**6) / 100, "number_of_purchases": rng.randrange(99)}},
    }
    for _ in range(max(1, (size - 240) // 160)):
        record["balance"].append(
            {
                "reward_id": f"3f207df6-78b1-43ee-a3ce-{rng.randrange(10**12):012d}",
                "amount": rng.randrange(10**5) / 100,
                "expiration_date": None,
                "brand_id": None,
                "issued_at": "2024-05-06T07:08:09Z",
            }
        )
    return record


def write(path: Path, shape: str, size: int, megabytes: float) -> tuple[int, int]:
    """An export; the number of its records and bytes."""
    rng = random.Random(size)
    records, written = 0, 0
    with path.open("wb") as file:
        written += file.write(b"" if shape == "ndjson" else b'{"customers": [')
        while written < megabytes * 1e6:
            record = customer(rng, records, size)
            if shape == "pretty":
                text = ("\n" + json.dumps(record, indent=2, ensure_ascii=False)).replace("\n", "\n    ").encode()
            else:
                text = orjson.dumps(record)
            between = b"" if not records else b"\n" if shape == "ndjson" else b","
            written += file.write(between + text)
            records += 1
        written += file.write(b"\n" if shape == "ndjson" else b"]}\n")
    return records, written


def write_table(path: Path, size: int, megabytes: float) -> tuple[int, int]:
    """As `write`, a table of members in CSV, with the text of a note that fills each row."""
    rng, records = random.Random(size), 0
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ID", "First", "Last", "Email", "Since", "Points", "Note"])
        while file.tell() < megabytes * 1e6:
            for _ in range(1000):
                name, points = f"Müller, {records}", rng.randrange(10**5) / 100
                rows.writerow(
                    [records, "Zoë", name, f"c{records}@example.com", "01/03/1995", points, "x" * (size - 70)]
                )
                records += 1
    return records, path.stat().st_size


def streammig(path: str) -> int:
    return sum(map(len, open_source([Input(path)]).spans()))


def judged(path: str) -> int:
    judge = rules("customers", RuleOptions(now=datetime(2024, 1, 1, tzinfo=UTC)), judge="compiled").judge
    return sum(map(len, open_source([Input(path)]).judged_by(judge).spans()))


def by_ijson(path: str) -> int:
    with open(path, "rb") as file:
        return count(ijson.items(file, "customers.item"))


def by_json(path: str) -> int:
    return len(json.loads(Path(path).read_bytes())["customers"])


def by_json_lines(path: str) -> int:
    with open(path, "rb") as file:
        return count(json.loads(line) for line in file)


def by_orjson(path: str) -> int:
    with open(path, "rb") as file:
        return count(orjson.loads(line) for line in file)


def by_csv(path: str) -> int:
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        return count(dict(zip(header, row, strict=True)) for row in rows)


def count(records: Iterable[Any]) -> int:
    return sum(1 for _ in records)


Contestant = Callable[[str], int]
DOCUMENT: dict[str, Contestant] = {"streammig": streammig, "ijson": by_ijson, "json": by_json}
LINES: dict[str, Contestant] = {"streammig": streammig, "orjson": by_orjson, "json": by_json_lines}
TABLE: dict[str, Contestant] = {"streammig": streammig, "csv": by_csv}
OF_SHAPE = {"ndjson": LINES, "csv": TABLE}
if is_compiled():
    DOCUMENT["judged"] = LINES["judged"] = judged


def measure(path: Path, shape: str, size: int, megabytes: float) -> dict[str, Any]:
    """One export's figures: MB/s by contestant, and how many times as fast streammig is."""
    table = shape == "csv"
    records, length = write_table(path, size, megabytes) if table else write(path, shape, size, megabytes)
    contestants = OF_SHAPE.get(shape, DOCUMENT)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, read in contestants.items():
            seconds, found = apart(read, str(path), reader=name in ("streammig", "judged"))
            speeds[name].append(length / 1e6 / seconds)
            if found != records:
                raise SystemExit(f"{name} found {found} of {records} records")
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    ratios = {name: medians["streammig"] / value for name, value in medians.items() if name != "streammig"}
    goal = next(((name, GOALS[shape, name]) for name in ratios if (shape, name) in GOALS), None)
    return {
        "shape": shape,
        "record_bytes": length // records,
        "mb_per_s": {name: round(value, 1) for name, value in medians.items()},
        "times": {name: round(value, 2) for name, value in ratios.items()},
        "goal": {"against": goal[0], "times": goal[1], "met": ratios[goal[0]] >= goal[1]} if goal else None,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.framing", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--mb", type=float, default=200, metavar="N", help="size of each export (default: 200)")
    options = parser.parse_args(arguments)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in SHAPES:
            for size in SIZES:
                name = f"export.{shape}" if shape in OF_SHAPE else "export.json"
                results.append(measure(Path(folder) / name, shape, size, options.mb))
                if not options.json:
                    print(line(results[-1], header=len(results) == 1), flush=True)
    if options.json:
        print(json.dumps({"benchmark": "framing", "rounds": ROUNDS, "mb": options.mb, "results": results}, indent=2))
    return 0 if all(it["goal"]["met"] for it in results if it["goal"]) else 1


def line(result: dict[str, Any], *, header: bool) -> str:
    head = f"{'shape':8} {'bytes':>6}  {'MB/s':56} {'times as fast as':42} goal\n" if header else ""
    speeds = "  ".join(f"{name} {value:6.0f}" for name, value in result["mb_per_s"].items())
    times = "  ".join(f"{name} {value:5.1f}" for name, value in result["times"].items())
    goal = result["goal"]
    met = f"{goal['times']} x {goal['against']}: {'met' if goal['met'] else 'MISSED'}" if goal else ""
    return f"{head}{result['shape']:8} {result['record_bytes']:6}  {speeds:56} {times:42} {met}"


if __name__ == "__main__":
    sys.exit(main())
