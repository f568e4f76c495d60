"""`streammig doctor`: what it finds on this machine and at the target, and how it puts open questions to one."""

from __future__ import annotations

import email.utils
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from streammig.doctor.live import MOST_PERMITS, check_live
from streammig.doctor.way import _clock
from streammig.errors import Unusable
from streammig.masivo.rules import compiled
from streammig.settings import Settings
from tests import problems
from tests.commands import Called, Shell, sandbox, write
from tests.sandbox_caller import customer

MACHINE = ["reader", "judge", "sqlite", "disk", "checkpoint folder", "state folder", "permissions", "export", "key"]
WAY = ["token", "read", "clock", "limits"]
QUESTIONS = [
    "absent-customer", "accepted-answer", "unknown-field", "refused-whole", "repeated-customer", "twice-in-a-request",
    "repeated-email", "amount-decimals", "balance-match", "history-and-wallet", "history-once", "event-of-nobody",
    "repeated-event", "metrics-and-events", "migration-entry",
]  # fmt: skip


def toml(folder: Path, url: str, **more: Any) -> Path:
    write(folder / "c.json", [customer("c-1")])
    lines = [f'base_url = "{url}"', 'limits = "off"', "settle_time = 0.01"]
    lines += [f'{name} = "{value}"' for name, value in more.items()]
    path = folder / "move.toml"
    path.write_text("\n".join([*lines, "[customers]", 'files = ["c.json"]']))
    return path


def states(called: Called) -> dict[str, str]:
    return {it["name"]: it["state"] for it in called.document["findings"]}


def test_a_fit_machine_and_target_end_with_0_and_a_line_each(shell: Shell) -> None:
    with sandbox(limits="dev") as target:
        file = toml(shell.folder, target.url)
        found = shell("doctor", file, "--json")
        ledger = target.ledger()
    assert (found.code, found.document["fit"]) == (0, True)
    assert states(found) == dict.fromkeys([*MACHINE, *WAY], "ok")
    assert ledger["requests"].keys() == {"auth", "read"}  # nothing was sent
    with sandbox() as target:  # whose answers have no such headers
        said = shell("doctor", toml(shell.folder, target.url))
    assert said.code == 0
    assert [line.split(":")[0] for line in said.out.splitlines() if not line.startswith(" ")] == [
        *(f"ok     {name}" for name in [*MACHINE, *WAY[:-1]]), "note   limits",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("reader", lambda shell, patch: patch.setattr("ijson.backend", "python")),
        ("sqlite", lambda shell, patch: patch.setattr("sqlite3.sqlite_version_info", (3, 34, 0))),
        ("disk", lambda shell, patch: patch.setattr("streammig.doctor.machine.LEAST_ROOM", 1 << 62)),
        ("checkpoint folder", lambda shell, patch: patch.setattr("os.access", lambda path, mode: mode == 4)),
        ("permissions", lambda shell, patch: (shell.folder / "move.checkpoint").touch(mode=0o644)),
        ("export", lambda shell, patch: (shell.folder / "c.json").unlink()),
        ("key", lambda shell, patch: patch.delenv("MASIVO_API_KEY")),
        ("token", lambda shell, patch: patch.setenv("MASIVO_API_KEY", "another")),
    ],
)
def test_what_must_change_is_wrong_with_what_to_do_and_ends_with_2(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Any
) -> None:
    with sandbox() as target:
        file = toml(shell.folder, target.url)
        spoil(shell, monkeypatch)
        found = shell("doctor", file, "--json")
    assert (found.code, found.document["fit"]) == (2, False)
    (line,) = [it for it in found.document["findings"] if it["name"] == name]
    assert line["state"] == "wrong"
    assert line["do"]


def test_a_target_that_is_not_there_is_told_of_as_a_finding(shell: Shell) -> None:
    with sandbox() as target:
        file = toml(shell.folder, target.url)
    found = shell("doctor", file, "--json")
    assert (found.code, states(found)["token"]) == (2, "wrong")


@pytest.mark.parametrize(("apart", "state"), [(0, "ok"), (-3, "ok"), (30, "note"), (-30, "note"), (600, "wrong")])
def test_the_clock_is_held_against_the_servers(apart: float, state: str) -> None:
    now = time.time()
    assert _clock(email.utils.formatdate(now - apart, usegmt=True), now).state == state
    assert _clock("", now).state == "note"


# -- open questions ----------------------------------------------------------------------------------------------------


def live(shell: Shell, *script: Mapping[str, Any], **config: Any) -> Called:
    with sandbox(*script, **config) as target:
        file = toml(shell.folder, target.url)
        return shell("doctor", file, "--live", "--yes-live", "127.0.0.1", "--json")


AS_ASSUMED = dict.fromkeys([*MACHINE, *WAY[:-1], *QUESTIONS], "ok") | {"limits": "note", "limit-headers": "note"}


