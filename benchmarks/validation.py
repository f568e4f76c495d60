"""How fast records are judged: all rules of a stage, against ijson, which validates nothing.

    python -m benchmarks.validation [--megabytes N] [--rounds N] [--json]

Both are given the same bytes from memory: the rules as slices already cut, ijson as the array they stand in. Rounds are
interleaved, so that whatever else the machine does hits both; the figures are medians in MB/s of the records' bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import ijson

from streammig.masivo.rules import RuleOptions, rules
from streammig.records import Run, Slice

REWARDS = ["3f2504e0-4f89-11d3-9a0c-0305e82c3301", "9b2d7f1a-0c4e-4f62-8d35-6a1b0e9c7d21"]
RUN = 500  # slices handed over at once


def customer(dice: Random, number: int) -> dict[str, Any]:
    """A customer of about 1 KB: two lots, figures of two periods, a device."""
    date = f"20{dice.randrange(10, 24)}-0{dice.randrange(1, 10)}-{dice.randrange(10, 29)}T10:20:30Z"

    def period() -> dict[str, Any]:
        spent, count = dice.randrange(10**6) / 100, dice.randrange(50)
        return {"from": date, "to": date, "last_visit": date, "spend_total": spent, "number_of_purchases": count}

    def lot() -> dict[str, Any]:
        amount = dice.randrange(10**5)
        ids = {
            "reward_id": dice.choice(REWARDS),
            "brand_id": None,
            "channel_id": "web",
            "store_id": f"store-{amount % 90}",
        }
        return {**ids, "amount": amount, "expiration_date": None, "issued_at": date}

    device = {"device_token": f"{dice.getrandbits(256):064x}", "device_info": {"platform": "ios", "model": "x"}}
    return {
        "id": f"C-{number:09d}",
        "name": f"Név {dice.getrandbits(40):x} Größe",
        "email": f"customer.{number}@example.com",
        "registration_date": date,
        "gender": "FEMALE",
        "dob": date,
        "balance": [lot(), lot()],
        "metrics": {"lifetime": period(), "this_year": period(), "updated_at": date},
        "devices": [device],
    }


def owner_of_events(dice: Random, number: int) -> dict[str, Any]:
    """Four purchases of two lines each."""
    date = f"20{dice.randrange(10, 24)}-01-02T10:20:30.456Z"

    def event() -> dict[str, Any]:
        value = dice.randrange(10**6) / 100
        products = [{"sku": f"SKU-{dice.randrange(1000)}", "amount": 1, "value": value} for _ in range(2)]
        order = {"purchase_id": f"P{dice.getrandbits(48):x}", "value": value, "discounted_value": value}
        order |= {"products": products, "payment_method": "CASH"}
        kind = {"type": "PURCHASE", "brand_id": None, "fulfilled": True, "channel_id": "web"}
        return {**kind, "order": order, "issued_at": date, "resolved_at": date}

    return {"id": f"C-{number:09d}", "events": [event() for _ in range(4)]}


def owner_of_transactions(dice: Random, number: int) -> dict[str, Any]:
    """Five transactions."""
    date = f"20{dice.randrange(10, 24)}-01-02T10:20:30Z"

    def transaction() -> dict[str, Any]:
        nulls = dict.fromkeys(("brand_id", "cost", "store_id", "channel_id", "event"))
        kind = {"reward_id": dice.choice(REWARDS), "details": "Points for a purchase", "type": "ACCUMULATION"}
        return {**nulls, **kind, "issued_at": date, "resolved_at": date, "amount": dice.randrange(-(10**5), 10**5)}

    return {"id": f"C-{number:09d}", "transactions": [transaction() for _ in range(5)]}


MAKERS = {"customers": customer, "events": owner_of_events, "transactions": owner_of_transactions}


def slices(stage: str, size: int, *, edited: bool) -> list[Run]:
    """Runs of slices with about `size` bytes of records; `edited` ones have a field that must be cut out."""
    dice, runs, at = Random(7), [], 1
    run: Run = []
    while at < size:
        record = MAKERS[stage](dice, at)
        if edited:
            record = {"status": "ACTIVE", **record}
        data = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
        run.append(Slice(0, at, 1, len(data), data))
        at += len(data) + 1
        if len(run) == RUN:
            runs.append(run)
            run = []
    return [*runs, run] if run else runs


def timed(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(stage: str, size: int, rounds: int, *, edited: bool) -> dict[str, Any]:
    """Medians of one stage in MB/s."""
    runs = slices(stage, size, edited=edited)
    records = sum(map(len, runs))
    document = b"[" + b",".join(each.data for run in runs for each in run) + b"]"
    found = rules(stage, RuleOptions(now=datetime(2024, 1, 1, tzinfo=UTC)))
    backend = ijson.get_backend("yajl2_c")

    def judge() -> None:
        for run in runs:
            assert all(result.records for result in found.examine(run))

    def walk() -> None:
        for _ in backend.items(io.BytesIO(document), "item", buf_size=65536):
            pass

    times = [(timed(judge), timed(walk)) for _ in range(rounds)]
    ours, theirs = (statistics.median(each) for each in zip(*times, strict=True))
    return {
        "stage": stage,
        "edited": edited,
        "bytes_a_record": len(document) // records,
        "rules_mb_s": round(len(document) / ours / 1e6, 1),
        "ijson_mb_s": round(len(document) / theirs / 1e6, 1),
        "ratio": round(statistics.median(right / left for left, right in times), 2),
        "us_a_record": round(ours / records * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    size = int(options.megabytes * 1e6)
    table = [measure(stage, size, options.rounds, edited=edited) for edited in (False, True) for stage in MAKERS]
    if options.json:
        json.dump(table, sys.stdout, indent=1)
        return
    print(f"{'stage':14}{'record':>12}{'bytes':>8}{'rules MB/s':>12}{'ijson MB/s':>12}{'ratio':>8}{'µs a record':>13}")
    for line in table:
        kind = "edited" if line["edited"] else "as it is"
        print(
            f"{line['stage']:14}{kind:>12}{line['bytes_a_record']:>8}{line['rules_mb_s']:>12}"
            f"{line['ijson_mb_s']:>12}{line['ratio']:>8}{line['us_a_record']:>13}"
        )


if __name__ == "__main__":
    main()
