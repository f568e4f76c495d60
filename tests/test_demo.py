"""What the demo promises: it shows what happened, says loudly what is wrong, and leaves nothing behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import Books, Checkpoint
from streammig.cli import demo, main, rehearsal
from streammig.cli.rehearsal import Command, LocalTarget, differences
from streammig.records import STAGES, START, BatchState, Draft, Kind, Progress, Range, Receipt, Tally
from streammig.sandbox import SandboxConfig
from streammig.sandbox.sample import Part, Sample, Written, write_sample
from streammig.settings import load
from tests.commands import Shell

REWARD = "0b9f3a1e-51a7-4b43-8f6d-2f6f4c0e9a01"
SUMS = {
    "customers": {REWARD: Decimal("7.50")},
    "events": {"purchases": Decimal(30)},
    "transactions": {REWARD: Decimal(5)},
}
UNITS = {"customers": 3, "events": 4, "transactions": 2}
VERDICT = "The stand-in holds exactly what the run reports: nothing lost, nothing twice,\nno limit broken."


def written() -> Written:
    """Three customers, four events and two transactions, and one deleted customer."""
    return Written(4, 1, 0, 4, 0, 2, 1000, {stage: Part(2, UNITS[stage], SUMS[stage]) for stage in STAGES})


def books(**changed: Books) -> dict[str, Books]:
    """The books that go with it."""
    found = {stage: closed(Tally(2, UNITS[stage], SUMS[stage])) for stage in STAGES}
    left_out = Tally(1, 1)
    customers = closed(Tally(2, 3, SUMS["customers"]), filtered=left_out)
    return {**found, "customers": customers, **changed}


def closed(accepted: Tally, **others: Tally) -> Books:
    """Books that balance: all of this was read."""
    parts = {name: others.get(name, Tally()) for name in ("dead", "filtered", "unknown", "pending")}
    read = accepted
    for part in parts.values():
        read += part
    return Books(read=read, accepted=accepted, **parts)


def ledger() -> dict[str, Any]:
    """The ledger that goes with it, as far as it is looked at."""
    return {
        "holds": {
            "customers": {"count": 3, "landed": 3, "balances": {REWARD: "7.5"}},
            "events": {"owners": 2, "count": 4, "purchase_value": "30"},
            "transactions": {"owners": 2, "count": 2, "amounts": {REWARD: "5", "of-nothing": "0"}},
        },
        "twice": {stage: {"count": 0} for stage in STAGES},
        "dropped": {stage: {} for stage in STAGES},
        "violations": {"count": 0},
    }


def changed(value: Any, *path: str) -> dict[str, Any]:
    """The ledger with another value at a path."""
    found = inner = ledger()
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return found


def test_totals_that_agree_have_no_differences() -> None:
    assert differences(written(), books(), ledger()) == []


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        (4, ("holds", "customers", "landed"), "customers: 3 were accepted, 4 are held by the stand-in"),
        (3, ("holds", "events", "count"), "events: 4 were accepted, 3 are held by the stand-in"),
        (
            {REWARD: "4.99"},
            ("holds", "transactions", "amounts"),
            f"transactions: the sum of {REWARD} is 5 in the export, 5 in the books and 4.99 at the stand-in",
        ),
        (1, ("twice", "events", "count"), "events: 1 are there more than once"),
        (
            {"lost": {"units": 2}},
            ("dropped", "customers"),
            "customers: the stand-in accepted 2 and dropped them in its queue",
        ),
        (1, ("violations", "count"), "1 requests came earlier than the limits allow"),
    ],
)
def test_each_difference_in_the_ledger_is_named(value: Any, path: tuple[str, ...], words: str) -> None:
    assert differences(written(), books(), changed(value, *path)) == [words]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (closed(Tally(2, 3, SUMS["events"]), dead=Tally(0, 1)), "events: 4 were to be accepted, 3 were accepted"),
        (closed(Tally(2, 4, SUMS["events"]), dead=Tally(1, 1)), "events: 4 are in the export, 5 were read"),
        (
            closed(Tally(1, 3, SUMS["events"]), unknown=Tally(1, 1)),
            "events: the outcome of 1 is unknown, so they are not sent again",
        ),
        (
            Books(
                Tally(2, 4, SUMS["events"]), Tally(), Tally(2, 3, SUMS["events"]), Tally(), Tally(), Tally(), Tally()
            ),
            "events: the books of the run do not balance",
        ),
    ],
)
def test_each_difference_in_the_totals_is_named(events: Books, words: str) -> None:
    assert words in differences(written(), books(events=events), ledger())


def test_the_settings_that_are_shown_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / demo.MIGRATION
    path.write_text(demo.SETTINGS.format(url="http://127.0.0.1:1", limits=demo.LIMITS, settle_time=demo.SETTLE_TIME))
    settings = load(path, {})
    assert settings.stages == STAGES
    assert settings.checkpoint == str(tmp_path / demo.CHECKPOINT)
    assert settings.state_dir == str(tmp_path / "state")
    assert (settings.base_url, settings.limits, settings.settle_time) == ("http://127.0.0.1:1", demo.LIMITS, 1.0)


def test_the_sample_has_deleted_reversed_and_one_bad_customer_with_a_history(tmp_path: Path) -> None:
    found = write_sample(demo.sample(), tmp_path / "all.json")
    assert (found.deleted, found.bad) == (40, 1)
    assert found.reversed > 0
    assert found.events - found.reversed > found.good["events"].units
    assert found.transactions > found.good["transactions"].units


def test_commands_reach_the_target_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "elsewhere")
    found = rehearsal.environment("the key")
    assert (found["MASIVO_API_KEY"], found["NO_PROXY"], found["no_proxy"]) == ("the key", "127.0.0.1", "127.0.0.1")


def test_a_local_target_answers_and_ends_with_its_thread() -> None:
    before = threading.active_count()
    with LocalTarget(SandboxConfig()) as target:
        assert target.url.startswith("http://127.0.0.1:")
        assert target.ledger()["holds"]["customers"]["count"] == 0
    assert threading.active_count() == before


def test_a_local_target_that_can_not_start_says_why() -> None:
    with pytest.raises(ValueError, match="limits"), LocalTarget(SandboxConfig(limits="nonsense")):
        pass


# -- a machine that is lost --------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands that do nothing, for long."""
    program = tmp_path / "sleeper"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))