def test_a_target_as_is_assumed_answers_every_question_so(shell: Shell) -> None:
    found = live(shell)
    assert found.code == 0, found.out
    assert states(found) == AS_ASSUMED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "name", "state"),
    [
        ({"repeat": "ignore"}, "repeated-customer", "note"),
        ({"duplicate_email": "accept"}, "repeated-email", "note"),
        ({"balance_match": False}, "balance-match", "note"),
        ({"once_only": False}, "history-once", "note"),
        ({"customer_must_exist": False}, "event-of-nobody", "note"),
        ({"migration_entry": False}, "migration-entry", "note"),
        ({"partial_refusal": True}, "refused-whole", "wrong"),
        ({"unknown_fields": "refuse"}, "unknown-field", "note"),
        ({"metrics": "sent"}, "metrics-and-events", "note"),
        ({"history_moves_wallet": True}, "history-and-wallet", "wrong"),
        ({"round_amounts": True}, "amount-decimals", "wrong"),
    ],
)
def test_a_switched_assumption_is_named_and_no_other(
    shell: Shell, config: dict[str, Any], name: str, state: str
) -> None:
    found = live(shell, **config)
    assert found.code == (2 if state == "wrong" else 0)
    assert states(found) == AS_ASSUMED | {name: state}
    assert all(it["do"] for it in found.document["findings"] if it["name"] == name)


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "state"), [("500/1h", "ok"), ("700/1h", "note")])
def test_the_limit_that_answers_name_is_held_against_the_settings(shell: Shell, ours: str, state: str) -> None:
    with sandbox(limits="500/1h") as target:
        file = toml(shell.folder, target.url)
        file.write_text(file.read_text().replace('limits = "off"', f'limits = "{ours}"'))
        found = shell("doctor", file, "--live", "--yes-live", "127.0.0.1", "--json")
    assert states(found)["limit-headers"] == state, found.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "name", "state"),
    [
        ({"on": "customers", "nth": 5, "do": "answer", "status": 201}, "twice-in-a-request", "note"),
        ({"on": "events", "nth": 2, "do": "lose", "share": 1.0}, "repeated-event", "note"),
        ({"on": "read", "do": "missing", "as": "null"}, "absent-customer", "wrong"),
        ({"on": "customers", "nth": 1, "do": "answer", "status": 207, "body": "list", "share": 1.0}, "accepted-answer",
         "wrong"),
        ({"on": "customers", "nth": 2, "do": "answer", "status": 503}, "live", "wrong"),
    ],
)  # fmt: skip
def test_an_answer_that_was_not_assumed_is_named(shell: Shell, rule: dict[str, Any], name: str, state: str) -> None:
    found = live(shell, rule)
    assert (found.code, states(found)[name]) == (2 if state == "wrong" else 0, state)


def test_it_takes_ten_permits_at_most_and_asks_first(shell: Shell) -> None:
    with sandbox() as target:
        file = toml(shell.folder, target.url)
        for answer in ([], ["--yes-live", "example.org"]):
            ended = shell("doctor", file, "--live", *answer)
            assert (ended.code, ended.problem) == (2, "live-not-agreed")
        assert target.ledger()["requests"] == {}
        assert shell("doctor", file, "--live", "--yes-live", "127.0.0.1").code == 0
        requests = target.ledger()["requests"]
    sent = [requests[stage] for stage in ("customers", "events", "transactions")]
    assert sum(sum(answers.values()) for answers in sent) == MOST_PERMITS


@pytest.mark.parametrize(("limits", "fits"), [("dev", True), ("prod", False), ("off", False)])
def test_only_a_dev_account_is_asked(limits: str, fits: bool) -> None:
    settings = Settings.load(None, base_url="https://app.masivo.ai/api/storefront/v1", limits=limits)
    if fits:
        assert check_live(settings) == "app.masivo.ai"
    else:
        with problems.raises(Unusable, "live-needs-dev"):
            check_live(settings)


def test_a_judge_that_is_asked_for_and_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_judge", None)
    assert compiled.at_work("auto") == compiled.at_work("python") == "the rules in Python"
    with problems.raises(Unusable, "judge-not-compiled"):
        compiled.at_work("compiled")
    monkeypatch.setenv(compiled.VARIABLE, "fast")
    with problems.raises(Unusable, "settings-invalid"):
        compiled.at_work("auto")


@pytest.mark.slow
def test_the_version_tells_which_judge_is_at_work() -> None:
    command = [sys.executable, "-m", "streammig", "--version"]
    said = subprocess.run(command, env=os.environ | {compiled.VARIABLE: "python"}, stdout=subprocess.PIPE, check=True)
    assert said.stdout.decode().splitlines()[1] == "judge: the rules in Python"
