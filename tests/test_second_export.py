"""`run --not-in`: a second export, or the full run behind a pilot, sends only what the older run has not left there."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import locked
from streammig.sandbox.local import LocalTarget
from tests.commands import Called, Shell, finished, quickly, sandbox, write
from tests.sandbox_caller import customer, event, transaction
from tests.test_verify import FILES, export

pytestmark = pytest.mark.slow
FULL = ("--max-bytes", 10_000, "--checkpoint", "full.checkpoint", "--not-in", "migration.checkpoint")
SECOND = ("--customers", "c2.ndjson", "--events", "e2.ndjson", "--transactions", "t2.ndjson")
SINCE = ("--since", "2025-01-01T00:00:00Z")
NEW = event("new", issued_at="2025-02-01T00:00:00Z")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalTarget]:
    with sandbox(store=tmp_path / "target.sqlite") as found:
        yield found


def older(shell: Shell, target: LocalTarget, owners: int) -> None:
    """A run that has sent all of its export."""
    export(shell.folder, owners)
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000).code == 0


def tamper(path: Path, change: str) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(change)


def survive(folder: Path, *names: str) -> None:
    """These customers make a transaction at the till."""
    row = "num, batch, reward_id, type, amount, details, issued, created"
    for name in names:
        values = f"SELECT num, NULL, 'r', 'ACCUMULATION', '1', 'till', 1, 1 FROM customers WHERE id = '{name}'"
        tamper(folder / "target.sqlite", f"INSERT INTO transactions ({row}) {values}")


def full(shell: Shell, target: LocalTarget, *more: object) -> Called:
    return shell.run(target.url, *FILES, *FULL, *more, "--json")


def once(target: LocalTarget, owners: int, events: int) -> None:
    ledger = target.ledger()
    assert {name: it["count"] for name, it in ledger["twice"].items()} == dict.fromkeys(ledger["twice"], 0)
    held = {name: it["count"] for name, it in ledger["holds"].items()}
    assert held == {"customers": owners, "events": events, "transactions": 3 * owners}
    assert not any(ledger["dropped"].values())


def sent_before(ended: Called) -> list[int]:
    stages = ended.document["stages"].values()
    return [it["filtered_by"].get("sent-before", {}).get("units", 0) for it in stages]


def test_the_full_run_behind_a_pilot_sends_the_rest_once(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 30)
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000, "--first", 7).code == 10
    held = {name: it["count"] for name, it in target.ledger()["holds"].items()}
    ended = full(shell, target)
    assert ended.code == 0, ended.err
    assert ended.document["balanced"]
    assert sent_before(ended) == [held["customers"], held["events"], held["transactions"]]
    once(target, 30, 90)
    assert full(shell, target).code == 0, "the same command goes on"
    assert shell("verify", "full.checkpoint", "--all").code == 0
    once(target, 30, 90)


@pytest.mark.parametrize(("part", "customers", "code"), [((), 12, 0), (("--first", 7), 7, 10)])
def test_behind_a_revert_only_its_survivors_are_left_out(
    shell: Shell, target: LocalTarget, part: tuple[object, ...], customers: int, code: int
) -> None:
    export(shell.folder, 12)
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000, *part).code == code
    survive(shell.folder, "c3")
    assert shell("revert", "migration.checkpoint", "--yes-revert", customers).code == 3
    tamper(shell.folder / "target.sqlite", "DELETE FROM transactions WHERE batch IS NULL")
    ended = full(shell, target)
    assert (ended.code, sent_before(ended)) == (0, [1, 3, 3]), ended.err
    once(target, 12, 36)


def test_an_older_run_without_events_warns_of_no_overlap(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 2)
    assert shell.run(target.url, *FILES[:2], "--max-bytes", 10_000).code == 0
    ended = full(shell, target, "--dry-run", "look")
    assert (ended.code, "will be there twice" in ended.err) == (0, False), ended.err


def second_export(folder: Path) -> None:
    """c1 has another name, c2 is new; c0 and c1 have a new event each, and their old ones."""
    people = [customer("c0", balance=[]), customer("c1", balance=[], name="Other"), customer("c2")]
    write(folder / "c2.ndjson", people, lines=True)
    rows: list[Any] = [{"id": name, "events": [event(f"{name}-0"), NEW]} for name in ("c0", "c1", "c2")]
    write(folder / "e2.ndjson", rows, lines=True)
    write(folder / "t2.ndjson", [{"id": "c2", "transactions": [transaction(1), transaction(-1)]}], lines=True)


def test_a_second_export_brings_what_is_new_and_lists_who_changed(shell: Shell, target: LocalTarget) -> None:
    older(shell, target, 2)
    second_export(shell.folder)
    look = shell.run(target.url, *SECOND, *FULL, "--dry-run", "look")
    assert (look.code, "will be there twice" in look.err) == (0, True), look.err
    ended = shell.run(target.url, *SECOND, *FULL, *SINCE, "--json")
    assert ended.code == 0, ended.err
    assert sent_before(ended) == [2, 0, 0]
    assert ended.document["stages"]["events"]["filtered_by"]["before-since"]["units"] == 3
    assert target.ledger()["holds"]["customers"]["count"] == 3
    assert target.ledger()["holds"]["events"]["count"] == 6 + 3
    changed = shell.folder / "full.checkpoint.changed.ndjson"
    assert [json.loads(line)["id"] for line in changed.read_text().splitlines()] == ["c1"]
    assert stat.S_IMODE(changed.stat().st_mode) == 0o600


def test_i3_an_older_run_that_does_not_fit_is_refused_and_nothing_is_sent(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 3)
    assert full(shell, target).problem == "checkpoint-missing"
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000).code == 0
    arrived = target.ledger()["requests"]
    with locked(shell.checkpoint, "another"):
        assert full(shell, target).problem == "not-in-held"
    assert full(shell, target, "--since", "yesterday").problem == "since-invalid"
    with sandbox() as other:
        assert full(shell, other).problem == "not-in-of-another-account"
    for undecided in ("parked", "sending"):
        tamper(shell.checkpoint, f"UPDATE batch SET state = '{undecided}' WHERE stage = 'events' AND seq = 1")
        assert full(shell, target).problem == "not-in-undecided"
    tamper(shell.checkpoint, "UPDATE batch SET state = 'accepted' WHERE stage = 'events' AND seq = 1")
    whole = (shell.folder / "e.ndjson").read_text()
    (shell.folder / "e.ndjson").write_text(whole + "\n" + whole.splitlines()[0])
    assert full(shell, target).problem == "not-in-export-changed"
    after = target.ledger()["requests"]
    assert {name: after.get(name) for name in ("customers", "events")} == {
        name: arrived.get(name) for name in ("customers", "events")
    }


def corrected(shell: Shell, target: LocalTarget) -> None:
    """An older run whose second customer was a dead letter, and was sent corrected."""
    export(shell.folder, 3)
    right = (shell.folder / "c.ndjson").read_text()
    wrong = [json.loads(line) for line in right.splitlines()]
    wrong[1]["email"] = "nobody"
    write(shell.folder / "c.ndjson", wrong, lines=True)
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000).code == 3
    assert shell("dead-letters", "migration.checkpoint", "--stage", "customers", "--out", "dead.ndjson").code == 0
    (letter,) = [json.loads(line) for line in (shell.folder / "dead.ndjson").read_text().splitlines()]
    letter["record"] = json.loads(right.splitlines()[1])
    write(shell.folder / "fixed.ndjson", [letter], lines=True)
    assert shell("retry", "migration.checkpoint", "--input", "fixed.ndjson").code == 0
    (shell.folder / "newer.ndjson").write_text(right)


def test_i3_a_customer_that_was_sent_corrected_is_left_out(shell: Shell, target: LocalTarget) -> None:
    corrected(shell, target)
    once(target, 3, 9)
    ended = shell.run(target.url, "--customers", "newer.ndjson", "--transactions", "t.ndjson", *FULL, "--json")
    assert (ended.code, sent_before(ended)) == (0, [3, 9]), ended.err
    once(target, 3, 9)


@pytest.mark.parametrize("after", ['return row | {"id": "x" + row["id"]}', 'return row if row["id"] != "c1" else None'])
def test_i3_an_older_run_whose_mapping_was_changed_is_refused(shell: Shell, target: LocalTarget, after: str) -> None:
    export(shell.folder, 3)
    module = shell.folder / "mapping_of_older.py"
    module.write_text("def ours(row):\n    return row\n")
    older = ("run", *quickly(target.url), *FILES, "--max-bytes", 10_000, "--map", "customers=mapping_of_older:ours")
    assert finished(shell.folder, *older).code == 0
    module.write_text(f"def ours(row):\n    {after}\n")
    ended = finished(shell.folder, "run", *quickly(target.url), *FILES, *FULL, "--json")
    assert ended.problem == "not-in-mapping-changed", ended.err
    once(target, 3, 9)


def test_who_changed_is_listed_also_where_the_list_could_not_be_written_at_first(
    shell: Shell, target: LocalTarget
) -> None:
    older(shell, target, 2)
    second_export(shell.folder)
    changed = shell.folder / "full.checkpoint.changed.ndjson"
    changed.mkdir()
    again = ("run", *quickly(target.url), *SECOND, *FULL, *SINCE)
    assert shell(*again, "--json").problem == "output-exists"
    changed.rmdir()
    assert shell(*again).code == 0
    assert [json.loads(line)["id"] for line in changed.read_text().splitlines()] == ["c1"]


def test_i3_an_older_copy_of_the_older_run_is_refused(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 20)
    command = *FILES, "--max-bytes", 10_000
    assert shell.run(target.url, *command, "--first", 7).code == 10
    copy = shell.checkpoint.read_bytes()
    assert shell.run(target.url, *command).code == 0
    shell.checkpoint.write_bytes(copy)
    assert full(shell, target).problem == "checkpoint-stale"
    once(target, 20, 60)


@pytest.mark.parametrize("kept", [[], ["c1"], ["c2"], ["c1", "c2"]])
def test_a_revert_names_and_counts_also_who_was_sent_corrected(
    shell: Shell, target: LocalTarget, kept: list[str]
) -> None:
    corrected(shell, target)
    survive(shell.folder, *kept)
    ended = shell("revert", "migration.checkpoint", "--yes-revert", 3, "--json")
    assert ended.code == (3 if kept else 0), ended.err
    assert (sorted(ended.document["kept"]), ended.document["not_read_back"]) == (kept, 0)
    stages = shell("status", "migration.checkpoint", "--json").document["stages"]
    counts = [(it["accepted"], it["reverted"], it["unknown"]) for it in stages.values()]
    assert counts == [(len(kept), 3 - len(kept), 0)] * 3
    tamper(shell.folder / "target.sqlite", "DELETE FROM transactions WHERE batch IS NULL")
    again = shell.run(target.url, "--customers", "newer.ndjson", *FILES[2:], *FULL, "--json")
    assert (again.code, sent_before(again)[0]) == (0, len(kept)), again.err
    once(target, 3, 9)


def test_a_revert_leaves_what_it_can_not_read_back_counted_as_there(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 2)
    right = [json.loads(line) for line in (shell.folder / "c.ndjson").read_text().splitlines()]
    write(shell.folder / "c.ndjson", [right[0], right[1] | {"id": ""}], lines=True)
    assert shell.run(target.url, *FILES[:2]).code == 3
    assert shell("dead-letters", "migration.checkpoint", "--out", "dead.ndjson").code == 0
    (letter,) = [json.loads(line) for line in (shell.folder / "dead.ndjson").read_text().splitlines()]
    write(shell.folder / "fixed.ndjson", [letter | {"record": right[1]}], lines=True)
    assert shell("retry", "migration.checkpoint", "--input", "fixed.ndjson").code == 0
    ended = shell("revert", "migration.checkpoint", "--yes-revert", 2)
    assert target.ledger()["batches"]["revert"]["accepted"] == 1
    assert (ended.code, "could not be read back: 1" in ended.err) == (3, True), ended.err
    (stage,) = shell("status", "migration.checkpoint", "--json").document["stages"].values()
    assert (stage["accepted"], stage["reverted"]) == (1, 1)


def test_a_revert_that_could_not_be_seen_is_not_asked_for(shell: Shell, target: LocalTarget) -> None:
    (shell.folder / "older_maps.py").write_text("def same(row):\n    return row\n")
    export(shell.folder, 2)
    run = ("run", *quickly(target.url), *FILES[:2], "--map", "customers=older_maps:same")
    assert finished(shell.folder, *run, "--checkpoint", "migration.checkpoint").code == 0
    (shell.folder / "older_maps.py").write_text("def same(row):\n    return dict(row)\n")
    ended = finished(shell.folder, "revert", "migration.checkpoint", "--yes-revert", "2", "--json")
    assert ended.problem == "revert-unseen", ended.err
    assert target.ledger()["batches"]["revert"]["accepted"] == 0
    (shell.folder / "older_maps.py").write_text("def same(row):\n    return row\n")
    assert finished(shell.folder, "revert", "migration.checkpoint", "--yes-revert", "2").code == 0


def test_a_revert_of_a_second_export_leaves_the_events_of_older_customers(shell: Shell, target: LocalTarget) -> None:
    older(shell, target, 2)
    # The window begins up to two seconds early.
    tamper(shell.folder / "target.sqlite", "UPDATE customers SET migrated = migrated - 60")
    second_export(shell.folder)
    assert shell.run(target.url, *SECOND, *FULL, *SINCE).code == 0
    ended = shell("revert", "full.checkpoint", "--yes-revert", 1, "--json")
    assert (ended.code, ended.document["gone"]) == (0, 1), ended.err
    stages = shell("status", "full.checkpoint", "--json").document["stages"].values()
    assert [(it["accepted"], it["reverted"]) for it in stages] == [(0, 1), (2, 1), (0, 1)]
    once(target, 2, 8)


def test_a_run_with_a_deleted_customer_in_between_can_be_the_older_one(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 5)
    people = [json.loads(line) for line in (shell.folder / "c.ndjson").read_text().splitlines()]
    people[2]["deleted_at"] = "2024-01-01T00:00:00Z"
    write(shell.folder / "c.ndjson", people, lines=True)
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000).code == 0
    ended = full(shell, target)
    assert (ended.code, sent_before(ended)) == (0, [4, 12, 12]), ended.err
    once(target, 4, 12)


def test_i3_i4_who_is_missing_of_the_older_run_is_not_sent_and_gets_nothing(shell: Shell) -> None:
    """The older run sends its missing customer again; until then events that are new would be dropped unseen."""
    script = [{"on": "customers", "nth": 1, "do": "lose", "records": [1]}]
    with sandbox(*script) as target:
        export(shell.folder, 3)
        assert shell.run(target.url, *FILES, "--max-bytes", 10_000, "--verify-sample", 0).code == 0
        assert shell("verify", "migration.checkpoint", "--all").code == 3
        write(shell.folder / "e2.ndjson", [{"id": f"c{at}", "events": [NEW]} for at in range(3)], lines=True)
        ended = shell.run(target.url, "--events", "e2.ndjson", *FULL, *SINCE, "--json")
        assert (ended.code, ended.document["stages"]["events"]["dead_by"]) == (3, {"owner-missing": 1}), ended.err
        assert shell("retry", "migration.checkpoint", "--missing").code == 0
        assert shell("retry", "full.checkpoint").code == 0
        ledger = target.ledger()
        assert ledger["holds"]["customers"]["landed"] == 3
        assert ledger["holds"]["events"]["types"]["PURCHASE"] == 2 * 3 + 3, "events of the older run can't be told"


def test_i4_an_older_run_that_is_reverted_afterwards_ends_the_newer_one(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 12)
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000, "--first", 9).code == 10
    assert full(shell, target, "--first", 3).code == 10
    window = "(number, state, start, end, customers, began) VALUES (1, 'accepted', 0, 0, 9, 0)"
    tamper(shell.checkpoint, f"INSERT INTO revert {window}")
    assert shell("status", "migration.checkpoint", "--json").document["state"] == "reverting"
    assert "streammig revert" in shell("status", "migration.checkpoint").out
    assert full(shell, target).problem == "revert-unfinished", "it is not known what is left"
    tamper(shell.checkpoint, "DELETE FROM revert")
    assert shell("revert", "migration.checkpoint", "--yes-revert", 9).code == 0
    assert full(shell, target).problem == "not-in-reverted-since", "what it has left out is gone"
    assert shell("verify", "full.checkpoint", "--all", "--json").problem != "not-in-reverted-since"


def test_a_newer_export_of_transactions_alone_lists_no_changed_customer(shell: Shell, target: LocalTarget) -> None:
    older(shell, target, 2)
    write(shell.folder / "t2.ndjson", [{"id": "c1", "transactions": [transaction(7)]}], lines=True)
    ended = shell.run(target.url, "--transactions", "t2.ndjson", *FULL, "--json")
    assert (ended.code, "customers that changed" in ended.err) == (0, False), ended.err


def test_purchases_that_the_older_run_sent_are_no_difference(shell: Shell, target: LocalTarget) -> None:
    older(shell, target, 2)
    write(shell.folder / "e2.ndjson", [{"id": "c1", "events": [NEW]}], lines=True)
    assert shell.run(target.url, "--events", "e2.ndjson", *FULL, *SINCE).code == 0
    looked = shell("verify", "full.checkpoint", "--all", "--json")
    assert (looked.code, looked.document["same"]) == (0, True), looked.err


def test_i3_a_third_export_leaves_out_what_both_older_runs_have_sent(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 20)
    assert shell.run(target.url, *FILES, "--max-bytes", 10_000, "--first", 7).code == 10
    assert full(shell, target).code == 0
    (shell.folder / "third").mkdir()
    export(shell.folder / "third", 25)
    people = [
        json.loads(line) | {"name": "Other"} for line in (shell.folder / "third/c.ndjson").read_text().splitlines()
    ]
    write(shell.folder / "c3.ndjson", people, lines=True)
    files = ("--customers", "c3.ndjson", "--transactions", "third/t.ndjson", "--max-bytes", 10_000)
    third = (*files, "--checkpoint", "third.checkpoint", "--not-in", "full.checkpoint", "--json")
    for _ in range(2):
        ended = shell.run(target.url, *third)
        assert (ended.code, sent_before(ended)) == (0, [20, 60]), ended.err
    ledger = target.ledger()
    assert {name: it["count"] for name, it in ledger["twice"].items()} == dict.fromkeys(ledger["twice"], 0)
    assert (ledger["holds"]["customers"]["count"], ledger["holds"]["transactions"]["count"]) == (25, 75)
    lists = shell.folder.glob("third.checkpoint*.changed.ndjson")
    assert sum(len(path.read_text().splitlines()) for path in lists) == 20