@contextmanager
def a_run(path: Path, batches: int) -> Iterator[Checkpoint]:
    """The checkpoint of a run with so many batches accepted and one under way."""
    file = Checkpoint.create(path, binding={}, version="0", started=0.0)
    file.add_stage("customers", 0, {}, [])
    for number in range(batches + 1):
        batch = file.seal("customers", Draft((Range(START, START),), Tally(1, 1), b"", b"%d" % number), Progress(), 0.0)
        attempt = file.sending(batch, 0.0)
        if number < batches:
            file.received(batch, attempt, Receipt(Kind.ACCEPTED), BatchState.ACCEPTED, 0.0)
    try:
        yield file
    finally:
        file.close()


def answer(file: Checkpoint) -> None:
    (batch,) = file.batches("customers", BatchState.SENDING)
    file.received(batch, 1, Receipt(Kind.ACCEPTED), BatchState.ACCEPTED, 0.0)


@pytest.mark.usefixtures("sleeper")
def test_a_machine_is_lost_only_while_no_request_is_under_way(tmp_path: Path) -> None:
    path = tmp_path / "it.checkpoint"
    with a_run(path, 2) as file, Command(tmp_path, os.environ, "run") as run:
        looks: list[int] = []

        def sending(checkpoint: Path) -> int:
            looks.append(len(file.batches("customers", BatchState.SENDING)))
            if len(looks) == 2:
                answer(file)
            return looks[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rehearsal, "_under_way", sending)
            assert run.lose(path, 2)
        assert looks == [1, 1, 0]


