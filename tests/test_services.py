"""A service manager is told how a run is, and starts again just what may go on without a person."""

from __future__ import annotations

import configparser
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from streammig.cli.runtime import Service
from streammig.settings import Settings
from streammig.telemetry import ignore
from tests import manual
from tests.commands import Shell, process, sandbox, until, write
from tests.manual import GUIDE
from tests.sandbox_caller import customer

PAGE = GUIDE / "services.md"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.settimeout(30)
        yield found


def heard(manager: socket.socket, what: str) -> list[str]:
    """What the manager hears up to a word, as lines."""
    lines: list[str] = []
    while not any(line.startswith(what) for line in lines):
        lines += manager.recv(4096).decode().splitlines()
    return lines


@pytest.mark.slow
def test_a_run_is_ready_alive_and_stopping_and_drains_on_sigterm(shell: Shell, manager: socket.socket) -> None:
    write(shell.folder / "c.json", [customer(f"c-{number}") for number in range(3_000)])
    address = str(shell.folder / "notify")
    with sandbox() as target:
        called = ["run", "--base-url", target.url, "--limits", "1/60s", "--settle-time", "0.1", "--customers", "c.json"]
        with process(shell.folder, *called, NOTIFY_SOCKET=address, WATCHDOG_USEC="300000") as run:
            assert "READY=1" in heard(manager, "READY=1")
            assert "WATCHDOG=1" in heard(manager, "STATUS=customers: ")  # which a watchdog of 0.3 s gets in time
            until(lambda: (shell.folder / "migration.checkpoint").exists(), "the run has begun")
            run.send_signal(signal.SIGTERM)
            said = heard(manager, "STOPPING=1")
            run.communicate(timeout=60)
        assert run.returncode == 130
    (longer,) = [line for line in said if line.startswith("EXTEND_TIMEOUT_USEC=")]
    assert int(longer.partition("=")[2]) >= Settings().drain_time * 1e6


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@streammig-nobody"])
def test_a_manager_that_is_not_there_changes_nothing_and_no_child_may_speak_for_the_run(address: str) -> None:
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "nonsense", "WATCHDOG_PID": "1"}
    service = Service(environment, ignore)
    service._tell("READY=1")
    service.close()
    assert environment == {}


def restarts() -> dict[str, bool]:
    rows = manual.table(PAGE, "exit code", "again", "why")
    return {code: again == "yes" for code, again, _ in rows}


def test_the_unit_and_the_job_start_again_what_the_page_says_and_leave_time_to_drain() -> None:
    said = restarts()
    every = {row[0] for row in manual.table(GUIDE / "exit-codes.md", "code", "means", "then")}
    assert set(said) - {"killed by a signal"} == every
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    unit.read_string((GUIDE / "streammig.service").read_text())
    service = unit["Service"]
    stay = set(service["RestartPreventExitStatus"].split()) | set(service["SuccessExitStatus"].split()) | {"0"}
    assert stay == {code for code, again in said.items() if not again}
    assert service["Restart"] == "on-failure"
    volume, job = yaml.safe_load_all((GUIDE / "streammig-job.yaml").read_text())
    fails = [it for it in job["spec"]["podFailurePolicy"]["rules"] if it["action"] == "FailJob"]
    values = {str(code) for it in fails for code in it["onExitCodes"]["values"]}
    assert values == stay - {"0", "130"}  # a pod that is moved is stopped, and another one goes on
    pod = job["spec"]["template"]["spec"]
    assert [it["persistentVolumeClaim"]["claimName"] for it in pod["volumes"]] == [volume["metadata"]["name"]]
    assert Settings().drain_time < min(int(service["TimeoutStopSec"]), pod["terminationGracePeriodSeconds"])
