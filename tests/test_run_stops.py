"""Runs that are stopped: by a signal, by SIGKILL, by a target that slows them down; the same command goes on."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.cli.exit import Ended, exit_code
from streammig.sandbox.local import LocalTarget
from streammig.sandbox.sample import Sample, write_sample
from tests.commands import Called, Shell, environment, finished, process, quickly, sandbox, states, until, write
from tests.sandbox_caller import customer
from tests.shares import share

CUSTOMERS = 400
COMMAND = ["run", "--customers", "export.json#customers", "--max-bytes", 10_000]  # some 70 batches


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write(tmp_path / "export.json", [customer(f"c{number}", country="x" * 90) for number in range(CUSTOMERS)])


def accepted(folder: Path) -> int:
    return states(folder / "migration.checkpoint").get("customers", []).count("accepted")


def under_way(folder: Path, target: LocalTarget) -> bool:
    """Whether the third request has reached the target, which does not answer it, and nothing else is under way."""
    found = states(folder / "migration.checkpoint").get("customers", [])
    arrived = target._sandbox._running().script._seen["customers"]
    return found.count("accepted") == 2 and "sending" in found and arrived == 3


def whole(target: LocalTarget, ended: Called) -> None:
    """Nothing twice; and nothing missing but a batch that a slow machine could not prove in so short a settle time."""
    held = landed(target)
    assert held["count"] == held["landed"]
    if ended.code == 4:
        assert "parked for you to decide" in ended.err
        assert held["count"] == CUSTOMERS - ended.document["stages"]["customers"]["unknown"]
    else:
        assert ended.code == 0, ended.err
        assert held["count"] == CUSTOMERS


def landed(target: LocalTarget) -> Mapping[str, Any]:
    found: Mapping[str, Any] = target.ledger()["holds"]["customers"]
    return found


SLOW_THIRD = {"on": "customers", "nth": 3, "do": "slow", "seconds": 2}
SILENT_THIRD = {"on": "customers", "nth": 3, "do": "hang", "seconds": 60}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_lets_requests_under_way_end_and_makes_no_new_one(
    tmp_path: Path, export: Path, number: signal.Signals
) -> None:
    with sandbox(SLOW_THIRD) as target:
        with process(tmp_path, *COMMAND, "--concurrency", 1, *quickly(target.url)) as running:
            until(lambda: under_way(tmp_path, target), "the third request")
            running.send_signal(number)
            _, err = running.communicate(timeout=20)
        assert running.returncode == 130, err
        assert "stopping: requests under way may end" in err
        assert "To go on: streammig run --customers" in " ".join(err.split())
        assert accepted(tmp_path) == 3
        assert "sending" not in states(tmp_path / "migration.checkpoint")["customers"]
        assert target.ledger()["requests"]["customers"] == {"201": 3}
        assert finished(tmp_path, *COMMAND, *quickly(target.url)).code == 0
        assert (landed(target)["count"], landed(target)["landed"]) == (CUSTOMERS, CUSTOMERS)


def in_terminal(number: int, nohup: bool) -> None:
    """For a child about to begin: make this terminal its own."""
    fcntl.ioctl(number, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_ends_a_run_in_order_unless_it_was_begun_with_nohup(
    tmp_path: Path, export: Path, nohup: bool
) -> None:
    with sandbox(SLOW_THIRD) as target:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "streammig", *map(str, COMMAND), "--concurrency", "1", *quickly(target.url)]
        with (
            (tmp_path / "out").open("wb") as out,
            subprocess.Popen(
                command, cwd=tmp_path, env=environment(tmp_path, TERM="xterm"), stdin=theirs, stdout=out,
                stderr=out if nohup else theirs, start_new_session=True, preexec_fn=partial(in_terminal, theirs, nohup),
            ) as running,
        ):  # fmt: skip
            os.close(theirs)
            until(lambda: under_way(tmp_path, target), "the third request")
            os.close(ours)
            if not nohup:
                running.send_signal(signal.SIGHUP)  # by the shell, once more
            running.wait(20)
        assert running.returncode == (0 if nohup else 130), (tmp_path / "out").read_text()
        assert accepted(tmp_path) == (len(states(tmp_path / "migration.checkpoint")["customers"]) if nohup else 3)
        assert "sending" not in states(tmp_path / "migration.checkpoint")["customers"]


def test_the_second_signal_cuts_off_what_is_under_way_and_its_outcome_is_unknown(
    tmp_path: Path, shell: Shell, export: Path
) -> None:
    with sandbox(SILENT_THIRD) as target:
        with process(tmp_path, *COMMAND, "--concurrency", 1, *quickly(target.url)) as running:
            until(lambda: under_way(tmp_path, target), "the third request")
            running.send_signal(signal.SIGINT)
            until(lambda: "stopping" in (running.stderr.readline() if running.stderr else ""), "the word of the first")
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=20)
        assert running.returncode == 130
        assert states(tmp_path / "migration.checkpoint")["customers"].count("sending") == 1
        status = shell("status", "migration.checkpoint", "--json").document
        found = status["stages"]["customers"]
        assert found["sending"] > found["unknown"] == 0
        parts = ("accepted", "dead", "filtered", "unknown", "sending", "pending")
        assert found["read"] == sum(found[part] for part in parts)
        assert status["undecided"][0]["state"] == "sending"
        words = shell("status", "migration.checkpoint").out
        assert "customers: records under way when the run was cut off, to be read back: " in words
        again = shell(*COMMAND, *quickly(target.url), "--json")
        assert "the last run ended while it was sending: the outcome is unknown for batch 3 of customers" in again.err
        whole(target, again)


def test_a_drain_has_a_deadline(tmp_path: Path, export: Path) -> None:
    (tmp_path / "migration.toml").write_text("drain_time = 0.2\n")
    with sandbox(SILENT_THIRD) as target:
        arguments = ["run", "migration.toml", *COMMAND[1:], "--concurrency", 1, *quickly(target.url)]
        with process(tmp_path, *arguments) as running:
            until(lambda: under_way(tmp_path, target), "the third request")
            running.send_signal(signal.SIGTERM)
            running.communicate(timeout=20)
        assert running.returncode == 130
        assert states(tmp_path / "migration.checkpoint")["customers"].count("sending") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_first_token_is_fetched_ends_the_command_at_once(
    tmp_path: Path, export: Path, number: signal.Signals
) -> None:
    silent = {"on": "auth", "do": "hang", "seconds": 60}
    with sandbox(silent) as target, process(tmp_path, *COMMAND, *quickly(target.url)) as running:
        until(lambda: target._sandbox._running().script._seen["auth"], "the request for a token")
        running.send_signal(number)
        _, err = running.communicate(timeout=20)
    assert running.returncode == 130, err
    assert "stopped before anything was done" in err
    assert not (tmp_path / "migration.checkpoint").exists()


def ended_by(folder: Path, number: signal.Signals, seconds: float, *arguments: object) -> Called:
    with process(folder, *arguments) as running:
        time.sleep(seconds)
        running.send_signal(number)
        out, err = running.communicate(timeout=20)
        return Called(running.returncode, out, err)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_the_process_ends_it_in_order(
    tmp_path: Path, export: Path, number: signal.Signals
) -> None:
    with sandbox() as target:
        for tenth in range(2, 15):
            ended = ended_by(tmp_path, number, tenth / 10, *COMMAND, *quickly(target.url))
            assert ended.code in (0, 130), f"after {tenth / 10} s: {ended.err}"
            assert "Traceback" not in ended.err
        assert finished(tmp_path, *COMMAND, *quickly(target.url)).code == 0
        assert (landed(target)["count"], landed(target)["landed"]) == (CUSTOMERS, CUSTOMERS)


def test_a_run_that_is_stopped_says_so_though_batches_are_undecided() -> None:
    found = {"balanced": True, "state": "complete", "stages": {"customers": {"unknown": 10, "dead": 1}}}
    assert exit_code(found, Ended(False)) == 130
    assert exit_code(found, Ended(True)) == 4


# -- SIGKILL -------------------------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path, *arguments: object) -> Iterator[str]:
    """A sandbox in a process of its own; its URL."""
    with process(folder, "sandbox", "--port", 0, *arguments) as running:
        assert running.stdout is not None
        yield running.stdout.readline().split()[3]


def ledger_of(url: str) -> dict[str, Any]:
    urllib.request.urlopen(f"{url}/_sandbox/drain").close()
    with urllib.request.urlopen(f"{url}/_sandbox/ledger") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def killed_until_done(folder: Path, times: int, seed: int) -> None:
    """Run the real command, kill it so many times at random moments, let it finish, and compare."""
    dice = Random(seed)
    sample = Sample(1500, events=2, transactions=2, size=400, deleted=0.01, seed=seed)
    written = write_sample(sample, folder / "export.json")
    command = ["run", *(f"--{name}=export.json#customers" for name in written.good), "--max-bytes", 12_000]
    checkpoint = folder / "migration.checkpoint"
    with served(folder, "--limits", "off", "--latency", "0.005-0.03", "--queue-delay", "0-0.05") as url:
        kills = begun = 0
        while kills < times:
            with process(folder, *command, *quickly(url)) as running:
                if dice.random() < 0.8:
                    # Most moments of a process are spent starting up: wait until it is at work.
                    until(partial(at_work, running, checkpoint, begun), "a sign of work")
                time.sleep(dice.uniform(0, 0.25 if times < 10 else 0.6))
                running.kill()
                running.communicate()
            if running.returncode != -signal.SIGKILL:
                break
            kills += 1
            begun = size(checkpoint)
        assert kills == times or running.returncode in (0, 4), f"seed {seed}: ended after {kills} kills"
        ended = finished(folder, *command, *quickly(url), "--json")
        compare(folder, ended, ledger_of(url), written, seed)


def size(path: Path) -> int:
    """How many batches were ever sent, as a sign of work."""
    return sum(state != "sealed" for found in states(path).values() for state in found)


def at_work(running: subprocess.Popen[str], path: Path, before: int) -> bool:
    """Whether it has sent something since then, or ended."""
    return running.poll() is not None or size(path) > before


def compare(folder: Path, ended: Called, ledger: Mapping[str, Any], written: Any, seed: int) -> None:
    assert ended.code in (0, 4), f"seed {seed}: {ended.err}"
    document = ended.document
    assert document["balanced"]
    for name, good in written.good.items():
        assert ledger["twice"][name]["count"] == 0, f"seed {seed}: {name} came twice"
        found = document["stages"].get(name)
        if found is None:
            assert ended.code == 4  # the run stopped at an earlier stage, and says so
            continue
        there = ledger["holds"][name]["count"] + sum(of["units"] for of in ledger["dropped"][name].values())
        if ended.code == 0:
            assert there == good.units == found["units"], f"seed {seed}: {name}"
        else:
            doubted = found["unknown"] + found["sending"] + found["pending"]
            assert found["units"] <= there, f"seed {seed}: {name} lost"
            assert there == found["units"] or doubted, f"seed {seed}: {name} holds what nobody knows of"
    if ended.code == 4:
        assert ended.problem in ("outcome-unknown", "too-many-parked")  # a batch of events a kill


@pytest.mark.timeout(120)
def test_i3_i4_the_command_killed_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    killed_until_done(tmp_path, 3, seed=11)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(share(10)))
def test_i3_i4_the_command_killed_a_hundred_times_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    killed_until_done(tmp_path, 10, seed)


def test_a_run_from_standard_input_goes_on_after_a_kill(tmp_path: Path, export: Path) -> None:
    with sandbox(SILENT_THIRD) as target:
        command = [sys.executable, "-m", "streammig", *map(str, COMMAND), "--concurrency", "1", *quickly(target.url)]
        command[command.index("export.json#customers")] = "-"
        with export.open("rb") as piped:
            running = subprocess.Popen(
                command, cwd=tmp_path, env=environment(tmp_path), stdin=piped, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        until(lambda: under_way(tmp_path, target), "the third request")
        running.kill()
        running.wait()
        again = finished(tmp_path, *command[3:], "--json")  # with nothing on its standard input
        whole(target, again)
        assert (tmp_path / "migration.checkpoint.stdin").exists() == (again.code != 0)


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_i7_500_requests_go_through_a_target_that_enforces_just_those_limits_without_a_429(tmp_path: Path) -> None:
    limits = "1/0.05s,2000/100s"
    # Some 9 customers of about 1 KB to a request.
    write_sample(Sample(4700, size=1000, seed=1), {"customers": tmp_path / "export.json"})
    with served(tmp_path, "--limits", limits) as url:
        ended = finished(
            tmp_path, "run", "--customers=export.json#customers", "--base-url", url, "--limits", limits,
            "--max-bytes", 10_000, "--settle-time", 1, "--verify-sample", 0, "--json",
        )  # fmt: skip
        ledger = ledger_of(url)
    assert ended.code == 0, ended.err
    requests = ledger["requests"]["customers"]
    assert requests["201"] >= 500
    assert requests == {"201": requests["201"]}
    assert ledger["violations"]["count"] == 0


def test_a_signal_that_comes_within_a_finalizer_stops_the_process_too(tmp_path: Path) -> None:
    lines = """
import os, signal, sys, types, weakref
from streammig.__main__ import main
class Thing: ...
def cli():
    thing = Thing()
    kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    signal.pause()
sys.modules["streammig.cli"] = types.SimpleNamespace(main=cli)
main()
"""
    ended = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (130, b"")
