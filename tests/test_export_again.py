"""An export that a checkpoint has sent from is not sent by another one, unless the operator says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import Shell, process, sandbox, states, until, write
from tests.sandbox_caller import customer, event

pytestmark = pytest.mark.slow
COUNT = 20


def given(folder: Path) -> dict[str, list[object]]:
    ids = [f"c{number}" for number in range(COUNT)]
    people = write(folder / "people.json", [customer(it) for it in ids])
    events = write(folder / "events.json", [{"id": it, "events": [event(f"p-{it}")]} for it in ids])
    return {"customers": ["--customers", people], "events": ["--customers", people, "--events", events]}


@pytest.mark.parametrize("how", ["the same file", "a copy of it", "events alone"])
def test_i3_a_second_checkpoint_over_what_was_sent_is_refused_and_a_word_passes(shell: Shell, how: str) -> None:
    with sandbox() as target:
        arguments = given(shell.folder)["events"]
        assert shell.run(target.url, *arguments).code == 0
        if how == "a copy of it":
            for path in shell.folder.glob("*.json"):
                moved = path.rename(f"{path}.moved")
                shutil.copy(moved, path)
        if how == "events alone":
            arguments = arguments[2:]
        again = ["--checkpoint", "again.checkpoint", *arguments, "--json"]
        for _ in range(2):
            refused = shell.run(target.url, *again)
            assert (refused.code, refused.problem) == (2, "export-sent-before")
        assert not (shell.folder / "again.checkpoint").exists()
        assert target.ledger()["batches"]["events"]["accepted"] == 1
        assert shell.run(target.url, *again, "--export-again").code == 0
        assert shell.run(target.url, *again).code == 0  # said once, it is known
        assert target.ledger()["batches"]["events"]["accepted"] == 2


def test_what_was_never_sent_or_was_reverted_or_is_of_another_stage_may_be_given_again(shell: Shell) -> None:
    arguments = given(shell.folder)
    with sandbox() as target:
        people = arguments["customers"]
        refused = shell.run(target.url, *people, "--map", "customers=nowhere:at_all", "--checkpoint", "zero.checkpoint")
        assert refused.code == 2
        assert shell.run(target.url, *people, "--checkpoint", "one.checkpoint").code == 0
        assert shell.run(target.url, "--events", arguments["events"][3], "--checkpoint", "two.checkpoint").code == 0
        assert shell("revert", "one.checkpoint", "--yes-revert", COUNT).code == 0
        assert shell.run(target.url, *people, "--checkpoint", "three.checkpoint").code == 0
        assert target.ledger()["holds"]["customers"]["count"] == COUNT


def test_i3_what_a_checkpoint_has_sent_stays_its_own_though_it_is_refused_another_file(shell: Shell) -> None:
    (_, people), (*_, events) = given(shell.folder).values()
    with sandbox() as target:
        assert shell.run(target.url, "--customers", people, "--checkpoint", "one.checkpoint").code == 0
        assert shell.run(target.url, "--events", events, "--checkpoint", "two.checkpoint").code == 0
        both = ["--customers", people, "--events", events, "--checkpoint", "one.checkpoint"]
        for arguments in (both, ["--customers", people, "--checkpoint", "three.checkpoint"]):
            refused = shell.run(target.url, *arguments, "--json")
            assert (refused.code, refused.problem) == (2, "export-sent-before")


def test_i3_a_second_checkpoint_is_refused_while_the_first_one_has_not_sent_yet(shell: Shell) -> None:
    with sandbox({"on": "customers", "nth": 1, "do": "hang", "seconds": 60}) as target:
        people = given(shell.folder)["customers"]
        run = ["run", "--base-url", target.url, "--limits", "off", *people]
        with process(shell.folder, *run):
            until(lambda: "sending" in states(shell.checkpoint).get("customers", []), "a request")
            ended = shell(*run, "--checkpoint", "again.checkpoint", "--json")
            assert (ended.code, ended.problem) == (2, "export-sent-before")
