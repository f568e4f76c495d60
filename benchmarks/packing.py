"""How many requests packing needs, against the fewest possible and against common ways.

    python -m benchmarks.packing [--batches 5000] [--seeds 1,2,3] [--json]

Records are owners whose units can't be split, 1,000 units a request. The lower bound is all units by 1,000, rounded up:
no packing can do better, and often none can reach it. Next-fit fills a list, and sends it when the next record no
longer fits. First-fit-decreasing needs the whole stage in memory, sorted. It can't be used on a stream, and shows what
is possible. Seeds are fixed; the results are medians over them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from decimal import Decimal
from random import Random
from statistics import median
from time import perf_counter

from streammig.batching import batcher
from streammig.model import Examined, Position, Record
from tests.spans import chunk_of

LIMIT = 1000
GOALS = {"mild": 1.001, "mixed": 1.002, "heavy": 1.04}
LEGEND = {
    "mild": "geometric, mean 4",
    "mixed": "95 % mild, 5 % uniform 300 to 700",
    "heavy": "uniform 300 to 700",
}


def owners(kind: str, batches: int, seed: int) -> Iterator[int]:
    """Units of one owner after another, until `batches` requests would be full."""
    dice = Random(seed)
    units = 0
    while units < batches * LIMIT:
        if kind == "heavy" or (kind == "mixed" and dice.random() < 0.05):
            drawn = dice.randint(300, 700)
        else:
            drawn = min(LIMIT, 1 + int(math.log(1 - dice.random()) / math.log(1 - 1 / 4)))
        units += drawn
        yield drawn


def next_fit(sizes: list[int]) -> int:
    requests, room = 0, 0
    for units in sizes:
        if units > room:
            requests, room = requests + 1, LIMIT
        room -= units
    return requests


def first_fit_decreasing(sizes: list[int]) -> int:
    rooms: list[int] = []
    first, last = 0, 0
    for units in sorted(sizes, reverse=True):
        if units != last:
            first, last = 0, units
        # A request that had no room for one of this size has none for the next of the same size.
        while first < len(rooms) and rooms[first] < units:
            first += 1
        if first == len(rooms):
            rooms.append(LIMIT)
        rooms[first] -= units
    return len(rooms)


def ours(sizes: list[int]) -> tuple[int, float]:
    """Requests, and seconds spent in the batcher."""
    packing = batcher(b'{"customers":[', b"]}", once=True)
    requests, spent, offset = 0, 0.0, 0
    for start in range(0, len(sizes), 1000):
        group: list[Examined] = []
        for units in sizes[start : start + 1000]:
            group.append(examined(len(group) + start, offset, units))
            offset += group[-1].position.length + 1
        chunk, begun = chunk_of(group), perf_counter()
        requests += len(packing.take(chunk))
        spent += perf_counter() - begun
    begun = perf_counter()
    requests += len(packing.finish())
    return requests, spent + perf_counter() - begun


def examined(number: int, offset: int, units: int) -> Examined:
    inner = b",".join([b'{"amount":1}'] * units)
    opening = b'{"id":"%d","transactions":[' % number
    body = opening + inner + b"]}"
    position = Position(0, offset, len(body), number + 1)
    where = (len(opening), len(opening) + len(inner))
    amounts = (("points", Decimal(1)),) * units
    return Examined(position, (Record(position, 0, str(number), body, units, amounts, where),))


def measure(kind: str, batches: int, seeds: list[int]) -> dict[str, float | int | str]:
    rows = []
    for seed in seeds:
        sizes = list(owners(kind, batches, seed))
        bound = -(-sum(sizes) // LIMIT)
        requests, seconds = ours(sizes)
        others = next_fit(sizes) / bound, first_fit_decreasing(sizes) / bound
        rows.append((requests / bound, *others, seconds / len(sizes) * 1e6))
    ratio, following, decreasing, micros = (median(column) for column in zip(*rows, strict=True))
    return {
        "owners": kind,
        "units": LEGEND[kind],
        "next_fit": round(following, 4),
        "first_fit_decreasing": round(decreasing, 4),
        "streammig": round(ratio, 4),
        "goal": GOALS[kind],
        "reached": "yes" if ratio <= GOALS[kind] else "no",
        "us_per_record": round(micros, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batches", type=int, default=5000)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    rows = [measure(kind, asked.batches, seeds) for kind in GOALS]
    if asked.json:
        print(json.dumps({"batches": asked.batches, "seeds": seeds, "packing": rows}, indent=2))
    else:
        print(f"requests / lower bound, {asked.batches} batches, seeds {asked.seeds}\n")
        print(
            f"{'units of an owner':<44}{'next-fit':>10}{'ffd offline':>13}{'streammig':>11}{'goal':>8}{'µs/record':>11}"
        )
        for row in rows:
            name = f"{row['owners']} ({row['units']})"
            print(
                f"{name:<44}{row['next_fit']:>10}{row['first_fit_decreasing']:>13}"
                f"{row['streammig']:>11}{row['goal']:>8}{row['us_per_record']:>11}"
            )
    return 0 if all(row["reached"] == "yes" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
