"""`streammig run` and the commands beside it, as people and programs meet them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import locked
from streammig.cli import COMMANDS
from streammig.sandbox.local import LocalTarget
from streammig.sandbox.sample import Sample, Written, write_sample
from tests.commands import Called, Shell, environment, finished, listing, process, quickly, sandbox, until, write
from tests.sandbox_caller import customer

STAGES = ("customers", "events", "transactions")


@pytest.fixture
def export(shell: Shell) -> Written:
    """One combined file: customers with their events and transactions inside, some of all kinds."""
    share = 10 / 600
    sample = Sample(600, size=600, deleted=share, bad=3 / 600, reversed=share, seed=3)
    return write_sample(sample, shell.folder / "export.json")


COMBINED = [f"--{name}=export.json#customers" for name in STAGES]


def found_whole(written: Written, ended: Called, target: LocalTarget) -> None:
    """What the target holds is what the export holds that is to arrive, once, and what the totals say."""
    ledger, stages = target.ledger(), ended.document["stages"]
    for name, amounts in (("customers", "balances"), ("transactions", "amounts")):
        assert exact(ledger["holds"][name][amounts]) == written.good[name].sums
    assert exact({"purchases": ledger["holds"]["events"]["purchase_value"]}) == written.good["events"].sums
    assert ledger["holds"]["customers"]["landed"] == written.good["customers"].units
    for name in STAGES:
        assert ledger["holds"][name]["count"] == stages[name]["units"] == written.good[name].units
        assert exact(stages[name]["sums"]["accepted"]) == written.good[name].sums
        assert ledger["twice"][name]["count"] == 0
        assert ledger["dropped"][name] == {}


def exact(sums: dict[str, str]) -> dict[str, Decimal]:
    return {key: Decimal(text) for key, text in sums.items() if Decimal(text)}


# -- a whole migration -----------------------------------------------------------------------------------------------


def test_three_stages_from_one_combined_file_arrive_whole(shell: Shell, target: LocalTarget, export: Written) -> None:
    ended = shell.run(target.url, *COMBINED, "--json")
    assert ended.code == 3, ended.err
    found_whole(export, ended, target)
    document = ended.document
    assert document["state"] == "complete"
    assert document["resume"] is None
    for name in STAGES:
        stage = document["stages"][name]
        counted = sum(stage[part] for part in ("accepted", "dead", "filtered", "unknown", "pending"))
        assert stage["read"] == counted == 600, name
    assert document["stages"]["customers"]["filtered_by"]["deleted"]["records"] == export.deleted
    assert document["stages"]["customers"]["dead"] == export.bad
    again = shell.run(target.url, *COMBINED, "--json")
    assert again.code == 3
    assert again.document["stages"] == document["stages"]
    found_whole(export, again, target)


def test_the_array_that_was_chosen_is_said_and_one_without_records_is_done_at_once(
    shell: Shell, target: LocalTarget
) -> None:
    (shell.folder / "e.json").write_text('{"customers":[]}')
    ended = shell.run(target.url, "--customers", "e.json", "--json")
    assert ended.code == 0
    assert "customers: the records of e.json were found at customers" in ended.err
    assert ended.document["stages"]["customers"]["state"] == "complete"
    assert ended.document["stages"]["customers"]["read"] == 0
    assert ["Is it the right file?" in it for it in ended.document["warnings"]] == [True]
    again = shell.run(target.url, "--customers", "e.json").err
    assert "Is it the right file?" in again
    assert "were found" not in again
    named = shell.run(target.url, "--customers", "e.json#customers", "--checkpoint", "other")
    assert "were found" not in named.err


# -- pilots ----------------------------------------------------------------------------------------------------------


def test_a_pilot_stops_behind_its_records_and_the_full_run_goes_on_from_there(
    shell: Shell, target: LocalTarget, export: Written
) -> None:
    pilot = shell.run(target.url, "--first", 100, *COMBINED, "--json")
    assert pilot.code == 10, pilot.err
    stages = pilot.document["stages"]
    assert stages["customers"]["source_records"] == 100
    assert all(stages[name]["source_records"] <= 100 for name in STAGES)
    assert all(stages[name]["accepted"] > 50 for name in ("customers", "transactions"))
    assert pilot.document["state"] == "interrupted"
    assert target.ledger()["dropped"]["transactions"] == {}
    resume = shlex.split(pilot.document["resume"])
    assert resume[0] == "streammig"
    assert "--first" not in resume
    whole = shell(*resume[1:])
    assert whole.code == 3, whole.err
    found_whole(export, whole, target)


def test_status_says_that_a_pilot_is_done_and_a_pilot_of_what_is_all_sent_is_a_complete_run(
    shell: Shell, target: LocalTarget
) -> None:
    write(shell.folder / "c.json", [customer(f"c{number}") for number in range(10)])
    assert shell.run(target.url, "--first", 9, "--customers", "c.json").code == 10
    status = shell("status", shell.checkpoint).out
    assert "The pilot is done; the full run sends the rest.\nTo go on: streammig run" in status
    assert f"\n  streammig verify {shell.checkpoint} --all\n" in status
    assert f"\n  streammig revert {shell.checkpoint}\n" in status
    for first in (["--first", 10], [], ["--first", 3]):
        ended = shell.run(target.url, *first, "--customers", "c.json")
        assert ended.code == 0, ended.err
        assert "Complete: every record is accepted or filtered (exit code 0)." in ended.err
        assert "The run is complete." in shell("status", shell.checkpoint).out
    assert target.ledger()["requests"]["customers"] == {"201": 2}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_pilot_takes_all_that_belongs_to_its_customers_and_the_full_run_the_rest_once(
    shell: Shell, target: LocalTarget, seed: int
) -> None:
    dice = Random(seed)
    write(shell.folder / "c.json", [customer(f"c{number}") for number in range(10)])
    owners = [f"c{dice.randrange(10)}" for _ in range(40)]
    events: list[dict[str, Any]] = [{"id": it, "events": [purchase(f"p{at}")]} for at, it in enumerate(owners)]
    events.insert(20, {"id": "c1", "events": [purchase("p")], "odd": "x"} | ({"id": 7} if seed else {}))
    write(shell.folder / "e.json", events)
    given = "--customers", "c.json", "--events", "e.json", "--json"
    for first in (2, 5):
        theirs = {f"c{number}" for number in range(first)}
        pilot = shell.run(target.url, "--first", first, *given)
        assert pilot.code == 10, pilot.err
        stages = pilot.document["stages"]
        expected = sum(it in theirs for it in owners)
        assert stages["events"]["accepted"] - expected in (0, 1)  # the odd one, where nothing was left before it
        assert stages["events"]["message"] == "the records of the pilot's customers are read"
    whole = shell.run(target.url, *given)
    assert whole.code == (3 if seed else 0), whole.err
    assert whole.document["stages"]["events"]["dead"] == bool(seed)
    expected_ids = sorted([f"p{at}" for at in range(40)] + ["p"] * (not seed))
    assert sorted(it["purchase_id"] for it in listing(target, "events")) == expected_ids


def purchase(name: str) -> dict[str, Any]:
    order = {"purchase_id": name, "value": 1, "discounted_value": 1, "products": [], "payment_method": "CASH"}
    when = "2024-03-01T10:00:00Z"
    return {"type": "PURCHASE", "brand_id": None, "order": order, "fulfilled": True, "issued_at": when,
            "resolved_at": when}  # fmt: skip


# -- dry runs --------------------------------------------------------------------------------------------------------


def test_a_dry_run_opens_no_socket_and_writes_the_bodies_that_would_be_sent(
    shell: Shell, target: LocalTarget, export: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASIVO_API_KEY")
    opened: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: opened.append(address))
    dry = shell.run("https://nowhere.invalid", *COMBINED, "--dry-run", "look", "--json")
    monkeypatch.undo()
    assert opened == []
    assert dry.code == 3, dry.err
    assert dry.document["dry_run"]
    assert dry.document["resume"] is None
    assert {name: it["accepted"] for name, it in dry.document["stages"].items()} == {
        name: export.good[name].records for name in STAGES
    }
    folder = shell.folder / "look"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*.json"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_bodies_of_a_dry_run_are_the_ones_that_are_sent(shell: Shell, export: Written, stage: str) -> None:
    arguments = [f"--{stage}=export.json#customers", "--max-bytes", 50_000]
    late = {"on": stage, "every": 1, "do": "late", "seconds": 1000}  # what is applied is not kept
    with sandbox(late, store=shell.folder / "store") as target:
        if stage != "customers":
            assert shell.run(target.url, "--customers=export.json#customers", "--checkpoint=before").code == 3
            target.ledger()  # waits for the queue
        assert shell.run(target.url, *arguments, "--dry-run", "look").code in (0, 3)
        assert stage not in asked(target)
        assert shell.run(target.url, *arguments, "--settle-time", 0).code in (0, 3)
    with contextlib.closing(sqlite3.connect(shell.folder / "store")) as store:
        sent = sorted(bytes(body) for (body,) in store.execute("SELECT body FROM batches WHERE kind = ?", (stage,)))
    assert len(sent) > 2
    assert sorted(path.read_bytes() for path in (shell.folder / "look").glob(f"{stage}-*.json")) == sent


def asked(target: LocalTarget) -> dict[str, Any]:
    """The requests that came, by kind; what waits in the queue stays there."""
    found: dict[str, Any] = target._sandbox.ledger()["requests"]
    return found


def test_the_dead_letters_of_a_dry_run_can_be_read(shell: Shell, export: Written) -> None:
    dry = shell("run", *COMBINED, "--dry-run", "look")
    assert dry.code == 3
    assert "The request bodies are in look." in dry.err
    assert "written, " in dry.err
    assert "accepted" not in dry.err
    letters = shell("dead-letters", "look/dry-run.checkpoint")
    assert letters.code == 0
    assert sum(json.loads(line)["stage"] == "customers" for line in letters.out.splitlines()) == export.bad


# -- standard input --------------------------------------------------------------------------------------------------


class Piped(io.TextIOWrapper):
    """Standard input with something in it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))


