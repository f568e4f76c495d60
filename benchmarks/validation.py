"""How fast records are found and checked by all rules of a stage, against ijson, which validates nothing.

    python -m benchmarks.validation [--mb N] [--rounds N] [--json]

Both read the same file on one core, streammig to records ready to be packed, ijson to objects. They take turns, so that
noise of the machine meets both. Each turn is a process of its own: streammig's is set up like its reader, ijson's is
plain Python. MB/s are medians; the ratio is that of the rounds. Each `edited` record has a field that must be cut.
"""

from __future__ import annotations

import json
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import ijson

from benchmarks.figures import apart, figures, yes
from streammig.masivo.rules import RuleOptions, rules
from streammig.sources import Input, open_source

GOAL = 2.5
REWARDS = ["3f2504e0-4f89-11d3-9a0c-0305e82c3301", "9b2d7f1a-0c4e-4f62-8d35-6a1b0e9c7d21"]


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


def write(file: Path, stage: str, size: int, *, edited: bool) -> int:
    """An export with about `size` bytes of records; how many these are."""
    dice, at = Random(7), 0
    texts: list[str] = []
    while at < size:
        record = MAKERS[stage](dice, len(texts) + 1)
        if edited:
            record = {"status": "ACTIVE", **record}
        texts.append(json.dumps(record, separators=(",", ":"), ensure_ascii=False))
        at += len(texts[-1]) + 1
    file.write_text("[" + ",".join(texts) + "]")
    return len(texts)


def streammig(file: str, stage: str) -> int:
    judged = rules(stage, RuleOptions(now=datetime(2024, 1, 1, tzinfo=UTC)))
    return sum(len(it.records) for run in open_source([Input(file)]).runs() for it in judged.examine(run))


def by_ijson(file: str) -> int:
    with open(file, "rb") as source:
        return sum(1 for _ in ijson.items(source, "item"))


def compare(file: Path, stage: str, records: int, rounds: int) -> dict[str, Any]:
    """Medians of one export."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        mine, found = apart(streammig, str(file), stage, reader=True)
        its, seen = apart(by_ijson, str(file), reader=False)
        if (found, seen) != (records, records):
            raise SystemExit(f"of {records} records streammig found {found} and ijson {seen}")
        times.append((mine, its))
    ours, theirs = (statistics.median(each) for each in zip(*times, strict=True))
    size = file.stat().st_size
    return {
        "stage": stage,
        "bytes_a_record": size // records,
        "streammig_mb_s": round(size / ours / 1e6, 1),
        "ijson_mb_s": round(size / theirs / 1e6, 1),
        "ratio": round(statistics.median(right / left for left, right in times), 2),
        "us_a_record": round(ours / records * 1e6, 1),
    }


def measure(megabytes: float, rounds: int, folder: Path) -> dict[str, Any]:
    table = []
    for edited in (False, True):
        for stage in MAKERS:
            file = folder / f"{stage}.json"
            records = write(file, stage, int(megabytes * 1e6), edited=edited)
            table.append({"edited": edited, **compare(file, stage, records, rounds)})
    return {
        "rounds": rounds,
        "results": table,
        "reached": {f"{it['stage']}{', edited' * it['edited']}": it["ratio"] >= GOAL for it in table},
    }


def show(found: dict[str, Any]) -> None:
    head = f"{'stage':14}{'record':>12}{'bytes':>8}{'MB/s':>8}{'ijson MB/s':>12}{'µs a record':>13}{'ratio':>8}"
    print(f"{head}   goal {GOAL}")
    for line, reached in zip(found["results"], found["reached"].values(), strict=True):
        kind = "edited" if line["edited"] else "as it is"
        print(
            f"{line['stage']:14}{kind:>12}{line['bytes_a_record']:>8}{line['streammig_mb_s']:>8}"
            f"{line['ijson_mb_s']:>12}{line['us_a_record']:>13}{line['ratio']:>8}   {yes(reached)}"
        )


def main() -> int:
    return figures(__doc__, "validation", measure, show, mb=30.0, rounds=5)


if __name__ == "__main__":
    sys.exit(main())
