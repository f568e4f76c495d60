"""What shows a run while it is on, through the real command: status, the log, and a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from streammig.checkpoint import Checkpoint
from streammig.sandbox.local import LocalTarget
from tests.commands import Shell, environment, finished, process, quickly, sandbox, states, until, write
from tests.sandbox_caller import customer
from tests.test_demo import read_all

pytestmark = pytest.mark.slow
SLOW = {"on": "customers", "nth": 1, "do": "slow", "seconds": 4}


@pytest.fixture
def export(shell: Shell) -> list[str]:
    write(shell.folder / "c.json", [customer(f"c-{number}") for number in range(1_500)])
    return ["--customers", "c.json"]


@pytest.fixture
def slow() -> Iterator[LocalTarget]:
    with sandbox(SLOW) as target:
        yield target


def test_status_says_that_a_run_is_on_watches_it_and_ends_with_its_exit_code(
    shell: Shell, slow: LocalTarget, export: list[str]
) -> None:
    with process(shell.folder, "run", *quickly(slow.url), *export) as run:
        until(lambda: "sending" in states(shell.checkpoint).get("customers", []), "a request is under way")
        on = shell("status", shell.checkpoint, "--exit-code", "--json")
        assert (on.code, on.document["state"]) == (11, "running")
        watched = finished(shell.folder, "status", shell.checkpoint, "--watch", "--exit-code")
        run.communicate(timeout=60)
    assert run.returncode == watched.code == 0
    assert watched.out.count("customers") > 1
    assert "The run is on." in watched.out
    assert watched.out.rstrip().endswith("The run is complete.")


def test_the_log_as_json_has_one_object_a_line_with_its_time_and_no_personal_data(
    shell: Shell, slow: LocalTarget, export: list[str]
) -> None:
    ended = finished(shell.folder, "run", *quickly(slow.url), *export, "--log", "json")
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert ended.code == 0
    assert all(line["time"].endswith("Z") and line["notice"] for line in lines)
    with closing(Checkpoint.open(shell.checkpoint, read_only=True)) as file:
        assert {line["run"] for line in lines} == {file.run["id"]}
    assert {key: lines[-1][key] for key in ("notice", "exit_code", "error")} == {
        "notice": "run-ended", "exit_code": 0, "error": None
    }  # fmt: skip
    answered = [line for line in lines if line["notice"] == "answered"]
    assert sorted((it["stage"], it["batch"], it["attempt"], it["kind"]) for it in answered) == [
        ("customers", 1, 1, "accepted"), ("customers", 2, 1, "accepted")
    ]  # fmt: skip
    assert "c-1" not in ended.err


def test_a_terminal_says_how_many_requests_are_under_way_when_a_run_is_stopped(
    shell: Shell, slow: LocalTarget, export: list[str]
) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "streammig", "run", *quickly(slow.url), *export, "--concurrency", "1"],
        cwd=shell.folder, env=environment(shell.folder, COLUMNS="100", TERM="xterm"), stdin=follower, stdout=follower,
        stderr=follower, start_new_session=True,
    ) as run:  # fmt: skip
        os.close(follower)
        until(lambda: slow.ledger()["requests"].get("customers"), "a request is at the target")
        run.send_signal(signal.SIGINT)
        told = b"".join(read_all(leader)).decode()
    assert run.returncode == 130, told
    assert "Stopping: 1 request under way, at most" in told
    assert states(shell.checkpoint)["customers"][0] == "accepted"
