"""The demo shows what happened, says loudly what is wrong, and leaves nothing behind."""

from __future__ import annotations

import functools
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint, Totals
from streammig.cli import demo, main
from streammig.model import START, BatchState, Kind, Progress, Range, Receipt, Tally
from streammig.sandbox import SandboxConfig
from streammig.sandbox.local import LocalTarget
from streammig.sandbox.sample import Part, Sample, Written
from streammig.stages import STAGES
from tests.commands import Shell
from tests.drafts import made

REWARD = "0b9f3a1e-51a7-4b43-8f6d-2f6f4c0e9a01"
UNITS = {"customers": 3, "events": 4, "transactions": 2}
SUMS = {
    "customers": {REWARD: Decimal("7.50")}, "events": {"purchases": Decimal(30)}, "transactions": {REWARD: Decimal(5)}
}  # fmt: skip
VERDICT = "The stand-in holds exactly what the run reports"
LOSE = [{"on": "transactions", "nth": 2, "do": "lose", "records": [3]}]

WRITTEN = Written(4, 1, 0, 4, 0, 2, 1000, {stage: Part(2, UNITS[stage], SUMS[stage]) for stage in STAGES})


def totals(accepted: Tally, **others: Tally) -> Totals:
    """Totals that add up: all of this was read."""
    parts = {name: others.get(name, Tally()) for name in ("dead", "filtered", "unknown", "pending")}
    return Totals(read=sum(parts.values(), accepted), accepted=accepted, **parts)


def of_all(**changed: Totals) -> dict[str, Totals]:
    found = {stage: totals(Tally(2, UNITS[stage], SUMS[stage])) for stage in STAGES}
    found["customers"] = totals(Tally(2, 3, SUMS["customers"]), filtered=Tally(1, 1))
    return {**found, **changed}


def ledger(value: Any = None, *path: str) -> dict[str, Any]:
    """The ledger that goes with them, with another value at a path."""
    found: dict[str, Any] = {
        "holds": {
            "customers": {"count": 3, "landed": 3, "balances": {REWARD: "7.5"}},
            "events": {"owners": 2, "count": 4, "purchase_value": "30"},
            "transactions": {"owners": 2, "count": 2, "amounts": {REWARD: "5", "of-nothing": "0"}},
        },
        "twice": {stage: {"count": 0} for stage in STAGES},
        "dropped": {stage: {} for stage in STAGES},
        "violations": {"count": 0},
    }
    inner = found
    for name in path[:-1]:
        inner = inner[name]
    if path:
        inner[path[-1]] = value
    return found


def test_totals_that_agree_have_no_differences() -> None:
    assert demo.differences(WRITTEN, of_all(), ledger()) == []


@pytest.mark.parametrize(
    ("value", "path", "said"),
    [
        (4, ("holds", "customers", "landed"), "customers: 3 were accepted, 4 are held"),
        (3, ("holds", "events", "count"), "events: 4 were accepted, 3 are held"),
        ({REWARD: "4.99"}, ("holds", "transactions", "amounts"), "transactions: the sums in export, run and stand-in"),
        (1, ("twice", "events", "count"), "events: 1 are there more than once"),
        ({"lost": {"units": 2}}, ("dropped", "customers"), "customers: 2 were accepted, and dropped"),
        (1, ("violations", "count"), "requests that came earlier than the limits allow: 1"),
    ],
)
def test_each_difference_in_the_ledger_is_named(value: Any, path: tuple[str, ...], said: str) -> None:
    (difference,) = demo.differences(WRITTEN, of_all(), ledger(value, *path))
    assert difference.startswith(said)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (totals(Tally(2, 3, SUMS["events"]), dead=Tally(0, 1)), "events: 4 are good, 3 were accepted"),
        (totals(Tally(2, 4, SUMS["events"]), dead=Tally(1, 1)), "events: 4 are in the export, 5 were read"),
        (totals(Tally(1, 3, SUMS["events"]), unknown=Tally(1, 1)), "events: 1 have an unknown outcome"),
        (replace(totals(Tally(2, 3, SUMS["events"])), read=Tally(2, 4)), "events: the totals of the run do not add up"),
    ],
)
def test_each_difference_in_the_totals_is_named(events: Totals, said: str) -> None:
    assert said in demo.differences(WRITTEN, of_all(events=events), ledger())


def test_a_local_target_answers_and_ends_with_its_thread() -> None:
    before = threading.active_count()
    with LocalTarget(SandboxConfig()) as target:
        assert target.ledger()["holds"]["customers"]["count"] == 0
    with pytest.raises(ValueError, match="limits"), LocalTarget(SandboxConfig(limits="nonsense")):
        pass
    assert threading.active_count() == before


