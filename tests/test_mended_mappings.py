"""A mapping that was mended between two runs: what it makes of batches that were sealed before, and the books (I1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streammig.cli.rehearsal import LocalTarget
from streammig.migration import Migration
from streammig.records import STAGES
from tests.commands import Called, Shell, listing, sandbox, states, write
from tests.sandbox_caller import customer, event, lot, transaction

Mapping = Callable[[dict[str, Any]], Any]
BLOCKED = {"on": "customers", "nth": 1, "do": "answer", "status": 403}


def as_it_is(record: dict[str, Any]) -> Any:
    return record


current: list[Mapping] = [as_it_is]


def mapping(record: dict[str, Any]) -> Any:
    return current[0](record)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    yield
    current[0] = as_it_is


def run(shell: Shell, target: LocalTarget, *more: object) -> Called:
    maps = [f"--map={name}=tests.test_mended_mappings:mapping" for name in STAGES]
    return shell.run(target.url, *maps, "--json", *more)


def without(*gone: str) -> Mapping:
    return lambda record: None if record["id"] in gone else record


def balanced(ended: Called, name: str) -> dict[str, Any]:
    """A stage's part of the document, in which everything read is accounted for once, and nothing is negative."""
    assert ended.document["balanced"]
    stage: dict[str, Any] = ended.document["stages"][name]
    parts = [stage[key] for key in ("accepted", "dead", "filtered", "unknown", "pending")]
    assert min(parts) >= 0
    assert sum(parts) == stage["read"] == stage["source_records"]
    for tally in stage["filtered_by"].values():
        assert tally["records"] >= 0
        assert tally["units"] >= 0
        assert all(not value.startswith("-") for value in tally["sums"].values())
    return stage


def test_amounts_that_a_mended_mapping_makes_larger_are_read_as_such(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}", balance=[lot(5)]) for number in range(8)])

    def doubled(record: dict[str, Any]) -> Any:
        return {**record, "balance": [{**lot, "amount": lot["amount"] * 2} for lot in record["balance"]]}

    with sandbox(BLOCKED) as target:
        assert run(shell, target, "--customers", "e.json").code == 5
        current[0] = doubled
        ended = run(shell, target, "--customers", "e.json")
        assert ended.code == 0, ended.err
        stage = balanced(ended, "customers")
        assert stage["filtered_by"] == {}
        assert set(stage["sums"]["accepted"].values()) == {"80"} == set(stage["sums"]["taken"].values())


def test_more_records_than_a_batch_was_sealed_with_are_refused(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(8)])
    current[0] = without("c3")
    with sandbox(BLOCKED) as target:
        assert run(shell, target, "--customers", "e.json").code == 5
        current[0] = as_it_is
        ended = run(shell, target, "--customers", "e.json")
        assert ended.code == 2
        assert "batch 1 of customers comes out as more than it was sealed as" in ended.err
        assert target.ledger()["holds"]["customers"]["landed"] == 0
        current[0] = without("c3")
        ended = run(shell, target, "--customers", "e.json")
        assert ended.code == 0
        assert balanced(ended, "customers")["filtered_by"]["mapping"]["records"] == 1


@pytest.mark.parametrize("checked", [[], ["--unchecked"]])
def test_what_belongs_to_a_customer_that_a_mended_mapping_made_bad_waits(shell: Shell, checked: list[str]) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(8)])
    write(shell.folder / "v.json", [{"id": f"c{number}", "events": [event("p")]} for number in range(8)])
    command = ["--customers", "e.json", "--events", "v.json", *checked]

    def bad(record: dict[str, Any]) -> Any:
        return {**record, "name": 5} if record["id"] == "c4" and "events" not in record else record

    with sandbox(BLOCKED) as target:
        assert run(shell, target, *command).code == 5
        current[0] = bad
        ended = run(shell, target, *command)
        assert ended.code == 3, ended.err
        assert "c4" not in {each["id"] for each in listing(target, "customers")}
        assert ended.document["stages"]["events"]["dead_by"] == {"owner-resealed": 1}
        assert target.ledger()["dropped"]["events"] == {}
        balanced(ended, "customers")


def test_i3_a_customer_whom_a_mended_mapping_makes_the_double_of_one_that_was_sent_is_not_sent(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(8)])

    def renamed(record: dict[str, Any]) -> Any:
        return {**record, "id": "c1"} if record["id"] == "c6" else record

    with sandbox() as target:
        assert run(shell, target, "--customers", "e.json", "--first", 4).code == 10
        current[0] = renamed
        ended = run(shell, target, "--customers", "e.json")
        assert ended.code == 3, ended.err
        assert balanced(ended, "customers")["dead_by"] == {"duplicate-customer": 1}
        assert target.ledger()["twice"]["customers"]["count"] == 0


