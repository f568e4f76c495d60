"""What the generator of exports promises: the same for the same seed, and totals that are right."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from streammig.sandbox.making import BARE, DEVICE, Layout
from streammig.sandbox.sample import STAGES, Sample, Written, write_sample

MIXED = Sample(customers=400, deleted=0.02, reversed=0.05, bad=0.01, seed=7)
Sums = Mapping[Any, Decimal]


def three(folder: Path, sample: Sample, suffix: str = "json") -> tuple[Written, dict[str, Path]]:
    paths = {stage: folder / f"{stage}.{suffix}" for stage in STAGES}
    return write_sample(sample, paths), paths


def read(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    found = map(json_exact, text.splitlines()) if path.suffix == ".ndjson" else json_exact(text)["customers"]
    return list(found)


def json_exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def balances(customer: dict[str, Any]) -> Sums:
    sums: dict[Any, Decimal] = defaultdict(Decimal)
    for lot in customer["balance"]:
        sums[lot["reward_id"], lot["brand_id"]] += lot["amount"]
    return {key: total for key, total in sums.items() if total}


def histories(owner: dict[str, Any]) -> Sums:
    sums: dict[Any, Decimal] = defaultdict(Decimal)
    for entry in owner["transactions"]:
        sums[entry["reward_id"], entry["brand_id"]] += entry["amount"]
    return {key: total for key, total in sums.items() if total}


def is_bad(customer: dict[str, Any]) -> bool:
    return "@" not in customer["email"] or customer["gender"] not in ("MALE", "FEMALE") or customer["dob"][0] > "9"


def keys(text: str) -> list[str]:
    """Every line of an indented document up to its value, with the white space before it."""
    return [line.split(":")[0] for line in text.rstrip().split("\n")]


def by_reward(owners: list[Sums]) -> Sums:
    total: dict[str, Decimal] = defaultdict(Decimal)
    for sums in owners:
        for (reward, _), amount in sums.items():
            total[reward] += amount
    return dict(total)


@pytest.mark.parametrize("sample", [MIXED, replace(MIXED, pretty=True), replace(MIXED, unicode=False)])
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, sample: Sample) -> None:
    one, two, other = (tmp_path / name for name in ("one.json", "two.json", "other.json"))
    assert write_sample(sample, one) == write_sample(sample, two)
    write_sample(replace(sample, seed=8), other)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()


def test_the_reported_counts_are_those_of_the_files(tmp_path: Path) -> None:
    written, paths = three(tmp_path, MIXED)
    customers, events, transactions = (read(paths[stage]) for stage in STAGES)
    assert written.bytes == sum(path.stat().st_size for path in paths.values())
    assert written.customers == len(customers) == 400
    assert written.deleted == sum(customer.get("status") == "DELETED" for customer in customers) == 8
    assert written.bad == sum(map(is_bad, customers)) == 4
    assert written.events == sum(len(owner["events"]) for owner in events)
    assert written.reversed == sum("reversed_at" in event for owner in events for event in owner["events"]) > 20
    assert written.transactions == sum(len(owner["transactions"]) for owner in transactions)


def test_the_good_part_leaves_out_deleted_reversed_and_bad_records_and_their_history(tmp_path: Path) -> None:
    written, paths = three(tmp_path, MIXED)
    customers, events, transactions = (read(paths[stage]) for stage in STAGES)
    good = [customer for customer in customers if "status" not in customer and not is_bad(customer)]
    ids = {customer["id"] for customer in good}
    live = [
        [event for event in owner["events"] if "reversed_at" not in event] for owner in events if owner["id"] in ids
    ]
    told = [owner for owner in transactions if owner["id"] in ids]
    assert written.good["customers"] == (len(good), len(good), by_reward([balances(it) for it in good]))
    spent = sum((event["order"]["value"] for owner in live for event in owner), Decimal())
    assert written.good["events"] == (sum(map(bool, live)), sum(map(len, live)), {"purchases": spent})
    units = sum(len(owner["transactions"]) for owner in told)
    assert written.good["transactions"] == (len(told), units, by_reward([histories(it) for it in told]))


def test_transactions_match_the_balance_by_reward_and_brand(tmp_path: Path) -> None:
    _, paths = three(tmp_path, MIXED)
    held = {customer["id"]: balances(customer) for customer in read(paths["customers"])}
    owners = read(paths["transactions"])
    assert len(owners) > 200
    assert [histories(owner) for owner in owners] == [held[owner["id"]] for owner in owners]
    signs = Counter((entry["type"], entry["amount"] > 0) for owner in owners for entry in owner["transactions"])
    assert signs.keys() == {("ACCUMULATION", True), ("REDEMPTION", False)}


def test_events_and_transactions_are_in_the_order_of_their_owners(tmp_path: Path) -> None:
    _, paths = three(tmp_path, MIXED)
    for stage in STAGES:
        ids = [record["id"] for record in read(paths[stage])]
        assert ids == sorted(set(ids))


def test_one_file_and_three_hold_the_same(tmp_path: Path) -> None:
    written, paths = three(tmp_path, MIXED)
    whole = write_sample(MIXED, tmp_path / "all.json")
    assert whole.good == written.good
    split: dict[str, list[dict[str, Any]]] = {stage: [] for stage in STAGES}
    for record in read(tmp_path / "all.json"):
        for stage in STAGES[1:]:
            if own := record.pop(stage):
                split[stage].append({"id": record["id"], stage: own})
        split["customers"].append(record)
    assert split == {stage: read(path) for stage, path in paths.items()}


def test_lines_and_indented_json_hold_the_same_as_compact_json(tmp_path: Path) -> None:
    _, compact = three(tmp_path, MIXED)
    _, lines = three(tmp_path, MIXED, "ndjson")
    pretty = {stage: tmp_path / f"pretty-{stage}.json" for stage in STAGES}
    write_sample(replace(MIXED, pretty=True), pretty)
    for stage in STAGES:
        assert read(compact[stage]) == read(lines[stage]) == read(pretty[stage])
        again = json.dumps(json.loads(pretty[stage].read_text()), indent=2, ensure_ascii=False)
        assert keys(again) == keys(pretty[stage].read_text())


def test_names_are_as_utf8_and_as_escapes_or_plain(tmp_path: Path) -> None:
    write_sample(MIXED, tmp_path / "unicode.json")
    write_sample(replace(MIXED, unicode=False), tmp_path / "plain.json")
    unicode = (tmp_path / "unicode.json").read_bytes()
    assert all(text in unicode for text in ("李小龍".encode(), b"\\u00e9", b"\\ud83c\\udf89", b'\\"Oro'))
    assert (tmp_path / "plain.json").read_bytes().isascii()


@pytest.mark.parametrize("size", [1000, 3000, 10_000])
def test_customers_are_as_large_as_asked_for(tmp_path: Path, size: int) -> None:
    written = write_sample(Sample(customers=400, size=size), {"customers": tmp_path / "customers.json"})
    assert written.bytes / 400 == pytest.approx(size, rel=0.05)
    assert size > BARE
    assert DEVICE > 0


def test_a_customer_alone_has_neither_events_nor_transactions(tmp_path: Path) -> None:
    written = write_sample(MIXED, {"customers": tmp_path / "customers.json"})
    assert (written.events, written.transactions) == (0, 0)
    assert written.good["customers"].sums
    assert written.good["events"] == written.good["transactions"] == (0, 0, {})


def test_an_export_without_customers_is_an_empty_array(tmp_path: Path) -> None:
    for pretty in (False, True):
        write_sample(Sample(customers=0, pretty=pretty), tmp_path / "none.json")
        assert json.loads((tmp_path / "none.json").read_text()) == {"customers": []}


def test_an_empty_list_is_not_laid_out(tmp_path: Path) -> None:
    assert Layout(pretty=True).array([], 4) == b"[]"


def test_memory_does_not_grow_with_the_export(tmp_path: Path) -> None:
    peaks = []
    for customers in (300, 1200):
        tracemalloc.start()
        write_sample(replace(MIXED, customers=customers), tmp_path / "all.json")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
