"""The batches of sample exports are fixed to the byte: whatever process makes them, and wherever it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.batching import BatchLimits, Sealing
from streammig.masivo.rules import RuleOptions, rules
from streammig.model import Progress, Tally
from streammig.reader import Reader
from streammig.reader_process import ReaderProcess
from streammig.sources import Input, open_source

OPTIONS = RuleOptions(now=datetime(2024, 5, 1, tzinfo=UTC))
LIMITS = BatchLimits(units=10, bytes=6_000, bins=4, age=8)
RECORDS = 120
REWARDS = ["3F2504E0-4f89-11d3-9a0c-0305e82c3301", "9b2d7f1a-0c4e-4f62-8d35-6a1b0e9c7d21"]
DATE = "2020-01-02T10:20:30Z"


def customer(dice: Random, number: int) -> dict[str, Any]:
    lots = [
        {"reward_id": dice.choice(REWARDS), "amount": dice.randrange(999), "expiration_date": None, "brand_id": None}
        for _ in range(dice.randrange(3))
    ]
    start = {"id": f"C-{number}", "name": f'Név {number} "x"', "email": f"C.{number}@Example.com"}
    return {**start, "registration_date": DATE, "balance": lots, "gender": "FEMALE", "document_type": "CC"}


def events(dice: Random, number: int) -> dict[str, Any]:
    def event() -> dict[str, Any]:
        value = dice.randrange(999)
        order = {"purchase_id": f"P-{dice.randrange(10**6)}", "value": value, "discounted_value": value}
        products = [{"sku": "S", "amount": 1, "value": value}]
        order |= {"products": products, "payment_method": "CASH", "store_id": "s"}
        kind = {"type": dice.choice(["PURCHASE", "RETURN"]), "brand_id": None, "fulfilled": True}
        return {**kind, "order": order, "issued_at": DATE, "resolved_at": DATE}

    # Some owners come again at once: their events are joined in one entry of a request.
    return {"id": f"C-{number - number % 2}", "events": [event() for _ in range(1 + dice.randrange(6))]}


def transactions(dice: Random, number: int) -> dict[str, Any]:
    def row() -> dict[str, Any]:
        nulls = dict.fromkeys(("brand_id", "cost", "store_id", "channel_id", "event"))
        kind = {"reward_id": dice.choice(REWARDS), "details": "d", "type": "ACCUMULATION", "funded_by": "f"}
        return {**nulls, **kind, "issued_at": DATE, "resolved_at": DATE, "amount": dice.randrange(-99, 99)}

    return {"id": f"C-{number}", "transactions": [row() for _ in range(1 + dice.randrange(8))]}


MAKERS = {"customers": customer, "events": events, "transactions": transactions}
OPTIONAL = {"customers": "gender", "events": "store_id", "transactions": "funded_by"}


def inner(stage: str, record: dict[str, Any]) -> dict[str, Any]:
    """The object that the stage's optional field stands in."""
    if stage == "customers":
        return record
    unit: dict[str, Any] = record[stage][0]
    found: dict[str, Any] = unit["order"] if stage == "events" else unit
    return found


