"""A mapping that was mended between two runs: what it makes of batches that were sealed before, and the totals (I1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streammig import assembly
from streammig.checkpoint import Checkpoint
from streammig.migration import Migration
from streammig.sandbox.local import LocalTarget
from streammig.stage import TOGETHER
from streammig.stages import STAGES
from tests.commands import Called, Shell, sandbox, states, write
from tests.sandbox_caller import customer, event, lot, transaction

Mapping = Callable[[dict[str, Any]], Any]
BLOCKED = {"on": "customers", "nth": 1, "do": "answer", "status": 403}


def as_it_is(record: dict[str, Any]) -> Any:
    return record


current: list[Mapping] = [as_it_is]


def mapping(record: dict[str, Any]) -> Any:
    return current[0](record)


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if each of these stood in a file of its own, which has its own hash."""
    monkeypatch.setattr(assembly, "mapping_mark", lambda _: repr(current[0]))
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


def doubled(record: dict[str, Any]) -> Any:
    return {**record, "balance": [{**each, "amount": each["amount"] * 2} for each in record["balance"]]}


def bad(record: dict[str, Any]) -> Any:
    return {**record, "name": 5} if record["id"] == "c4" else record


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        (as_it_is, doubled, 8),
        (as_it_is, bad, 8),
        (as_it_is, without("c4"), 8),
        (without("c4"), as_it_is, 7),
        (doubled, without("c1", "c2"), 8),
    ],
)
def test_i8_what_is_sealed_goes_as_it_was_sealed_and_what_is_ahead_by_the_new_mapping(
    shell: Shell, before: Mapping, after: Mapping, accepted: int
) -> None:
    people = [customer(f"c{number}", balance=[lot(5)]) for number in range(8)]
    write(shell.folder / "e.json", people + [customer(f"d{number}", balance=[lot(5)]) for number in range(3)])
    write(shell.folder / "v.json", [{"id": f"c{number}", "events": [event("p")]} for number in range(8)])
    current[0] = before
    with sandbox({"on": "customers", "nth": 1, "do": "answer", "status": 403}) as target:
        assert run(shell, target, "--customers", "e.json", "--first", 8).code == 5
        current[0] = lambda record: after(record) if "balance" in record else record
        ended = run(shell, target, "--customers", "e.json", "--events", "v.json")
        assert ended.code == (0 if accepted == 8 else 3), ended.err
        stage = balanced(ended, "customers")
        assert stage["accepted"] == accepted + 3
        old, new = (5 if it is not doubled else 10 for it in (before, after))
        assert set(stage["sums"]["accepted"].values()) == {str(accepted * old + 3 * new)}
        assert ended.document["stages"]["events"]["accepted"] == accepted
        ledger = target.ledger()
        assert ledger["holds"]["customers"]["landed"] == accepted + 3
        assert ledger["dropped"]["events"] == {}


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


@pytest.mark.parametrize(
    ("first", "faults", "codes", "dead_by", "accepted"),
    [
        (["--first", 4], [], (10, 3), {"owner-unknown-customer": 1}, 7),
        ([], [{**BLOCKED, "on": "events"}], (5, 0), {}, 8),
    ],
)
def test_what_belongs_to_a_customer_that_a_mended_mapping_leaves_out_waits_unless_the_customer_was_sent(
    shell: Shell, first: list[object], faults: list[Any], codes: tuple[int, int], dead_by: Any, accepted: int
) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(8)])
    write(shell.folder / "v.json", [{"id": f"c{number}", "events": [event("p")]} for number in range(8)])
    command = ["--customers", "e.json", "--events", "v.json"]

    def left_out(record: dict[str, Any]) -> Any:
        return None if record["id"] == "c6" and "events" not in record else record

    with sandbox(*faults) as target:
        assert run(shell, target, *command, *first).code == codes[0]
        current[0] = left_out
        ended = run(shell, target, *command)
        events = ended.document["stages"]["events"]
        assert (ended.code, events["dead_by"], events["accepted"]) == (codes[1], dead_by, accepted), ended.err
        assert target.ledger()["dropped"]["events"] == {}


# -- bins of transactions, which are sealed ahead of the frontier ----------------------------------------------------


def stage_states(checkpoint: Path, stage: str) -> list[str]:
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        return [row.state for row in file.stages() if row.name == stage]


def test_i1_what_a_bin_ahead_of_the_frontier_holds_is_passed_over_whatever_a_mended_mapping_makes_of_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first record's batch stays open and holds the frontier; the next ones' are full at once. There are more of
    # them than are read ahead of those that one commit seals.
    sizes = [300, *[1000] * (2 * TOGETHER)]
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
        if "transactions" in record and "running" in stage_states(shell.checkpoint, "transactions"):
            running[-1].stop.set()
        return record

    monkeypatch.setattr(Migration, "__init__", noted)
    with sandbox() as target:
        current[0] = stopping
        assert run(shell, target, *command).code == 130
        assert states(shell.checkpoint)["transactions"] == ["sealed"] * TOGETHER
        current[0] = without("c1")
        ended = run(shell, target, *command)
        assert ended.code == 0, ended.err
        assert balanced(ended, "transactions")["accepted"] == len(sizes)
        assert target.ledger()["twice"]["transactions"]["count"] == 0
