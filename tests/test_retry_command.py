"""`streammig retry` through the real command line, against a sandbox: what it sends, says and leaves behind."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import locked
from streammig.sandbox.local import LocalTarget
from tests.commands import Called, Shell, listing, sandbox, write
from tests.sandbox_caller import customer, event, lot, transaction

STAGES = ("--customers", "c.ndjson", "--events", "e.ndjson", "--transactions", "t.ndjson")
BAD = ("c2", "c5")


def export(folder: Path, owners: int = 8) -> None:
    """Customers of which two have no good e-mail, each with an event and a transaction."""
    names = [f"c{number}" for number in range(owners)]
    people = [customer(name, balance=[lot(5)], **({"email": "none"} if name in BAD else {})) for name in names]
    write(folder / "c.ndjson", people, lines=True)
    write(folder / "e.ndjson", [{"id": name, "events": [event(f"p-{name}")]} for name in names], lines=True)
    write(folder / "t.ndjson", [{"id": name, "transactions": [transaction(5)]} for name in names], lines=True)


def repair(shell: Shell, mend: Callable[[dict[str, Any]], None]) -> Path:
    assert shell("dead-letters", "migration.checkpoint", "--out", "dead.ndjson").code == 0
    lines = [json.loads(line) for line in (shell.folder / "dead.ndjson").read_text().splitlines()]
    for line in lines:
        mend(line)
    return write(shell.folder / "fixed.ndjson", lines, lines=True)


def good_email(line: dict[str, Any]) -> None:
    if line["stage"] == "customers":
        line["record"]["email"] = f"{line['record']['id']}@example.org"


def migrated(shell: Shell, target: LocalTarget, *, checked: bool = False) -> None:
    export(shell.folder)
    ended = shell.run(target.url, *STAGES, "--json", *([] if checked else ["--unchecked"]))
    assert ended.code == 3, ended.err
    assert ended.document["stages"]["events"]["dead_by"] == {"owner-bad-email": 2}


def retry(shell: Shell, *arguments: object) -> Called:
    return shell("retry", "migration.checkpoint", *arguments)


def test_a_record_of_a_pretty_object_of_records_is_corrected_on_its_line(shell: Shell, target: LocalTarget) -> None:
    people = {it.pop("id"): it for it in [customer("c1"), customer("c2", email="none")]}
    (shell.folder / "c.json").write_text(json.dumps({"them": people}, indent=1))
    (shell.folder / "m.toml").write_text('[customers]\nfiles = ["c.json#them"]\nkeyed = "id"\n')
    assert shell.run(target.url, "m.toml", "--checkpoint", "migration.checkpoint").code == 3
    fixed = repair(shell, good_email)
    assert retry(shell, "--input", fixed).code == 0
    once(target, "customers", 2)


def once(target: LocalTarget, stage: str, owners: int = 8) -> None:
    ledger = target.ledger()
    assert ledger["holds"][stage]["count"] == owners
    assert ledger["twice"][stage]["count"] == 0
    assert ledger["dropped"][stage] == {}


@pytest.mark.parametrize("checked", [True, False])
def test_repaired_customers_and_what_waited_for_them_are_sent_by_one_command(
    shell: Shell, target: LocalTarget, checked: bool
) -> None:
    migrated(shell, target, checked=checked)
    ended = retry(shell, "--input", repair(shell, good_email), "--json")
    assert ended.code == 0, ended.err
    stages = ended.document["stages"]
    assert [(it["accepted"], it["dead"]) for it in stages.values()] == [(8, 0)] * 3
    assert ended.document["balanced"]
    assert ended.document["state"] == "complete"
    for stage in stages:
        once(target, stage)
    assert {it["id"] for it in listing(target, "customers")} == {f"c{number}" for number in range(8)}
    # What held records is gone; what is left holds none.
    assert not {name for name in shell.files() if "retry" in name or name.endswith(".scan")}


def test_a_retry_says_what_it_sent_what_was_accepted_and_what_is_left(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target)
    said = (
        "This retry: 0 dead letters sent, 0 records accepted; 6 dead letters left, of which 4 wait for their customer."
    )
    assert said in retry(shell).err
    assert "No dead letter that was asked for has the code nosuchcode: there are bad-email, owner-bad-email." in (
        retry(shell, "--code", "nosuchcode").err
    )
    assert "No dead letter" not in retry(shell, "--code", "bad-email").err
    lines = Path(repair(shell, good_email)).read_text().splitlines()
    (shell.folder / "one.ndjson").write_text(lines[0] + "\n")
    ended = retry(shell, "--input", "one.ndjson")
    assert "This retry: 3 dead letters sent, 3 records accepted; 3 dead letters left, of which 2 wait" in ended.err


def test_a_retry_after_a_pilot_does_not_call_the_run_complete(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder)
    assert shell.run(target.url, *STAGES, "--first", "4", "--unchecked").code == 10
    ended = retry(shell, "--input", repair(shell, good_email))
    assert ended.code == 130, ended.err
    assert "The retry is done; the run itself is not" in ended.err
    assert "To go on: streammig run" in ended.err
    assert "Complete" not in ended.err


def test_the_same_call_again_finds_nothing_to_do_and_says_so(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target)
    fixed = repair(shell, good_email)
    assert retry(shell, "--input", fixed).code == 0
    requests = target.ledger()["requests"]["customers"]
    again = retry(shell, "--input", fixed)
    assert again.code == 0
    assert "6 lines name what is no dead letter" in again.err
    assert target.ledger()["requests"]["customers"] == requests


def test_a_repaired_letter_that_is_still_bad_stays_one_with_the_new_reason(shell: Shell, target: LocalTarget) -> None:
    def no_name(line: dict[str, Any]) -> None:
        good_email(line)
        line["record"].pop("name", None)

    migrated(shell, target)
    ended = retry(shell, "--input", repair(shell, no_name), "--json")
    assert ended.code == 3
    assert ended.document["stages"]["customers"]["dead_by"] == {"missing-field": 2}
    assert ended.document["balanced"]
    (line, _) = [json.loads(it) for it in shell("dead-letters", "migration.checkpoint").out.splitlines()][:2]
    assert line["message"].startswith("as corrected: $.name")
    assert line["record"]["email"] == "none"  # as it stands in the export


def test_letters_are_chosen_by_stage_and_code(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target)
    fixed = repair(shell, good_email)
    assert retry(shell, "--input", fixed, "--code", "no-such-code").code == 3
    assert retry(shell, "--input", fixed, "--stage", "events").code == 3
    assert target.ledger()["holds"]["customers"]["count"] == 6
    assert retry(shell, "--input", fixed, "--stage", "customers", "--code", "bad-email").code == 0
    assert target.ledger()["holds"]["transactions"]["count"] == 8


@pytest.mark.parametrize("checked", [True, False])
def test_i3_a_record_corrected_into_one_that_was_sent_already_is_refused(
    shell: Shell, target: LocalTarget, checked: bool
) -> None:
    def double(line: dict[str, Any]) -> None:
        good_email(line)
        if line["record"]["id"] == "c2" and line["stage"] == "customers":
            line["record"]["id"] = "c1"
        if line["record"]["id"] == "c5" and line["stage"] == "customers":
            line["record"]["email"] = "C3@example.org"
        if line["record"]["id"] == "c2" and line["stage"] == "transactions":
            line["record"]["id"] = "c1"

    migrated(shell, target, checked=checked)
    ended = retry(shell, "--input", repair(shell, double), "--json")
    assert ended.code == 3, ended.err
    assert ended.document["stages"]["customers"]["dead_by"] == {"duplicate-customer": 1, "duplicate-email": 1}
    assert ended.document["stages"]["transactions"]["dead_by"] == {"owner-bad-email": 1, "sent-already": 1}
    assert target.ledger()["holds"]["customers"]["count"] == 6


def test_a_repaired_record_that_is_to_be_left_out_is_filtered(shell: Shell, target: LocalTarget) -> None:
    def delete(line: dict[str, Any]) -> None:
        line["record"]["deleted_at"] = "2024-01-01T00:00:00Z"

    migrated(shell, target)
    ended = retry(shell, "--input", repair(shell, delete), "--stage", "customers", "--json")
    assert ended.code == 3
    stage = ended.document["stages"]["customers"]
    assert (stage["filtered"], stage["dead"], stage["accepted"]) == (2, 0, 6)
    assert ended.document["balanced"]


def test_retry_leaves_a_checkpoint_that_a_run_holds_alone(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target)
    with locked(shell.checkpoint, "streammig run other.toml"):
        ended = retry(shell)
    assert ended.code == 11
    assert "streammig run other.toml" in ended.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("no json\n", "line 1"),
        ('{"stage":"customers"}\n', "line 1 is no dead letter"),
        ('\n{"stage":"customers","file":"other.json","offset":0,"record":{}}\n', "line 2 names a stage or a file"),
        (f'{{"stage":"customers","file":"c.ndjson","offset":{2**70},"record":{{}}}}', "line 1 is no dead letter"),
        ('{"stage":"customers","file":"c.ndjson","offset":-1,"record":{}}', "line 1 is no dead letter"),
        (f'{{"stage":"customers","file":"c.ndjson","offset":0,"unit":{2**64},"record":1}}', "line 1 is no dead letter"),
    ],
)
def test_a_file_that_is_none_of_repaired_letters_is_named_and_nothing_is_sent(
    shell: Shell, target: LocalTarget, content: str | None, said: str
) -> None:
    migrated(shell, target)
    before = target.ledger()["requests"]["customers"]
    if content is not None:
        (shell.folder / "fixed.ndjson").write_text(content)
    ended = retry(shell, "--input", "fixed.ndjson")
    assert ended.code == 2
    assert ended.err.startswith("error: fixed.ndjson: ")  # before any work, and no totals
    assert said in ended.err
    assert target.ledger()["requests"]["customers"] == before


def test_two_lines_of_one_dead_letter_are_both_named_and_nothing_is_sent(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target)
    before = target.ledger()["requests"]["customers"]
    fixed = repair(shell, good_email)
    lines = fixed.read_text().splitlines(keepends=True)
    fixed.write_text("".join([*lines, "\n", lines[1]]))
    ended = retry(shell, "--input", fixed)
    assert (ended.code, target.ledger()["requests"]["customers"]) == (2, before)
    assert f"lines 2 and {len(lines) + 2} are of the same dead letter" in ended.err


def test_what_is_retried_lies_in_the_outbox_while_a_batch_is_undecided_and_no_longer(
    tmp_path: Path, shell: Shell
) -> None:
    with sandbox({"on": "customers", "nth": 2, "do": "reset", "at": "head"}) as target:
        migrated(shell, target)
        settings = write_settings(shell.folder)
        ended = retry(shell, "--input", repair(shell, good_email), "--settings", settings, "--json")
        assert ended.code == 4, ended.err
        assert [it["state"] for it in ended.document["undecided"]] == ["parked"]
        outbox = shell.folder / "migration.checkpoint.outbox"
        assert stat.S_IMODE(outbox.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in outbox.iterdir()} == {0o600}
        assert "streammig resolve" in ended.err or ended.document["undecided"]
        done = shell("resolve", "migration.checkpoint", 2, "--not-landed")
        assert done.code == 0, done.err
        assert "TWICE" in done.err
        assert shell.run(target.url, *STAGES, "--unchecked").code == 3  # the run sends it
        assert retry(shell).code == 0  # and what waited for them goes
        assert not outbox.exists()
        for stage in ("customers", "events", "transactions"):
            once(target, stage)


def write_settings(folder: Path) -> Path:
    path = folder / "impatient.toml"
    path.write_text("visible_time = 1\n")
    return path


def test_dead_letters_are_told_by_code_and_field_with_causes_apart_from_what_waits_for_them(
    shell: Shell, target: LocalTarget
) -> None:
    migrated(shell, target)
    said = shell("dead-letters", "migration.checkpoint", "--summary").out
    causes, waiting = said.split("These wait for their customer, and follow once it is there:\n")
    assert "customers: 2 x bad-email email\n    " in causes
    assert "record" in causes
    assert "events: 2 x the customer is not there: bad-email\n" in waiting
    for chosen, count in ((("--stage", "events"), 2), (("--code", "bad-email"), 2), (("--code", "no-such-code"), 0)):
        found = shell("dead-letters", "migration.checkpoint", *chosen)
        assert (len(found.out.splitlines()), found.code) == (count, 0)
    assert "no such dead letters" in shell("dead-letters", "migration.checkpoint", "--summary", "--code", "x").out