def odd(stage: str, record: dict[str, Any], number: int) -> Any:
    match number % 8:
        case 1:
            inner(stage, record)[OPTIONAL[stage]] = None
        case 2:
            record = {"status": "INACTIVE", **record}
        case 3:
            inner(stage, record)[OPTIONAL[stage]] = 7
        case 4:
            return [7, {}, "x", None][number // 8 % 4]
        case 5 if stage == "customers":
            record["email"] = "c.1@example.com"  # of another customer
        case 5:
            record[stage][0]["issued_at"] = "2020-01-02"
        case 6 if stage == "events":
            record[stage][-1].update(reversed=True)
        case 6:
            inner(stage, record)["zone"] = {"a": [1, "}"]}
    return record


def sample(stage: str, kind: str) -> str:
    """An export of so many records: as the target wants them, some odd, each to be edited, or laid out with blanks."""
    dice, found = Random(7), []
    for number in range(1, RECORDS + 1):
        record: Any = MAKERS[stage](dice, number)
        if kind == "odd" and number % 3 == 0:
            record = odd(stage, record, number // 3)
        elif kind == "edited":
            inner(stage, record)[OPTIONAL[stage]] = None
            record = {"phone": "1", "status": "ACTIVE", **record, "crm": {"a": [1]}}
        found.append(record)
    if kind == "pretty":
        return json.dumps(found, indent=2)
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)


def all_of(feed: Reader | ReaderProcess) -> Iterator[Sealing]:
    try:
        while (sealing := feed.next()) is not None:
            yield sealing
    finally:
        feed.close()


def written(sealings: list[Sealing]) -> list[str]:
    """Everything that is sealed: the batches, and what is told beside them."""
    lines = []
    for it in sealings:
        for letter in it.progress.dead:
            at = letter.position
            lines.append(f"dead {at.source} {at.offset} {at.length} {letter.unit} {letter.code} {tally(letter.tally)}")
        lines += [f"absent {each}" for each in it.progress.absent]
        if it.draft is not None:
            assert hashlib.sha256(it.draft.body).digest() == it.draft.digest
            ranges = [tuple(map(tuple, each)) for each in it.draft.ranges]
            lines.append(f"batch {it.draft.digest.hex()} {ranges} {tally(it.draft.tally)}")
    end = sealings[-1].progress
    filtered = [(reason, tally(each)) for reason, each in sorted(end.filtered.items())]
    lines.append(
        f"end {tuple(end.frontier)} {end.source_records} {tally(end.read)} {filtered} {sorted(end.dropped.items())}"
    )
    return lines


def tally(it: Tally) -> str:
    return f"{it.records} {it.units} {sorted((key, str(value.normalize())) for key, value in it.sums.items())}"


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# Of each export the whole of it, and what is made from each stop on.
FIXED = {
    ("customers", "clean"): ("139a04cc1d996669", "8ccfe364221dbdc3"),
    ("customers", "odd"): ("d4d245bc2d516211", "ef00d97368b166bd"),
    ("customers", "edited"): ("1b62ab36708d87a4", "897d5c31a616cab0"),
    ("customers", "pretty"): ("a39681d9f28dd931", "d5c10b8be84f8747"),
    ("events", "clean"): ("c0cc5208836aec53", "cc98a5881b6ed437"),
    ("events", "odd"): ("6361f4df480afba3", "a1924f9f8b155097"),
    ("events", "edited"): ("02040c8f0b5541db", "1940eb59ccc4bb57"),
    ("events", "pretty"): ("fc70ff015d2df661", "8896835191116706"),
    ("transactions", "clean"): ("6c3655de612d53c5", "d8f00c9ae250cc1f"),
    ("transactions", "odd"): ("9aac5f600a84e326", "e0a9e30d28a341b9"),
    ("transactions", "edited"): ("b696ca8a6ea4a3db", "ac5a2b3da5634e57"),
    ("transactions", "pretty"): ("69787935395c8f63", "a3f846d30aefbefa"),
}


@pytest.mark.parametrize("kind", ["clean", "odd", "edited", "pretty"])
@pytest.mark.parametrize("stage", list(MAKERS))
def test_i5_the_batches_of_an_export_are_the_same_bytes_in_any_process_and_after_any_stop(
    stage: str, kind: str, tmp_path: Path, judge: str
) -> None:
    file = tmp_path / "x.json"
    file.write_text(sample(stage, kind))
    judged = rules(stage, OPTIONS)
    parts = open_source([Input(str(file))]).judged_by(judged.judge), judged, LIMITS
    whole = list(all_of(Reader(*parts, Progress())))
    assert written(list(all_of(ReaderProcess(*parts, Progress())))) == written(whole)
    resumed = []
    for at, sealing in enumerate(whole, 1):
        progress = sealing.progress
        ahead = [it for each in whole[:at] if each.draft for it in each.draft.ranges if it.end > progress.frontier]
        rest = list(all_of(Reader(*parts, progress, ahead)))
        # In order all goes on as it would have; where batches are filled by best fit, the open ones begin again.
        if stage != "transactions":
            assert [it.draft for it in rest] == [it.draft for it in whole[at:]]
        if rest:
            assert (rest[-1].progress.read, rest[-1].progress.frontier) == (
                whole[-1].progress.read,
                whole[-1].progress.frontier,
            )
            resumed += written(rest)
    assert (digest(written(whole)), digest(resumed)) == FIXED[stage, kind]
