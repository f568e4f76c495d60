"""Somebody who does not look at a run is told of what matters; neither a command nor a webhook ever holds it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from streammig.cli import announce
from streammig.cli.announce import Announcer, Events
from streammig.model import START, Batch, BatchState, Kind, Place, Range, Receipt, Tally
from streammig.telemetry import (
    Account,
    Answered,
    Decided,
    Notice,
    RunBegan,
    RunEnded,
    StageBegan,
    StageEnded,
    Steered,
    Waiting,
    Warned,
)
from tests.commands import KEY, Shell, sandbox, until, write
from tests.sandbox_caller import customer

BATCH = Batch("customers", 7, (Range(START, Place(0, 500, 0, 11)),), Tally(10, 10), b"", 500)
BEGAN = RunBegan({"customers": Account()}, "1/5s", "", 300.0, 4)
ACCEPTED = Answered(BATCH, Receipt(Kind.ACCEPTED, 200, latency=0.5), 1)
ABOUT = {"command": "run", "checkpoint": "x"}
ASKED = Waiting("throttled", "the target answered 429 and asked to wait", 400.0)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        pytest.param([(0, BEGAN), (0, StageEnded("customers", "complete"))], ["stage-done"], id="a stage is done"),
        pytest.param([(0, BEGAN), (0, StageEnded("customers", "interrupted"))], [], id="a stage is interrupted"),
        pytest.param([(0, BEGAN), (0, Decided(BATCH, BatchState.PARKED))], ["parked"], id="a batch is parked"),
        pytest.param([(0, BEGAN), (0, ASKED)], [], id="a wait of 400 s"),
        pytest.param([(0, BEGAN), (0, ASKED), (400, ASKED), (400, ASKED)], ["throttled"], id="waits in a row, once"),
        pytest.param([(0, BEGAN), (0, ASKED), (400, ACCEPTED), (0, ASKED)], [], id="waits with progress between"),
        pytest.param([(0, BEGAN), (99, None)], [], id="the time of 20 requests is not over"),
        pytest.param([(0, BEGAN), (101, None), (500, None)], ["no-progress"], id="no progress, once"),
        pytest.param([(0, BEGAN), (90, ACCEPTED), (90, None)], [], id="progress"),
        pytest.param([(0, StageBegan("customers")), (9_999, None)], [], id="a command that tells no pace"),
        pytest.param(
            [(0, BEGAN), (0, Waiting("unreachable", "", 50.0)), (101, None)], ["no-progress"], id="trouble is no reason"
        ),
        pytest.param([(0, BEGAN), (0, Waiting("limit", "", 3000.0)), (3050, None)], [], id="a wait for a window"),
        pytest.param([(0, BEGAN), (0, Waiting("paused", "")), (99_999, None)], [], id="a pause"),
        pytest.param(
            [(0, BEGAN), (0, Waiting("paused", "")), (9_999, Steered("unpaused", "1/60s")), (1201, None)],
            ["no-progress"],
            id="the pause is over, and the limits are others",
        ),
    ],
)
def test_each_event_is_told_once_when_it_is_due(steps: list[tuple[float, Notice | None]], told: list[str]) -> None:
    now = [1_000.0]
    events = Events(clock=lambda: now[0])
    found = []
    for later, notice in steps:
        now[0] += later
        found += events.due() if notice is None else events.hear(notice)
    assert [event.name for event in found] == told
    assert all(event.json()["time"].endswith("Z") for event in found)


@pytest.mark.parametrize(
    ("code", "problem", "told"),
    [(0, "", "finished"), (3, "", "finished"), (10, "", "finished"), (3, "too-many-dead", "failed"),
     (4, "outcome-unknown", "failed"), (5, "key-refused", "failed"), (1, "disk-full", "failed"), (130, "", None)],
)  # fmt: skip
def test_the_end_of_a_run_is_told_unless_it_was_asked_for(code: int, problem: str, told: str | None) -> None:
    ended = RunEnded(code, {"code": problem} if problem else None)
    found = Events("retry").hear(ended)
    assert [event.name for event in found] == [told] * bool(told)
    assert all("the retry has" in event.text for event in found)


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]], list[int]]]:
    """A webhook: its address, what it was told, and the answers that it gives before it says 200."""
    told: list[dict[str, Any]] = []
    answers: list[int] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = answers.pop(0) if answers else 200
            if status == 200:
                told.append(said)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret-path", told, answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answers", "arrives"), [([], True), ([500, 503, 429], True), ([500] * 5, False), ([404], False)]
)
def test_a_webhook_is_tried_again_while_it_may_do_better_and_never_for_ever(
    hook: tuple[str, list[dict[str, Any]], list[int]], answers: list[int], arrives: bool
) -> None:
    url, told, waiting = hook
    waiting += answers
    pauses: list[float] = []
    warned: list[Notice] = []
    announcer = Announcer("", url, {}, ABOUT, warned.append, pause=pauses.append)
    announcer(StageEnded("customers", "complete"))
    announcer(RunEnded(0, None))
    assert [it["event"] for it in told] == ["stage-done", "finished"][not arrives :]
    assert all(ABOUT.items() <= it.items() for it in told)
    assert pauses == [1.0, 2.0, 4.0, 8.0][: len(answers) if arrives else len(answers) - 1]
    assert isinstance(warned[-1], RunEnded)
    said = [it.warning for it in warned if isinstance(it, Warned)]
    assert bool(said) == (not arrives)
    assert not any("secret-path" in text for text in said)


def test_that_the_end_of_a_run_could_not_be_told_is_a_warning_of_that_run(
    hook: tuple[str, list[dict[str, Any]], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _, answers = hook
    answers += [404]
    monkeypatch.setattr(announce, "LAST_WORD", 0.2)
    for command, address, why in [
        ("", url, "it answered 404"),
        ("exit 3", "", "ended with 3 for finished"),
        ("exec sleep 600", "", "not all events"),
    ]:
        told: list[Notice] = []
        environment = {"PATH": "/usr/bin:/bin", "PWD": str(tmp_path)}
        Announcer(command, address, environment, ABOUT, told.append)(RunEnded(0, None))
        warning, end = told
        assert isinstance(warning, Warned)
        assert (warning.code, why in warning.warning) == ("event-not-told", True)
        assert isinstance(end, RunEnded)


@pytest.mark.slow
def test_a_command_that_hangs_holds_nobody_and_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "COMMAND_TIME", 0.2)
    warned: list[Notice] = []
    environment = {"PATH": "/usr/bin:/bin", "PWD": str(tmp_path)}
    announcer = Announcer("sleep 600 & echo $! > child; wait", "", environment, ABOUT, warned.append)
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    announcer(StageEnded("customers", "complete"))
    assert time.monotonic() - began < 0.1
    child = until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip(), "the child runs")
    until(lambda: _gone(child), "the child is killed")
    announcer(RunEnded(0, None))
    assert any(isinstance(it, Warned) and it.code == "event-not-told" for it in warned)


def _gone(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


@pytest.mark.slow
def test_a_real_run_and_the_commands_after_it_tell_a_command_without_the_key_or_personal_data(shell: Shell) -> None:
    write(shell.folder / "c.json", [customer(f"c-{number}") for number in range(3)])
    with sandbox() as target:
        ended = shell.run(
            target.url, "--customers", "c.json", "--on-event", "env >> environment; cat >> told; echo >> told; exit 3"
        )
        assert ended.code == 0
        assert "ended with 3 for finished" in ended.err
        for command in ("verify", "retry"):
            assert shell(command, shell.checkpoint, "--on-event", "cat >> told; echo >> told").code == 0
    told = [json.loads(line) for line in (shell.folder / "told").read_text().splitlines()]
    assert [(it["command"], it["event"]) for it in told] == [
        ("run", "stage-done"), ("run", "finished"), ("verify", "finished"), ("retry", "finished")
    ]  # fmt: skip
    assert "c-1" not in json.dumps(told)
    environment = (shell.folder / "environment").read_text()
    assert KEY not in environment
    assert "STREAMMIG_EVENT=finished" in environment


def test_an_address_that_is_none_is_refused_before_anything_is_read(shell: Shell) -> None:
    write(shell.folder / "c.json", [customer("c")])
    (shell.folder / "move.toml").write_text('notify_url = "ftp://x"\n[customers]\nfiles = "c.json"\n')
    ended = shell("run", "move.toml")
    assert (ended.code, ended.problem) == (2, "notify-url-invalid")
