"""Whole runs against answers as they come, over real sockets: nothing twice, and never exit 0 for a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streammig.sandbox.local import LocalTarget
from tests.commands import Shell, sandbox, states, write
from tests.sandbox_caller import customer, event, transaction

COUNT = 240
MANY = ["--max-bytes", 10_000]  # some ten batches


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


def export(folder: Path, stage: str) -> list[object]:
    """The arguments for an export of this stage, and of what it builds on."""
    ids = [f"c{number}" for number in range(COUNT)]
    files = {
        "customers": [customer(it, country="x" * 40) for it in ids],
        "events": [{"id": it, "events": [event(f"p-{it}")]} for it in ids],
        "transactions": [
            {"id": it, "transactions": [transaction(5), transaction(-5, type="REDEMPTION")]} for it in ids
        ],
    }
    wanted = ["customers"] if stage == "customers" else ["customers", stage]
    named: list[object] = []
    for name in wanted:
        named += [f"--{name}", f"{write(folder / f'{name}.json', files[name])}#customers"]
    return named


def doubled(target: LocalTarget, stage: str) -> int:
    found: int = target.ledger()["twice"][stage]["count"]
    return found


NO = {"error": "Internal", "details": "queue full"}
SAYS_NO: list[dict[str, Any]] = [
    {"status": 200, "json": NO},
    {"status": 201, "json": {"errors": [{"detail": "queue full"}]}},
    {"status": 207, "body": "list"},
    {"status": 200, "body": "count"},
    {"status": 202, "json": {"success": False}},
    {"status": 200, "json": {"accepted": 3, "rejected": 9}},
]
UNKNOWN: list[dict[str, Any]] = [{"status": status} for status in (408, 409, 425, 499, 301, 307, 402, 418, 500, 503)]


@pytest.mark.parametrize(
    ("stage", "answer", "share"),
    [
        *(("customers", answer, 0.75) for answer in SAYS_NO),
        *((stage, SAYS_NO[0], share) for stage in ("customers", "transactions") for share in (0.0, 1.0)),
        ("transactions", SAYS_NO[2], 0.75),
    ],
    ids=str,
)
def test_i4_a_yes_that_says_no_loses_and_doubles_nothing(
    tmp_path: Path, shell: Shell, stage: str, answer: dict[str, Any], share: float
) -> None:
    with sandbox({"on": stage, "nth": 2, "do": "answer", "share": share, **answer}) as target:
        ended = shell.run(target.url, *export(tmp_path, stage), *MANY, "--concurrency", 1, "--json")
        found, held = ended.document["stages"][stage], target.ledger()["holds"][stage]
        units = 1 if stage == "customers" else 2
        assert not doubled(target, stage), ended.err
        assert found["read"] == found["accepted"] + found["dead"] + found["unknown"] == COUNT
        assert (found["accepted"] + found["unknown"]) * units >= held["count"] >= found["accepted"] * units
        if share == 0.75:
            assert ended.code == 3, ended.err
            assert 0 < found["dead"] == COUNT - held["count"] / units
            assert "accepted-in-part" in shell("dead-letters", shell.checkpoint).out
        else:
            assert ended.code == 0, ended.err
            assert held["count"] == COUNT * units
    assert "pending" not in found or not found["pending"]


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("answer", UNKNOWN, ids=str)
def test_i3_i4_an_answer_that_may_come_after_processing_doubles_and_loses_nothing(
    tmp_path: Path, shell: Shell, answer: dict[str, Any], share: float
) -> None:
    with sandbox({"on": "customers", "nth": 2, "do": "answer", "share": share, **answer}) as target:
        ended = shell.run(target.url, *export(tmp_path, "customers"), *MANY, "--concurrency", 1, "--json")
        held = target.ledger()["holds"]["customers"]
        assert ended.code == 0, ended.err
        assert (held["count"], doubled(target, "customers")) == (COUNT, 0)


@pytest.mark.parametrize("answer", [{"status": 409}, {"status": 200, "json": NO}, {"status": 408}], ids=str)
def test_i3_events_of_which_it_is_not_known_are_parked_and_not_sent_again(
    tmp_path: Path, shell: Shell, answer: dict[str, Any]
) -> None:
    with sandbox({"on": "events", "nth": 2, "do": "answer", "done": True, **answer}) as target:
        arguments = [*export(tmp_path, "events"), *MANY]
        for _ in range(2):
            ended = shell.run(target.url, *arguments)
            assert ended.code == 4, ended.err
        held = target.ledger()["holds"]["events"]
        assert (held["count"], doubled(target, "events")) == (COUNT, 0)
        assert states(shell.checkpoint)["events"].count("parked") == 1
        said = shell("resolve", shell.checkpoint).out + shell("resolve", shell.checkpoint, 2, "--stage", "events").out
        assert (f"error {answer['status']}" if "json" not in answer else "queue full") in said


@pytest.mark.parametrize("status", [409, 301, 402])
def test_i3_two_odd_answers_in_a_row_stop_the_run_and_the_same_command_doubles_nothing(
    tmp_path: Path, shell: Shell, status: int
) -> None:
    with sandbox({"on": "customers", "nth": [1, 2], "do": "answer", "status": status, "done": True}) as target:
        # One request at a time: beside another, one that is accepted may come between the two answers.
        arguments = [*export(tmp_path, "customers"), *MANY, "--concurrency", 1]
        ended = shell.run(target.url, *arguments)
        assert ended.code == 5, ended.err
        assert f"the target answered {status}" in ended.err
        assert shell.run(target.url, *arguments).code == 0
        held = target.ledger()["holds"]["customers"]
        assert (held["count"], doubled(target, "customers")) == (COUNT, 0)


@pytest.mark.parametrize("status", [403, 404, 405])
@pytest.mark.parametrize("word", ["reject", "set-aside"])
def test_a_batch_that_alone_is_answered_so_is_rejected_by_a_word_of_the_operator(
    tmp_path: Path, shell: Shell, status: int, word: str
) -> None:
    rule = {"on": "customers", "nth": 2, "do": "answer", "status": status}
    with sandbox(rule) as target:
        arguments = [*export(tmp_path, "customers"), *MANY, "--concurrency", 1]
        assert shell.run(target.url, *arguments).code == 5
        told = shell("resolve", shell.checkpoint, 2, f"--{word}")
        assert (told.code, "is rejected" in told.err) == (0, True), told.err
        ended = shell.run(target.url, *arguments, "--json")
        found, held = ended.document["stages"]["customers"], target.ledger()["holds"]["customers"]
        assert held["count"] == found["accepted"]
        assert not doubled(target, "customers")
        assert found["accepted"] + found["dead"] == COUNT
        assert ended.code == (3 if word == "set-aside" else 0)


@pytest.mark.parametrize("say", ["null", "object", "204", "400"])
def test_i3_a_read_that_says_nothing_of_a_missing_customer_proves_nothing(
    tmp_path: Path, shell: Shell, say: str
) -> None:
    lost = {"on": "customers", "nth": 2, "do": "answer", "status": 500}
    with sandbox(lost, {"do": "missing", "as": say}) as target:
        ended = shell.run(target.url, *export(tmp_path, "customers"), *MANY, "--concurrency", 1, "--json")
        held, found = target.ledger()["holds"]["customers"], ended.document["stages"]["customers"]
        assert ended.code == 4, ended.err
        assert held["count"] == found["accepted"]
        assert not doubled(target, "customers")
        assert "with " in ended.err
        assert "which says nothing" in ended.err
        assert found["accepted"] + found["unknown"] == COUNT


def test_conditions_of_the_settings_overrule_what_an_answer_seems_to_say(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "migration.toml").write_text('accepted_if = ["result.state=done"]\n')
    said = {"result": {"state": "done"}, "errors": ["none"]}
    with sandbox({"on": "customers", "do": "answer", "status": 207, "json": said, "done": True}) as target:
        ended = shell("run", tmp_path / "migration.toml", "--base-url", target.url, "--limits", "off",
                      "--settle-time", "0.1", *export(tmp_path, "customers"))  # fmt: skip
        assert ended.code == 0, ended.err
    (tmp_path / "migration.toml").write_text('accepted_if = ["="]\n')
    assert shell("run", tmp_path / "migration.toml", *export(tmp_path, "customers")).code == 2