def test_an_export_from_standard_input_is_kept_for_the_resume_and_deleted_at_the_end(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.dumps({"customers": [customer(f"c{number}") for number in range(10)]}).encode()
    monkeypatch.setattr(sys, "stdin", Piped(content))
    assert shell.run(target.url, "--customers", "-", "--first", 3).code == 10
    kept = shell.folder / "migration.checkpoint.stdin"
    assert kept.read_bytes() == content
    assert kept.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(sys, "stdin", Piped(b"not asked for again"))
    ended = shell.run(target.url, "--customers", "-")
    assert ended.code == 0, ended.err
    assert target.ledger()["holds"]["customers"]["landed"] == 10
    assert not kept.exists()


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_from_standard_input_that_is_complete_says_so_again(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    people = [customer("c1"), customer("c2", email="none" if code else "c2@example.org")]
    monkeypatch.setattr(sys, "stdin", Piped(json.dumps(people).encode()))
    assert shell.run(target.url, "--customers", "-").code == code
    if code:
        (shell.folder / "migration.checkpoint.stdin").unlink()
    before = target.ledger()["requests"]
    ended = shell.run(target.url, "--customers", "-", "--json")
    assert ended.code == code, ended.err
    assert ended.document["state"] == "complete"
    assert target.ledger()["requests"] == before
    said = shell.run(target.url, "--customers", "-").err
    assert "migration.checkpoint is complete already: standard input was not read" in said
    assert f"(exit code {code})" in said


def test_standard_input_is_left_alone_while_another_run_holds_the_checkpoint(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(b"[]"))
    with locked(shell.checkpoint, "someone"):
        ended = shell.run(target.url, "--customers", "-")
    assert ended.code == 11
    assert not (shell.folder / "migration.checkpoint.stdin").exists()


def test_a_dry_run_leaves_the_standard_input_of_a_migration_under_way_alone(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.dumps({"customers": [customer(f"c{number}") for number in range(10)]}).encode()
    monkeypatch.setattr(sys, "stdin", Piped(content))
    assert shell.run(target.url, "--customers", "-", "--first", 3).code == 10
    monkeypatch.setattr(sys, "stdin", Piped(content[:-10] + b" " * 8 + b"]}"))
    assert shell.run(target.url, "--customers", "-", "--dry-run", "look").code in (0, 2)
    assert (shell.folder / "migration.checkpoint.stdin").read_bytes() == content
    assert shell.run(target.url, "--customers", "-").code == 0
    assert target.ledger()["holds"]["customers"]["landed"] == 10


# -- status, also while a run is on ----------------------------------------------------------------------------------


def test_status_says_what_the_run_said(shell: Shell, target: LocalTarget, export: Written) -> None:
    ended = shell.run(target.url, *COMBINED, "--json")
    status = shell("status", "migration.checkpoint", "--json")
    assert status.code == 0
    assert status.document == ended.document
    words = shell("status", "migration.checkpoint")
    assert words.code == 0
    assert words.err == ""
    assert "The totals add up." in words.out
    assert all(name in words.out for name in STAGES)


def test_status_is_read_from_another_process_while_a_run_is_on(shell: Shell, export: Written) -> None:
    command = ["run", *COMBINED, "--max-bytes", 20_000, "--concurrency", 1]
    with (
        sandbox({"on": "customers", "from": 4, "times": 1, "do": "slow", "seconds": 20}) as target,
        process(shell.folder, *command, *quickly(target.url)) as running,
    ):

        def three() -> Any:
            if not shell.checkpoint.exists():
                return None
            found = shell("status", "migration.checkpoint", "--json")
            accepted = found.out and found.document["stages"].get("customers", {}).get("accepted")
            return found if accepted else None

        status = until(three, "the first batches to be accepted")
        assert status.document["state"] == "running"
        assert status.document["stages"]["customers"]["state"] == "running"
        assert status.document["stages"]["customers"]["pending"] > 0
        assert status.document["balanced"]
        held = shell.run(target.url, *COMBINED)
        assert held.code == 11
        assert f"process {running.pid}" in held.err


def test_status_of_a_run_that_was_killed_is_interrupted(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(5)])
    assert shell.run(target.url, "--customers", "e.json", "--first", 2).code == 10
    with locked(shell.checkpoint, "someone"):
        assert shell("status", "migration.checkpoint", "--json").document["state"] == "running"
    assert shell("status", "migration.checkpoint", "--json").document["state"] == "interrupted"


@pytest.mark.parametrize("command", ["status", "dead-letters", "retry", "resolve"])
def test_a_file_that_is_not_there_or_holds_settings_is_no_checkpoint_and_named(shell: Shell, command: str) -> None:
    for name, code, said in (
        ("gone.checkpoint", "checkpoint-missing", "gone.checkpoint"),
        ("move.toml", "settings-given", "\nTry move.checkpoint"),
    ):
        ended = shell(command, name)
        assert (ended.code, ended.problem) == (2, code)
        assert said in ended.err
    assert shell.files() == {}


LEAN = "import sys; from streammig.cli import main\ntry: main()\nfinally: print(*sorted(sys.modules), file=sys.stderr)"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["status", "migration.checkpoint"]])
def test_help_and_status_do_not_load_the_http_client(shell: Shell, target: LocalTarget, arguments: list[str]) -> None:
    write(shell.folder / "e.json", [customer("c1")])
    assert shell.run(target.url, "--customers", "e.json").code == 0
    done = subprocess.run(
        [sys.executable, "-c", LEAN, *arguments], cwd=shell.folder, env=environment(shell.folder), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    loaded = done.stderr.split()
    assert "click" in loaded
    assert not {"aiohttp", "rich", "ijson", "asyncio"} & set(loaded) - ({"asyncio"} if "status" in arguments else set())


def test_no_help_loads_the_http_client_but_that_of_the_demo() -> None:
    every = "from click.testing import CliRunner as R\nfrom streammig.cli import COMMANDS, streammig as it\n"
    every += "ended = [R().invoke(it, [name, '--help']).exit_code for name in COMMANDS if name != 'demo']\n"
    every += "import sys; print(len(ended), sum(ended), {'aiohttp', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", every], check=True, capture_output=True, text=True)
    assert done.stdout.split(maxsplit=2) == [str(len(COMMANDS) - 1), "0", "set()\n"]