def test_a_machine_is_lost_only_while_no_request_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.checkpoint"
    assert demo.count(path, BatchState.ACCEPTED) == 0
    file = Checkpoint.create(path, binding={}, version="0", started=0.0)
    file.add_stage("customers", 0, {}, [])
    drafts = [made([Range(START, START)], Tally(1, 1), b"%d" % it) for it in range(2)]
    sealed = [file.seal("customers", draft, Progress(), 0.0) for draft in drafts]
    attempts = [file.sending(batch, 0.0) for batch in sealed]
    file.received(sealed[0], attempts[0], Receipt(Kind.ACCEPTED), BatchState.ACCEPTED, 0.0)
    looks: list[int] = []

    def count(checkpoint: Path, state: BatchState) -> int:
        found = real(checkpoint, state)
        looks.append(found)
        if len(looks) == 2:
            file.received(sealed[1], attempts[1], Receipt(Kind.ACCEPTED), BatchState.ACCEPTED, 0.0)
        return found

    real = demo.count
    monkeypatch.setattr(demo, "count", count)
    with subprocess.Popen(["sleep", "60"]) as run:
        assert demo.lose(run, path, 1)
    assert looks == [1, 1, 2, 0]  # accepted, under way; accepted, under way
    assert run.returncode == -signal.SIGKILL
    assert not demo.lose(run, path, 1)  # it has ended before
    file.close()


# -- the story, with commands in this process --------------------------------------------------------------------------


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A demo in this process that waits for nothing; the exit codes of its commands, where they are to be others."""
    other: dict[str, int] = {}

    def called(folder: Path, *arguments: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["streammig", *arguments])
            patch.chdir(folder)
            patch.setenv("MASIVO_API_KEY", demo.KEY)
            with pytest.raises(SystemExit) as ended:
                main()
        return other.get("pilot" if "--first" in arguments else arguments[0], int(ended.value.code or 0))

    for name, value in (("LIMITS", "off"), ("LATENCY", 0.0), ("QUEUE_DELAY", "0"), ("SETTLE_TIME", 0.0)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "SAMPLE", Sample(60, deleted=0.1, bad=1 / 60, reversed=0.1))
    monkeypatch.setattr(demo, "called", called)
    monkeypatch.setattr(demo, "lose", lambda run, *_: called(run.args[-1], "run", demo.MIGRATION, "--first", "1") == 10)
    monkeypatch.setattr(demo, "started", lambda folder, *_: subprocess.Popen(["true", folder]))
    return other


@pytest.mark.usefixtures("codes")
def test_the_demo_tells_what_it_does_and_ends_well(tmp_path: Path, shell: Shell) -> None:
    ended = shell("demo", "--keep", tmp_path / "kept")
    assert ended.code == 0, ended.out
    assert VERDICT in ended.out
    assert "\x1b" not in ended.out
    assert [it for it in ended.out.replace(str(tmp_path), "").splitlines() if len(it) > 80] == []
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {*demo.FILES.values(), demo.MIGRATION, demo.CHECKPOINT, demo.LETTERS} <= kept


@pytest.mark.parametrize(
    ("code", "script", "said"),
    [(3, LOSE, "dropped by the queue"), (5, [], "exit code 5"), (2, [], "before it could be interrupted")],
)
def test_what_goes_wrong_makes_the_demo_fail_loudly(
    shell: Shell, codes: dict[str, int], monkeypatch: pytest.MonkeyPatch, code: int, script: Any, said: str
) -> None:
    codes.update({"run": code, "pilot": 2 if code == 2 else 10})
    monkeypatch.setattr(demo, "demonstrate", functools.partial(demo.demonstrate, script=script))
    ended = shell("demo")
    assert ended.code == 1
    assert "THIS IS NOT AS IT SHOULD BE" in ended.out
    assert said in ended.out
    assert VERDICT not in ended.out


@pytest.mark.parametrize(("name", "code"), [("full", "folder-not-empty"), ("full/mine/kept", "folder-unusable")])
def test_a_folder_that_can_not_be_used_is_refused_and_left_alone(
    shell: Shell, tmp_path: Path, name: str, code: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    ended = shell("demo", "--keep", tmp_path / name)
    assert (ended.code, ended.problem) == (2, code)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


# -- as a process ------------------------------------------------------------------------------------------------------


def a_demo(places: Path, **how: Any) -> subprocess.Popen[bytes]:
    """A demo in a process group of its own, whose temporary files lie in `places`."""
    places.mkdir()
    own = {**os.environ, "TMPDIR": str(places), "HOME": str(places)}
    return subprocess.Popen([sys.executable, "-m", "streammig", "demo"], env=own, start_new_session=True, **how)


def nothing_is_left(running: subprocess.Popen[bytes], places: Path) -> bool:
    """Whether every process of its group has ended, and every file is gone."""
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)
    return not list(places.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_on_a_terminal_the_demo_shows_bars_and_leaves_no_process_and_no_file_behind(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    with a_demo(tmp_path / "places", stdin=follower, stdout=follower, stderr=follower) as running:
        os.close(follower)
        told = b"".join(read_all(leader)).decode()
    assert running.returncode == 0, told
    assert VERDICT in told
    assert "interrupted" in told.split("4. Half-way")[1].split("5. The same")[0]
    assert "━" in told
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")  # the cursor is back
    assert nothing_is_left(running, tmp_path / "places")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_process_and_no_file_behind(tmp_path: Path, number: signal.Signals) -> None:
    with a_demo(tmp_path / "places", stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        next(line for line in running.stdout if b"customers: starting" in line)
        running.send_signal(number)
        running.communicate(timeout=60)
    assert running.returncode == 130
    assert nothing_is_left(running, tmp_path / "places")


def read_all(descriptor: int) -> Iterator[bytes]:
    """Everything that is said on a terminal until it is closed."""
    with os.fdopen(descriptor, "rb", buffering=0) as terminal:
        try:
            while found := terminal.read(65536):
                yield found
        except OSError:  # Linux ends a terminal with an error, others with nothing
            return