def test_what_belongs_to_a_customer_that_a_mended_mapping_leaves_out_waits(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(8)])
    write(shell.folder / "v.json", [{"id": f"c{number}", "events": [event("p")]} for number in range(8)])
    command = ["--customers", "e.json", "--events", "v.json"]

    def left_out(record: dict[str, Any]) -> Any:
        return None if record["id"] == "c6" and "events" not in record else record

    with sandbox() as target:
        assert run(shell, target, *command, "--first", 4).code == 10
        current[0] = left_out
        ended = run(shell, target, *command)
        assert ended.code == 3, ended.err
        assert ended.document["stages"]["events"]["dead_by"] == {"owner-unknown-customer": 1}
        assert target.ledger()["dropped"]["events"] == {}


def test_a_mapping_that_is_mended_when_all_customers_are_delivered_takes_nothing_from_them(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(8)])
    write(shell.folder / "v.json", [{"id": f"c{number}", "events": [event("p")]} for number in range(8)])
    command = ["--customers", "e.json", "--events", "v.json"]

    def left_out(record: dict[str, Any]) -> Any:
        return None if record["id"] == "c6" and "events" not in record else record

    with sandbox({**BLOCKED, "on": "events"}) as target:
        assert run(shell, target, *command).code == 5
        current[0] = left_out
        ended = run(shell, target, *command)
        assert ended.code == 0, ended.err
        assert ended.document["stages"]["events"]["accepted"] == 8


def test_who_is_left_out_by_a_mended_mapping_can_not_be_named_and_that_is_said(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(8)])
    with sandbox(BLOCKED) as target:
        assert run(shell, target, "--customers", "e.json").code == 5
        current[0] = without("c4")
        ended = run(shell, target, "--customers", "e.json")
        assert "the mapping leaves out customers of batch 1 that it sent before" in ended.err
        assert balanced(ended, "customers")["filtered_by"]["resealed"]["records"] == 1


def test_a_batch_that_is_otherwise_without_a_mapping_is_another_export(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammig.migration import binding

    path = write(shell.folder / "e.json", [customer(f"c{number}") for number in range(8)])
    with sandbox(BLOCKED) as target:
        assert shell.run(target.url, "--customers", path).code == 5
        monkeypatch.setattr(binding, "differences", lambda *_: [])
        monkeypatch.setattr(binding, "touched", lambda *_: [])
        path.write_text(path.read_text().replace("c5@", "x5@"))
        ended = shell.run(target.url, "--customers", path)
        assert ended.code == 2
        assert "batch 1 of customers does not come out of the export as it was sealed" in ended.err
        assert "the export has changed" in ended.err
        assert target.ledger()["holds"]["customers"]["landed"] == 0


# -- bins of transactions, which are sealed ahead of the frontier ----------------------------------------------------


def test_a_mapping_that_filters_what_a_bin_ahead_of_the_frontier_holds_is_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first record's batch stays open and holds the frontier; the next one's is full at once.
    sizes = [300, 1000, 1000]
    people = [customer(f"c{number}", balance=[lot(size)]) for number, size in enumerate(sizes)]
    history = [{"id": f"c{number}", "transactions": [transaction(1)] * size} for number, size in enumerate(sizes)]
    write(shell.folder / "e.json", people)
    write(shell.folder / "t.json", history)
    command = ["--customers", "e.json", "--transactions", "t.json", "--unchecked"]
    running: list[Migration] = []
    init = Migration.__init__

    def noted(self: Migration, *arguments: Any, **more: Any) -> None:
        init(self, *arguments, **more)
        running.append(self)

    def stopping(record: dict[str, Any]) -> Any:
        if "transactions" in record:
            running[-1].stop.set()
        return record

    monkeypatch.setattr(Migration, "__init__", noted)
    with sandbox() as target:
        current[0] = stopping
        assert run(shell, target, *command).code == 130
        assert states(shell.checkpoint)["transactions"] == ["sealed"]
        current[0] = without("c1")
        ended = run(shell, target, *command)
        assert ended.code == 2
        assert "batch 1 of transactions, sealed ahead of what is counted, comes out otherwise now" in ended.err
        current[0] = as_it_is
        ended = run(shell, target, *command)
        assert ended.code == 0, ended.err
        assert balanced(ended, "transactions")["accepted"] == 3
        assert target.ledger()["twice"]["transactions"]["count"] == 0