# -- dead letters ----------------------------------------------------------------------------------------------------


def test_dead_letters_hold_the_record_as_it_stands_in_the_export(shell: Shell, target: LocalTarget) -> None:
    lines = [
        json.dumps(customer("c0")).encode(),
        b'{"id": "c1", "name": "\xc3\xa9 1.10", "n": 1.10, "x": 123456789012345678901234567890}',
        b'{"id": "c2", "name": "\xff\xfe"}',
        b'{"id": "c3", ',
        b"[1.50, 2]",
    ]
    (shell.folder / "e.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    assert shell.run(target.url, "--customers", "e.ndjson").code == 3
    ended = shell("dead-letters", "migration.checkpoint", "--out", "dead.ndjson")
    assert ended.code == 0
    assert ended.out == ""
    assert "4 dead letters" in ended.err
    out = shell.folder / "dead.ndjson"
    assert out.stat().st_mode & 0o077 == 0
    letters = out.read_bytes().splitlines()
    found = [json.loads(letter, parse_float=Decimal) for letter in letters]
    keys = ["stage", "file", "line", "column", "offset", "unit", "code", "message", "record"]
    assert [list(letter) for letter in found] == [keys] * 4
    assert [letter["line"] for letter in found] == [2, 3, 4, 5]
    assert [letter["offset"] for letter in found] == [
        sum(len(line) + 1 for line in lines[:number]) for number in (1, 2, 3, 4)
    ]
    assert all(Path(letter["file"]) == shell.folder / "e.ndjson" for letter in found)
    assert [letter["code"] for letter in found] == ["missing-field", "invalid-utf8", "invalid-json", "not-an-object"]
    # What is JSON comes as the bytes it was, what is none as text.
    assert lines[1] in letters[0]
    assert lines[4] in letters[3]
    assert found[1]["record"] == lines[2].decode(errors="replace")
    assert found[2]["record"] == lines[3].decode().strip()
    again = shell("dead-letters", "migration.checkpoint")
    assert again.out.encode() == out.read_bytes()


def test_dead_letters_far_apart_are_each_found(shell: Shell, target: LocalTarget) -> None:
    padding = [json.dumps(customer(f"c{number}", document_type="x" * 400_000)) for number in range(14)]
    bad = [json.dumps({"id": f"bad{number}"}) for number in range(3)]
    (shell.folder / "e.ndjson").write_text("\n".join([bad[0], *padding, bad[1], bad[2]]) + "\n")
    assert shell.run(target.url, "--customers", "e.ndjson").code == 3
    letters = [json.loads(line) for line in shell("dead-letters", "migration.checkpoint").out.splitlines()]
    assert [letter["record"]["id"] for letter in letters if letter["code"] == "missing-field"] == [
        "bad0",
        "bad1",
        "bad2",
    ]


def test_dead_letters_that_can_not_be_written_are_the_machine_s_fault(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "e.json", [{"id": "bad"}])
    assert shell.run(target.url, "--customers", "e.json").code == 3
    ended = shell("dead-letters", "migration.checkpoint", "--out", "no/such/folder/dead")
    assert (ended.code, ended.problem) == (1, "output-failed")
    assert "no/such/folder/dead" in ended.err


def test_dead_letters_are_not_written_over_a_file_nor_guessed_of_another_export(
    shell: Shell, target: LocalTarget
) -> None:
    path = write(shell.folder / "e.json", [{"id": "bad"}])
    assert shell.run(target.url, "--customers", "e.json").code == 3
    before = path.read_bytes()
    ended = shell("dead-letters", "migration.checkpoint", "--out", "e.json")
    assert (ended.code, path.read_bytes()) == (2, before)
    assert ended.problem == "output-exists"
    write(path, [{"id": "xxx"}])
    ended = shell("dead-letters", "migration.checkpoint", "--out", "dead")
    assert (ended.code, ended.problem) == (2, "export-changed")
    assert not (shell.folder / "dead").exists()


# -- what is printed -------------------------------------------------------------------------------------------------


def test_quiet_says_nothing_but_errors(shell: Shell, target: LocalTarget, export: Written) -> None:
    ended = shell.run(target.url, *COMBINED, "--quiet")
    assert ended == Called(3, "", "")
    refused = shell.run(target.url, "--customers", "gone.json", "--quiet")
    assert refused.code == 2
    assert "gone.json" in refused.err


def test_data_goes_to_stdout_and_words_to_stderr_without_escape_codes(
    shell: Shell, target: LocalTarget, export: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = shell.run(target.url, *COMBINED)
    assert plain.out == ""
    assert "customers: starting" in plain.err
    assert "customers: complete" in plain.err
    documented = shell("status", "migration.checkpoint", "--json")
    assert json.loads(documented.out)["balanced"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    for said in (plain.out, plain.err, documented.out, shell("status", "migration.checkpoint").out):
        assert "\x1b" not in said


def test_i9_key_and_token_are_in_no_output_log_checkpoint_or_account_file(
    shell: Shell, export: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "key-that-must-not-be-seen-4711"
    monkeypatch.setenv("MASIVO_API_KEY", key)
    faults = [
        {"on": "customers", "nth": 1, "do": "revoke"},
        {"on": "customers", "nth": 3, "do": "reset", "at": "done"},
        {"on": "transactions", "nth": 1, "do": "answer", "status": 403},
    ]
    said = ""
    with sandbox(*faults, api_key=key, store=shell.folder.parent / f"{shell.folder.name}.store") as target:
        for _ in range(2):
            ended = shell.run(target.url, *COMBINED, "--max-bytes", 20_000)
            said += ended.out + ended.err
        said += shell("status", "migration.checkpoint", "--json").out
    everywhere = said.encode() + b"".join(
        content for name, content in shell.files().items() if not name.startswith("export")
    )
    assert "403" in said
    assert key.encode() not in everywhere
    assert b"eyJ" not in everywhere  # how every token begins
    for number in range(1, 600, 50):
        assert b"c-%09d" % number not in everywhere


def test_proxies_of_the_environment_do_not_stand_between_us_and_this_machine(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(shell.folder / "e.json", [customer("c1")])
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert shell.run(target.url, "--customers", "e.json").code == 0
    monkeypatch.delenv("NO_PROXY")
    ended = shell.run(target.url, "--customers", "e.json", "--checkpoint", "other.checkpoint", "--export-again")
    assert (ended.code, ended.problem) == (2, "no-connection")
    assert "proxy" in ended.err


def test_a_defect_says_where_it_is_and_no_value(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammig.run import Run

    async def broken(self: Run) -> bool:
        raise KeyError("anna@example.org")

    monkeypatch.setattr(Run, "run", broken)
    write(shell.folder / "e.json", [customer("c1")])
    ended = shell.run(target.url, "--customers", "e.json", "--json")
    assert (ended.code, ended.document["error"]["code"]) == (1, "defect")
    assert "KeyError" in ended.err
    assert "test_run.py" in ended.err
    assert "anna@example.org" not in ended.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_no_defect(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "e.json", [customer("c1")])
    assert shell.run(target.url, "--customers", "e.json").code == 0

    def full() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    ended = finished(shell.folder, "status", shell.checkpoint, "--json", before=full)
    assert (ended.code, ended.problem) == (1, "output-failed")


def full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


def unread() -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(reader)


def closed() -> None:
    os.closerange(0, 3)


@pytest.mark.parametrize("lose", [full, unread, closed])
def test_a_run_that_loses_its_standard_streams_goes_on(
    shell: Shell, target: LocalTarget, lose: Callable[[], None]
) -> None:
    write(shell.folder / "e.json", [customer("c1"), {"id": "bad"}])
    ended = finished(shell.folder, "run", *quickly(target.url), "--customers", "e.json", "--json", before=lose)
    assert (ended.code, ended.err) == (3, "")
    assert shell("status", shell.checkpoint, "--json").document["state"] == "complete"


def test_a_closed_pipe_is_no_defect(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "e.json", [{"id": f"bad{number}", "name": "x" * 3000} for number in range(200)])
    assert shell.run(target.url, "--customers", "e.json").code == 3
    done = subprocess.run(
        f"{sys.executable} -m streammig dead-letters migration.checkpoint | head -c 10", shell=True, check=True,
        cwd=shell.folder, env=environment(shell.folder), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == '{"stage":"'
    assert "defect" not in done.stderr
    assert "Exception" not in done.stderr


def test_the_key_from_a_command_or_a_file_of_the_settings_is_used(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer("c1")])
    (shell.folder / "key").write_text("file-key\n")
    (shell.folder / "m.toml").write_text('api_key_file = "key"\n[customers]\nfiles = "e.json"\n')
    with sandbox(api_key="file-key") as target:
        shell._patch.delenv("MASIVO_API_KEY")
        assert shell.run(target.url, "m.toml").code == 0


def test_conditions_of_the_settings_overrule_what_an_answer_seems_to_say(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer("c1")])
    said = {"result": {"state": "done"}, "errors": ["none"]}
    with sandbox({"on": "customers", "do": "answer", "status": 207, "json": said, "done": True}) as target:
        for condition, code in (("result.state=done", 0), ("=", 2)):
            (shell.folder / "m.toml").write_text(f'accepted_if = ["{condition}"]\n[customers]\nfiles = "e.json"\n')
            assert shell.run(target.url, "m.toml").code == code


def test_the_modes_of_all_files_are_for_their_owner(shell: Shell, target: LocalTarget) -> None:
    before = os.umask(0)
    try:
        write(shell.folder / "e.json", [customer("c1")])
        assert shell.run(target.url, "--customers", "e.json", "--first", 1).code in (0, 10)
    finally:
        os.umask(before)
    for path in shell.folder.rglob("*"):
        if path.name not in ("e.json", "state"):  # neither is ours
            assert path.stat().st_mode & 0o077 == 0, path


def test_totals_that_do_not_add_up_are_exit_1_also_for_status(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(5)])
    assert shell.run(target.url, "--customers", "e.json").code == 0
    with contextlib.closing(sqlite3.connect(shell.checkpoint)) as db:
        db.execute("UPDATE stage SET progress = json_set(progress, '$.read.records', 6, '$.read.units', 6)")
        db.commit()
    for ended in (shell("status", "migration.checkpoint"), shell.run(target.url, "--customers", "e.json")):
        assert ended.code == 1
        assert "THE TOTALS DO NOT ADD UP." in ended.out + ended.err


def test_all_workers_get_one_new_token_together(shell: Shell) -> None:
    write(shell.folder / "e.json", [customer(f"c{number}", country="x" * 90) for number in range(400)])
    revoked = {"on": "customers", "nth": 4, "do": "revoke"}
    with sandbox(revoked, latency=0.02) as target:
        ended = shell.run(target.url, "--customers", "e.json", "--max-bytes", 10_000)
        assert ended.code == 0, ended.err
        requests = target.ledger()["requests"]
    assert requests["customers"]["401"] >= 1
    assert requests["auth"] == {"200": 2}


def test_a_key_pressed_before_the_run_began_ends_it_with_130(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise KeyboardInterrupt

    class Terminal:
        buffer = Interrupted()

    monkeypatch.setattr(sys, "stdin", Terminal())
    ended = shell.run(target.url, "--customers", "-")
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert not shell.checkpoint.exists()


def test_help_names_every_command_and_exit_code_and_an_unknown_command_is_refused(shell: Shell) -> None:
    ended = shell("--help")
    assert ended.code == 0
    for command in ("run", "status", "dead-letters", "sandbox", "demo"):
        assert command in ended.out
        assert shell(command, "--help").code == 0
    assert "130" in ended.out
    unknown = shell("rum")
    assert unknown.code == 2
    assert "rum" in unknown.err


def test_a_sandbox_that_can_not_be_is_refused(shell: Shell, target: LocalTarget) -> None:
    (shell.folder / "script").write_text('[{"do": "nothing"}]')
    port = target.url.split(":")[2].split("/")[0]
    for arguments, said in [
        (["--limits", "often"], "often"), (["--script", "script"], "script"), (["--port", port], f"port {port}"),
    ]:  # fmt: skip
        ended = shell("sandbox", *arguments)
        assert ended.code == 2
        assert said in ended.err


def test_a_network_file_system_is_no_place_for_a_checkpoint(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(shell.folder / "e.json", [customer("c1")])
    mounted = f"1 1 0:1 / / rw - ext4 a rw\n2 1 0:2 / {shell.folder} rw - nfs4 server:/export rw\n"
    read = Path.read_text

    def mounts(self: Path, *arguments: Any, **more: Any) -> str:
        return mounted if str(self) == "/proc/self/mountinfo" else read(self, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", mounts)
    ended = shell.run(target.url, "--customers", "e.json")
    assert (ended.code, ended.problem) == (2, "checkpoint-on-network")
    assert not shell.checkpoint.exists()