@pytest.mark.usefixtures("sleeper")
def test_after_its_patience_the_demo_kills_a_run_with_a_request_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "PATIENCE", 0.0)
    path = tmp_path / "it.checkpoint"
    with a_run(path, 1) as file, Command(tmp_path, os.environ, "run") as run:
        assert run.lose(path, 1)
        assert len(file.batches("customers", BatchState.SENDING)) == 1


@pytest.mark.usefixtures("sleeper")
def test_a_run_that_ends_by_itself_is_not_lost(tmp_path: Path) -> None:
    with Command(tmp_path, os.environ, "run") as run:
        run._process.kill()
        assert not run.lose(tmp_path / "never.checkpoint", 1)
    path = tmp_path / "it.checkpoint"
    with a_run(path, 1), Command(tmp_path, os.environ, "run") as run:
        run._process.kill()
        run.wait()
        assert not run.lose(path, 1)


@pytest.mark.usefixtures("sleeper")
def test_a_command_is_killed_when_its_block_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Command(tmp_path, os.environ, "run") as run:
        raise KeyboardInterrupt
    assert run.wait() == -signal.SIGKILL


def test_a_file_that_is_no_checkpoint_counts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "it.checkpoint"
    path.write_bytes(b"")
    assert rehearsal._accepted(path) == 0


# -- the story, with commands in this process --------------------------------------------------------------------------


class InProcess:
    """Plays the part of `Command`: runs it here, and is lost before it has done anything."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *arguments: str) -> None:
        self._folder, self._environment, self._arguments = folder, environment, arguments

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def lose(self, checkpoint: Path, batches: int) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["streammig", *self._arguments, "--first", "1"])
            return self._call(patch) == 10

    def wait(self) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["streammig", *self._arguments])
            return self._call(patch)

    def _call(self, patch: pytest.MonkeyPatch) -> int:
        patch.chdir(self._folder)
        patch.setenv("MASIVO_API_KEY", self._environment["MASIVO_API_KEY"])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo in this process that waits for nothing."""
    monkeypatch.setattr(rehearsal, "Command", InProcess)
    monkeypatch.setattr(demo, "LIMITS", "off")
    monkeypatch.setattr(demo, "LATENCY", 0.0)
    monkeypatch.setattr(demo, "QUEUE_DELAY", "0")
    monkeypatch.setattr(demo, "SETTLE_TIME", 0.0)
    few = Sample(60, deleted=0.1, bad=1 / 60, reversed=0.1)
    monkeypatch.setattr(demo, "sample", lambda: few)


@pytest.mark.usefixtures("quick")
def test_the_demo_tells_what_it_does_and_ends_well(tmp_path: Path, shell: Shell) -> None:
    ended = shell("demo", "--keep", tmp_path / "kept")
    assert ended.code == 0, ended.out
    for words in (
        "1. An export",
        "streammig run MIGRATION.toml",
        "streammig status",
        "streammig dead-letters",
        VERDICT,
    ):
        assert words in ended.out
    assert "\x1b" not in ended.out
    own = ended.out.replace(str(tmp_path), "")
    assert [it for it in own.splitlines() if len(it) > 80 and "0.1" not in it] == []
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {*demo.FILES.values(), demo.MIGRATION, demo.CHECKPOINT, demo.LETTERS} <= kept


@pytest.mark.usefixtures("quick")
def test_a_stand_in_that_loses_a_record_makes_the_demo_fail_loudly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lose = {"on": "transactions", "nth": 2, "do": "lose", "records": [3]}
    assert not demo.demonstrate(tmp_path, script=[lose])
    told = capsys.readouterr().out
    assert "THIS IS NOT AS IT SHOULD BE" in told
    assert "dropped them in its queue" in told
    assert VERDICT not in told


@pytest.mark.usefixtures("quick")
def test_a_run_that_can_not_be_interrupted_makes_the_demo_fail(
    tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InProcess, "lose", lambda *_: False)
    ended = shell("demo", "--keep", tmp_path / "kept")
    assert ended.code == 1
    assert "the run ended before it could be interrupted" in ended.out


