"""A finished checkpoint takes more stages, and more files of a stage, by the same command with more inputs named."""

from __future__ import annotations

from streammig.sandbox.local import LocalTarget
from tests.commands import Called, Shell, write
from tests.sandbox_caller import customer, event, lot, transaction

PEOPLE = [
    *[customer(f"c{number}", balance=[lot(1)]) for number in range(6)],
    customer("gone", deleted_at="2021-01-01T00:00:00Z"),
    customer("bad", name=5, balance=[lot(1)]),
    customer("twin", email="C1@example.org"),
]
EVERYBODY = [each["id"] for each in PEOPLE] + ["nobody"]
WAITING = {"owner-unknown-customer": 1, "owner-duplicate-email": 1, "owner-wrong-type": 1}
CUSTOMERS = ["--customers", "c.json"]
EVENTS = ["--events", "e.json"]
TRANSACTIONS = ["--transactions", "t.json"]


def exports(shell: Shell) -> None:
    write(shell.folder / "c.json", PEOPLE)
    write(shell.folder / "e.json", [{"id": owner, "events": [event(f"p-{owner}")]} for owner in EVERYBODY])
    write(shell.folder / "e2.json", [{"id": owner, "events": [event(f"q-{owner}")]} for owner in EVERYBODY])
    write(shell.folder / "t.json", [{"id": owner, "transactions": [transaction(1)]} for owner in EVERYBODY])


def run(shell: Shell, target: LocalTarget, *inputs: str) -> Called:
    return shell.run(target.url, *inputs, "--json")


def test_i3_stages_are_added_to_a_finished_checkpoint_and_know_its_customers(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert run(shell, target, *CUSTOMERS).code == 3
    assert run(shell, target, *CUSTOMERS, *EVENTS).code == 3
    ended = run(shell, target, *CUSTOMERS, *EVENTS, *TRANSACTIONS)
    assert ended.code == 3, ended.err
    assert "scanning" in ended.err
    again = run(shell, target, *CUSTOMERS, *EVENTS, *TRANSACTIONS)
    assert (again.code, "scanning" in again.err, "customers: all is read" in again.err) == (3, False, True)
    for name in ("events", "transactions"):
        assert ended.document["stages"][name]["accepted"] == 6
        assert ended.document["stages"][name]["dead_by"] == WAITING
        assert [*ended.document["stages"][name]["filtered_by"]] == ["customer-filtered"]
        assert target.ledger()["holds"][name]["count"] == 6
        assert target.ledger()["dropped"][name] == {}
    assert target.ledger()["holds"]["customers"]["count"] == 6
    assert target.ledger()["twice"]["customers"]["count"] == 0


def test_i3_files_are_added_to_a_finished_stage_and_only_they_are_sent(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert run(shell, target, *CUSTOMERS, *EVENTS, *TRANSACTIONS).code == 3
    ended = run(shell, target, *CUSTOMERS, *EVENTS, "--events", "e2.json", *TRANSACTIONS)
    assert ended.code == 3, ended.err
    events = ended.document["stages"]["events"]
    assert (events["read"], events["accepted"], events["state"]) == (20, 12, "complete")
    assert events["dead_by"] == dict.fromkeys(WAITING, 2)
    held, twice = target.ledger()["holds"], target.ledger()["twice"]
    assert (held["events"]["count"], twice["events"]["count"]) == (12, 0)
    assert (held["transactions"]["count"], twice["transactions"]["count"]) == (6, 0)


def test_i8_files_may_be_added_behind_the_others_only(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert run(shell, target, *CUSTOMERS, *EVENTS).code == 3
    before, requests = shell.files()["migration.checkpoint"], target.ledger()["requests"]
    for inputs in (
        [*CUSTOMERS, "--events", "e2.json", *EVENTS],  # before the one that was sent
        [*CUSTOMERS, "--events", "e2.json"],  # instead of it
        CUSTOMERS,  # a stage is missing
    ):
        ended = run(shell, target, *inputs)
        assert ended.code == 2, ended.err
        assert "belongs to another migration" in ended.err
        assert shell.files()["migration.checkpoint"] == before
    assert target.ledger()["requests"].get("events") == requests.get("events")


def test_i3_customers_that_are_added_are_held_against_those_that_were_sent(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    write(shell.folder / "more.json", [customer("c9"), customer("c2"), customer("late", email="c3@example.org")])
    assert run(shell, target, *CUSTOMERS).code == 3
    ended = run(shell, target, *CUSTOMERS, "--customers", "more.json")
    assert ended.code == 3, ended.err
    customers = ended.document["stages"]["customers"]
    assert customers["accepted"] == 7
    assert customers["dead_by"]["duplicate-customer"] == 1
    assert customers["dead_by"]["duplicate-email"] == 2
    assert target.ledger()["twice"]["customers"]["count"] == 0
    assert target.ledger()["holds"]["customers"]["count"] == 7
