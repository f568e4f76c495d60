"""`streammig resolve`: what is known of a batch that nobody can judge, and what each decision does."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint, locked
from streammig.cli.resolve import to_look_up
from streammig.model import BatchState
from streammig.sandbox.local import LocalTarget
from tests.commands import Called, Shell, sandbox, states, write
from tests.sandbox_caller import customer, event

EXPORT = ("--customers", "c.ndjson", "--events", "e.ndjson", "--unchecked")
LANDED = {"on": "events", "nth": 1, "do": "reset", "at": "done"}
LOST = {"on": "events", "nth": 1, "do": "reset", "at": "head"}


def parked(shell: Shell, target: LocalTarget) -> Called:
    """A run that ends with batch 1 of events parked."""
    names = [f"c{number}" for number in range(4)]
    write(shell.folder / "c.ndjson", [customer(name) for name in names], lines=True)
    write(shell.folder / "e.ndjson", [{"id": name, "events": [event(f"p-{name}", 12.5)]} for name in names], lines=True)
    ended = shell.run(target.url, *EXPORT)
    assert ended.code == 4, ended.err
    return ended


def resolve(shell: Shell, *arguments: object) -> Called:
    return shell("resolve", "migration.checkpoint", *arguments)


def events(target: LocalTarget) -> int:
    ledger = target.ledger()
    assert ledger["twice"]["events"]["count"] == 0
    held: int = ledger["holds"]["events"]["count"]
    return held


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[LocalTarget]:
    with sandbox(getattr(request, "param", LANDED)) as found:
        yield found


def test_a_run_that_ends_with_a_parked_batch_leads_to_resolve(shell: Shell, target: LocalTarget) -> None:
    ended = parked(shell, target)
    assert "streammig resolve migration.checkpoint 1 --stage events" in ended.err
    status = shell("status", "migration.checkpoint", "--json")
    (entry,) = status.document["undecided"]
    assert entry.pop("since").endswith("Z")
    known = "nothing of it can be read back, so it is parked for you to decide"
    assert entry == {
        "stage": "events", "batch": 1, "records": 4, "units": 4, "state": "parked", "answer": "connection-lost",
        "known": known,
    }  # fmt: skip
    words = shell("status", "migration.checkpoint").out
    assert "  streammig resolve migration.checkpoint 1 --stage events\n" in words
    assert status.document["state"] == "complete"
    assert "\nAll is sent, but 1 batch waits for you to decide.\n" in words
    assert ended.err.count("is unknown") == 1
    assert ended.err.count("streammig resolve") == 1
    assert ended.err.splitlines()[-1] == "Everything else is sent (exit code 4)."
    listed = resolve(shell)
    assert listed.code == 0
    assert "events: batch 1, 4 records, parked since" in listed.out
    assert [it["batch"] for it in json.loads(resolve(shell, "--json").out)] == [1]


def test_all_that_is_known_is_said_before_a_decision_and_nothing_is_changed(shell: Shell, target: LocalTarget) -> None:
    parked(shell, target)
    before = shell.checkpoint.read_bytes()
    said = resolve(shell, 1)
    assert said.code == 0
    for words in ("batch 1 of events: parked", "4 records, 4 units", "e.ndjson\n    records 1 to 4 (from byte 0)",
                  "sum of purchases: 50.0", "request 1,", "unknown", "nothing of it can be read back",
                  "1 --stage events --landed\n",
                  "1 --stage events --not-landed\n"):  # fmt: skip
        assert words in said.out, words
    facts: dict[str, Any] = json.loads(resolve(shell, 1, "--json").out)
    assert facts["requests"][0]["kind"] == "unknown"
    assert facts["places"][0]["from"] == {"record": 1, "unit": 0, "byte": 0}
    assert facts["sums"] == {"purchases": "50.0"}
    assert shell.checkpoint.read_bytes() == before


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}


@pytest.mark.parametrize(("target", "packed"), [(LANDED, name) for name in PACKED], indirect=["target"])
def test_the_records_of_a_batch_can_be_found_in_the_export_by_the_command_that_is_said(
    shell: Shell, target: LocalTarget, packed: str
) -> None:
    if packed:
        write(shell.folder / "c.json", [customer("c0")])
        content = PACKED[packed](json.dumps([{"id": "c0", "events": [event("p")]}]).encode())
        (shell.folder / f"e.json.{packed}").write_bytes(content)
        assert shell.run(target.url, "--customers", "c.json", "--events", f"e.json.{packed}").code == 4
    else:
        parked(shell, target)
    look = json.loads(resolve(shell, 1, "--json").out)["look"]
    assert f"see the first of them:\n    {look}\n" in resolve(shell, 1).out
    shown = subprocess.run(look, shell=True, capture_output=True, text=True, check=True).stdout
    assert shown.startswith('{"id": "c0", "events": [{')
    assert "c0" not in look  # whose they are is in the export alone


def test_customers_purchases_and_dates_to_look_up_are_shown_of_a_batch_that_is_not_settled(
    shell: Shell, target: LocalTarget
) -> None:
    parked(shell, target)
    with closing(Checkpoint.open(shell.checkpoint, read_only=True)) as file:
        (batch,) = file.batches("events", BatchState.PARKED)
        said = to_look_up(file, batch)
    assert said[0] == "  look up at the target:"
    assert [line.split(":")[0] for line in said[1:]] == [f"    customer c{number}" for number in range(4)]
    assert "purchase_id p-c0" in said[1]
    assert "issued_at 20" in said[1]
    assert "c0" not in resolve(shell, 1).out  # which is no terminal here


SPEAKS = {"on": "events", "nth": 1, "do": "answer", "status": 207, "json": {"error": "no customer zaphod@example.org"}}


@pytest.mark.parametrize("target", [SPEAKS], indirect=True)
def test_i9_what_the_target_said_is_shown_as_it_came_while_its_batch_is_not_settled(
    shell: Shell, target: LocalTarget
) -> None:
    parked(shell, target)
    kept = shell.folder / "migration.checkpoint.outbox" / "events-1.answer"
    assert kept.stat().st_mode & 0o077 == 0
    with closing(Checkpoint.open(shell.checkpoint, read_only=True)) as file:
        (batch,) = file.batches("events", BatchState.PARKED)
        lines = to_look_up(file, batch)
    assert lines[0] == "  the target said:"
    assert "zaphod@example.org" in lines[1]
    elsewhere = {name: content for name, content in shell.files().items() if not name.endswith("events-1.answer")}
    assert not [name for name, content in elsewhere.items() if b"zaphod@" in content]
    assert "zaphod@" not in resolve(shell, 1).out + resolve(shell, 1, "--json").out  # which is no terminal
    assert resolve(shell, 1, "--landed", "--quiet").code == 0
    assert not kept.exists()


def test_what_the_operator_says_has_landed_is_accepted_and_never_sent_again(shell: Shell, target: LocalTarget) -> None:
    parked(shell, target)
    ended = resolve(shell, 1, "--landed", "--quiet")
    assert ended.code == 0, ended.err
    assert "WARNING" in ended.err
    assert shell.run(target.url, *EXPORT).code == 0
    assert states(shell.checkpoint)["events"] == ["accepted"]
    assert events(target) == 4


def test_of_a_batch_that_landed_in_part_the_rest_is_sent_by_a_retry(shell: Shell) -> None:
    half = {"on": "events", "nth": 1, "do": "answer", "status": 502, "done": True, "share": 0.5}
    with sandbox(half) as target:
        parked(shell, target)
        (shell.folder / "landed.txt").write_text("c0\n\nc1\n")
        ended = resolve(shell, 1, "--landed-in-part", "landed.txt")
        assert ended.code == 0, ended.err
        found = shell("status", "migration.checkpoint", "--json").document
        counts = found["stages"]["events"]
        assert (counts["accepted"], counts["dead_by"], found["balanced"]) == (2, {"accepted-in-part": 2}, True)
        assert events(target) == 2
        assert shell("retry", "migration.checkpoint").code == 0
        assert events(target) == 4


@pytest.mark.parametrize(("status", "word", "code"), [(403, "reject", 0), (404, "set-aside", 3)])
def test_a_batch_that_stops_the_run_by_itself_is_rejected_by_a_word_of_the_operator(
    shell: Shell, status: int, word: str, code: int
) -> None:
    with sandbox({"on": "customers", "nth": 2, "do": "answer", "status": status}) as target:
        write(shell.folder / "c.json", [customer(f"c{number}", country="x" * 40) for number in range(80)])
        arguments = ["--customers", "c.json", "--max-bytes", 10_000, "--concurrency", 1]
        assert shell.run(target.url, *arguments).code == 5
        told = resolve(shell, 2, f"--{word}")
        assert (told.code, "is rejected" in told.err) == (0, True), told.err
        ended = shell.run(target.url, *arguments, "--json")
        found, ledger = ended.document["stages"]["customers"], target.ledger()
        assert (ended.code, ledger["twice"]["customers"]["count"]) == (code, 0)
        assert ledger["holds"]["customers"]["count"] == found["accepted"] == 80 - found["dead"]


@pytest.mark.parametrize(
    ("ids", "code"),
    [("c0\nc99", "ids-foreign"), ("", "ids-whole"), ("c0\nc1\nc2\nc3", "ids-whole"), (None, "ids-unreadable")],
)
def test_a_file_that_names_no_part_of_the_batch_decides_nothing(
    shell: Shell, target: LocalTarget, ids: str | None, code: str
) -> None:
    parked(shell, target)
    if ids is not None:
        (shell.folder / "landed.txt").write_text(ids)
    ended = resolve(shell, 1, "--landed-in-part", "landed.txt")
    assert (ended.code, ended.problem) == (2, code)
    assert (code == "ids-foreign") == ("1; the first is in line 2" in ended.err)
    assert states(shell.checkpoint)["events"] == ["parked"]


@pytest.mark.parametrize("answers", [("--landed", "--not-landed"), ("--not-landed", "--read-back")])
def test_two_answers_at_once_are_none(shell: Shell, target: LocalTarget, answers: tuple[str, str]) -> None:
    parked(shell, target)
    ended = resolve(shell, 1, *answers, "--json")
    assert (ended.code, ended.problem) == (2, "usage")
    assert states(shell.checkpoint)["events"] == ["parked"]


@pytest.mark.parametrize("target", [LOST], indirect=True)
def test_what_the_operator_says_has_not_landed_is_sent_by_the_next_run(shell: Shell, target: LocalTarget) -> None:
    parked(shell, target)
    ended = resolve(shell, 1, "--not-landed")
    assert ended.code == 0, ended.err
    assert "TWICE" in ended.err
    assert "is sent again by the next run: streammig run" in ended.err
    status = shell("status", "migration.checkpoint", "--json").document
    assert status["stages"]["events"]["pending"] == 4
    assert status["state"] == "interrupted"
    assert status["balanced"]
    assert shell.run(target.url, *EXPORT).code == 0
    assert events(target) == 4
    with closing(Checkpoint.open(shell.checkpoint, read_only=True)) as file:
        (batch,) = file.batches("events", BatchState.ACCEPTED)
        assert file.about(batch)["note"].startswith("the operator, 20")


def test_events_that_are_read_back_stay_parked(shell: Shell, target: LocalTarget) -> None:
    parked(shell, target)
    ended = resolve(shell, 1, "--read-back")
    assert ended.code == 4, ended.err
    assert "still undecided" in ended.err
    assert "scanning" not in ended.err
    assert states(shell.checkpoint)["events"] == ["parked"]


def test_parked_customers_that_can_be_seen_now_are_accepted_by_a_read_back(shell: Shell) -> None:
    with sandbox({"on": "customers", "nth": 1, "do": "reset", "at": "done"}) as target:
        write(shell.folder / "c.ndjson", [customer("c1")], lines=True)
        (shell.folder / "move.toml").write_text("[customers]\nfiles = 'c.ndjson'\nunknown = 'park'\n")
        ended = shell.run(target.url, "move.toml", "--checkpoint", "migration.checkpoint")
        assert ended.code == 4, ended.err
        target.ledger()  # waits for the queue
        ended = resolve(shell, 1, "--read-back", "--settings", "move.toml")
        assert ended.code == 0, ended.err
        assert "is accepted" in ended.err
        assert states(shell.checkpoint)["customers"] == ["accepted"]
        assert "so it landed" in resolve_note(shell.checkpoint)


def test_what_is_there_of_a_batch_that_was_refused_in_part_is_parked_until_every_owner_is_read_back(
    shell: Shell,
) -> None:
    with sandbox({"on": "customers", "nth": 1, "do": "partial", "bad": 1}) as target:
        write(shell.folder / "c.ndjson", [customer(f"c{number}") for number in range(40)], lines=True)
        ended = shell.run(target.url, "--customers", "c.ndjson", "--checkpoint", "migration.checkpoint")
        assert ended.code == 4, ended.err
        assert states(shell.checkpoint)["customers"] == ["split", "parked", "accepted"]
        assert "some of it is at the target" in ended.err
        assert resolve(shell, 2, "--read-back").code == 0
        assert states(shell.checkpoint)["customers"] == ["split", "accepted", "accepted"]


def resolve_note(checkpoint: Path) -> str:
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        (batch,) = file.batches("customers", BatchState.ACCEPTED)
        note: str = file.about(batch)["note"]
        return note


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((1, "--stage", "customers", "--landed", "--json"), "nothing-to-decide"),
        ((7, "--landed", "--json"), "nothing-to-decide"),
        (("--landed", "--json"), "usage"),
        ((0, "--json"), "usage"),
    ],
)
def test_what_is_not_undecided_is_refused_with_what_is(
    shell: Shell, target: LocalTarget, arguments: tuple[object, ...], code: str
) -> None:
    parked(shell, target)
    ended = resolve(shell, *arguments)
    assert (ended.code, ended.problem) == (2, code)
    assert states(shell.checkpoint)["events"] == ["parked"]


@pytest.mark.parametrize("answer", ["--landed", "--not-landed", "--read-back"])
def test_nothing_is_decided_while_another_process_holds_the_checkpoint(
    shell: Shell, target: LocalTarget, answer: str
) -> None:
    parked(shell, target)
    with locked(shell.checkpoint, "streammig run other.toml"):
        assert resolve(shell).code == 0  # but what is undecided can be looked at
        ended = resolve(shell, 1, answer, "--json")
    assert (ended.code, ended.document["error"]["code"]) == (11, "checkpoint-held")
    assert "streammig run other.toml" in ended.err


def test_where_nothing_is_undecided_it_says_so(shell: Shell) -> None:
    with sandbox() as target:
        write(shell.folder / "c.ndjson", [customer("c1")], lines=True)
        assert shell.run(target.url, "--customers", "c.ndjson", "--unchecked").code == 0
        ended = resolve(shell)
        assert (ended.code, ended.out) == (0, "")
        assert "No batch has an unknown outcome." in ended.err
        assert resolve(shell, 1, "--landed").code == 2


def test_a_dry_run_has_nothing_to_retry(shell: Shell) -> None:
    write(shell.folder / "c.ndjson", [customer("c1", email="none")], lines=True)
    shell("run", "--customers", "c.ndjson", "--dry-run", "dry")
    ended = shell("retry", "dry/dry-run.checkpoint")
    assert (ended.code, ended.problem) == (2, "checkpoint-of-dry-run")