@pytest.mark.usefixtures("quick")
def test_a_run_that_ends_badly_makes_the_demo_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = InProcess.wait
    monkeypatch.setattr(InProcess, "wait", lambda self: 5 if whole(self) == 3 else 0)
    assert not demo.demonstrate(tmp_path)
    assert "the run ended with exit code 5" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_ctrl_c_leaves_no_folder(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = tmp_path / "places"
    places.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places))

    def interrupted(*_: object) -> bool:
        assert len(list(places.iterdir())) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(InProcess, "lose", interrupted)
    ended = shell("demo")
    assert ended.code == 130
    assert "every process of the demo is ended" in ended.out
    assert not list(places.iterdir())


def test_a_folder_that_holds_something_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").touch()
    ended = shell("demo", "--keep", tmp_path / "kept")
    assert ended.code == 2
    assert "not empty" in ended.err
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["mine"]


def test_a_folder_that_can_not_be_made_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = shell("demo", "--keep", tmp_path / "file" / "kept")
    assert ended.code == 2
    assert "can be made" in ended.err


def test_headings_are_plain_where_colours_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" in demo._styled("heading")
    monkeypatch.setenv("NO_COLOR", "1")
    assert demo._styled("heading", fg="red") == "heading"


def test_the_cursor_is_brought_back_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo._tidy()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    demo._tidy()
    assert "\x1b[?25h" in capsys.readouterr().out


# -- as a process ------------------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "streammig", "demo"]


def nobody_is_left(group: int) -> bool:
    """Whether every process of a group has ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def a_demo(places: Path, command: list[str] = COMMAND, **how: Any) -> subprocess.Popen[bytes]:
    """A demo in a process group of its own, whose temporary files lie in `places`."""
    places.mkdir()
    own = {**deepcopy(dict(os.environ)), "TMPDIR": str(places), "HOME": str(places)}
    return subprocess.Popen(command, env=own, start_new_session=True, **how)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_demo_leaves_no_process_and_no_file_behind(tmp_path: Path) -> None:
    places = tmp_path / "places"
    with a_demo(places, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        out, err = running.communicate(timeout=120)
    told = out.decode()
    assert running.returncode == 0, told
    assert VERDICT in told
    assert "interrupted" in told.split("4. Half-way")[1].split("5. The same")[0]
    assert "\x1b" not in told
    assert err == b""
    assert nobody_is_left(running.pid)
    assert not list(places.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_on_a_terminal_the_demo_shows_bars_and_a_difference_ends_it_with_1(tmp_path: Path) -> None:
    lose = [{"on": "transactions", "nth": 2, "do": "lose", "records": [3]}]
    program = f"""
import functools, streammig.cli.demo as demo
demo.demonstrate = functools.partial(demo.demonstrate, script={lose!r})
demo.command()
"""
    leader, follower = pty.openpty()
    with a_demo(
        tmp_path / "places", [sys.executable, "-c", program], stdin=follower, stdout=follower, stderr=follower
    ) as running:
        os.close(follower)
        told = b"".join(read_all(leader)).decode()
    assert running.returncode == 1, told
    assert "THIS IS NOT AS IT SHOULD BE" in told
    assert "━" in told
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")
    assert nobody_is_left(running.pid)
    assert not list((tmp_path / "places").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_process_and_no_file_behind(tmp_path: Path, number: signal.Signals) -> None:
    places = tmp_path / "places"
    with a_demo(places, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith(b"customers: starting"):
                break
        running.send_signal(number)
        running.communicate(timeout=60)
    assert running.returncode == 130
    assert nobody_is_left(running.pid)
    assert not list(places.iterdir())


def read_all(descriptor: int) -> Iterator[bytes]:
    """What is said on a terminal until nobody has it open any more."""
    with os.fdopen(descriptor, "rb", buffering=0) as terminal:
        while True:
            try:
                found = terminal.read(65536)
            except OSError:  # Linux ends a terminal with an error, others with nothing
                return
            if not found:
                return
            yield found
