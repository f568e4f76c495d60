"""How fast records are found and checked by all rules of a stage, against ijson, which validates nothing.

    python -m benchmarks.validation [--mb N] [--rounds N] [--json]

Each stage is judged by the rules in Python, and by the compiled judge where it was compiled.
Both read the same file on one core, streammig to records ready to be packed, ijson to objects. They take turns, so that
noise of the machine meets both. Each turn is a process of its own: streammig's is set up like its reader, ijson's is
plain Python. Seconds of CPU are counted. MB/s are medians. The ratios are medians over the rounds: the time of ijson to
that of clean records, and the time of other records to that of clean ones. Of `odd` records 2 % are bad, filtered or
edited. Each `null` record has an optional field that is null, each `cut` one a field that must be cut.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import ijson

from benchmarks.figures import apart, figures, yes
from streammig.masivo.rules import RuleOptions, rules
from streammig.masivo.rules.compiled import is_compiled
from streammig.sources import Input, open_source

GOALS = {  # ijson to clean
    "python": {"customers": 1.15, "events": 1.3, "transactions": 1.1},
    "compiled": {"customers": 6.0, "events": 6.0, "transactions": 6.0},
}
MOST = {"python": 1.35, "compiled": 1.5}  # other records to clean ones
JUDGES = ("python", "compiled") if is_compiled() else ("python",)
KINDS = ("clean", "odd", "null", "cut")
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


def spoilt(stage: str, kind: str, number: int, record: dict[str, Any]) -> dict[str, Any]:
    """The record as a kind of export has it."""
    units: list[dict[str, Any]] = [record] if stage == "customers" else record[stage]
    where = [unit["order"] for unit in units] if stage == "events" else units
    name = {"customers": "gender", "events": "store_id", "transactions": "funded_by"}[stage]
    if kind == "cut":
        return {"status": "ACTIVE", **record}
    if kind == "null":
        for each in where:
            each[name] = None
    if kind == "odd" and number % 50 == 0:
        match number // 50 % 5:
            case 0:
                units[0]["registration_date" if stage == "customers" else "issued_at"] = "2020-01-01"
            case 1:
                where[0][name] = None
            case 2:
                return {"status": "INACTIVE", **record}
            case 3:
                return {"phone": "1", **record}
            case 4:
                lot = record["balance"][0] if stage == "customers" else where[0]
                lot["value" if stage == "events" else "amount"] = 1.234
    return record


def write(file: Path, stage: str, size: int, kind: str) -> int:
    """An export with about `size` bytes of records; how many these are."""
    dice, at = Random(7), 0
    texts: list[str] = []
    while at < size:
        record = spoilt(stage, kind, len(texts) + 1, MAKERS[stage](dice, len(texts) + 1))
        texts.append(json.dumps(record, separators=(",", ":"), ensure_ascii=False))
        at += len(texts[-1]) + 1
    file.write_text("[" + ",".join(texts) + "]")
    return len(texts)


def streammig(file: str, stage: str, judge: str) -> int:
    judged = rules(stage, RuleOptions(now=datetime(2024, 1, 1, tzinfo=UTC)), judge=judge)
    found = 0
    for span in open_source([Input(file)]).judged_by(judged.judge).spans():
        columns = judged.columns(span)
        found += len(columns) + len(columns.left_out)
    return found


def by_ijson(file: str) -> int:
    with open(file, "rb") as source:
        return sum(1 for _ in ijson.items(source, "item"))


def compare(folder: Path, stage: str, size: int, rounds: int) -> list[dict[str, Any]]:
    """Medians of one stage: a line for each judge and kind of export."""
    files = {kind: folder / f"{stage}-{kind}.json" for kind in KINDS}
    records = {kind: write(file, stage, size, kind) for kind, file in files.items()}
    its: list[float] = []
    ours: dict[tuple[str, str], list[float]] = {(judge, kind): [] for judge in JUDGES for kind in KINDS}
    for _ in range(rounds):
        its.append(apart(by_ijson, str(files["clean"]), reader=False)[0] / records["clean"])
        for (judge, kind), mine in ours.items():
            seconds, found = apart(streammig, str(files[kind]), stage, judge, reader=True)
            if found != records[kind]:
                raise SystemExit(f"streammig found {found} of {records[kind]} records")
            mine.append(seconds / records[kind])
    lines = []
    for (judge, kind), mine in ours.items():
        bytes_ = files[kind].stat().st_size // records[kind]
        line = {"stage": stage, "judge": judge, "kind": kind, "bytes_a_record": bytes_}
        line |= {"us_a_record": round(statistics.median(mine) * 1e6, 1)}
        line |= {"mb_s": round(bytes_ / statistics.median(mine) / 1e6, 1)}
        line |= {"ijson_us": round(statistics.median(its) * 1e6, 1), "to_ijson": _ratio(its, mine)}
        lines.append({**line, "to_clean": _ratio(mine, ours[judge, "clean"])})
    return lines


def _ratio(left: list[float], right: list[float]) -> float:
    return round(statistics.median(one / other for one, other in zip(left, right, strict=True)), 2)


def measure(megabytes: float, rounds: int, folder: Path) -> dict[str, Any]:
    table = [line for stage in MAKERS for line in compare(folder, stage, int(megabytes * 1e6), rounds)]
    reached = {
        f"{line['stage']} {line['judge']} {line['kind']}": (
            line["to_ijson"] >= GOALS[line["judge"]][line["stage"]]
            if line["kind"] == "clean"
            else line["to_clean"] <= MOST[line["judge"]]
        )
        for line in table
    }
    return {"rounds": rounds, "load": os.getloadavg(), "results": table, "reached": reached}


def show(found: dict[str, Any]) -> None:
    print(f"load {found['load'][0]:.1f}; goals: clean to ijson {GOALS}, others to clean at most {MOST}")
    head = f"{'stage':14}{'judge':10}{'records':>8}{'bytes':>8}{'us each':>9}{'MB/s':>8}"
    print(f"{head}{'ijson us':>10}{'to ijson':>10}{'to clean':>10}")
    for line, reached in zip(found["results"], found["reached"].values(), strict=True):
        print(
            f"{line['stage']:14}{line['judge']:10}{line['kind']:>8}{line['bytes_a_record']:>8}{line['us_a_record']:>9}{line['mb_s']:>8}"
            f"{line['ijson_us']:>10}{line['to_ijson']:>10}{line['to_clean']:>10}   {yes(reached)}"
        )


def main() -> int:
    return figures(__doc__, "validation", measure, show, mb=30.0, rounds=5)


if __name__ == "__main__":
    sys.exit(main())
