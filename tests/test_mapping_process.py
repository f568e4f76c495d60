"""A mapping is the user's code: what it prints, raises or ends never spoils the output or the exit code of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import pytest

from streammig.migration import Migration
from streammig.sandbox.store import Store
from tests.commands import PATIENCE, Shell, environment, write
from tests.sandbox_caller import customer

ENDS = [
    ("", "raise SystemExit(0)"),
    ("import sys\n", "sys.exit(0)"),
    ("import os\n", "os._exit(0)"),
    ("from os import _exit\n", "_exit(0)"),
    ("import os\n", "os.execl('/bin/true', 'true')"),
]
GOOD = "def f(record):\n    print('debug of a mapping')\n    return record\n"


def mapped(shell: Shell, source: str, *arguments: str) -> list[str]:
    (shell.folder / "maps_of_mine.py").write_text(source)
    write(shell.folder / "c.json", [customer("c-1"), customer("c-2")])
    return ["run", "--customers", "c.json", "--map", "customers=maps_of_mine:f", "--dry-run", "look", *arguments]


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    sys.modules.pop("maps_of_mine", None)


def test_what_a_mapping_prints_goes_to_stderr_and_the_document_stays_whole(shell: Shell) -> None:
    ended = shell(*mapped(shell, "print('import of a mapping')\n" + GOOD, "--json"))
    assert (ended.code, ended.document["state"]) == (0, "complete")
    assert "debug of a mapping" in ended.err
    assert "import of a mapping" in ended.err


@pytest.mark.parametrize(
    ("source", "code", "problem"),
    [
        ("import sys\nsys.exit(0)\n", 2, "map-not-importable"),
        ("import os\nos._exit(0)\n", 2, "map-not-importable"),
        ("import os\nos.kill(os.getpid(), 9)\n", 2, "map-not-importable"),
        ("import os\nraise ValueError(dict(os.environ))\n", 2, "map-not-importable"),
        ("def f(record):\n    raise ValueError\n", 3, None),
        *((f"{header}def f(record):\n    {end}\n", 2, "map-ended") for header, end in ENDS),
    ],
)
def test_a_mapping_that_ends_or_raises_never_ends_a_run_with_0_and_shows_no_environment(
    shell: Shell, source: str, code: int, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "never-to-be-shown")
    ended = shell(*mapped(shell, source, "--json"))
    assert (ended.code, ended.problem) == (code, problem), ended.err
    assert "never-to-be-shown" not in ended.out + ended.err


@pytest.mark.slow
@pytest.mark.parametrize(("header", "end"), ENDS)
def test_a_mapping_that_ends_the_reader_process_ends_the_run_with_2_and_one_that_forks_may_end_its_own(
    shell: Shell, header: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Migration, "__init__", partialmethod(Migration.__init__, reader_process_bytes=0))
    fork = "if not os.fork():\n        os._exit(0)\n    os.wait()"
    source = f"{header}import os\ndef f(record):\n    {fork}\n    if record['id'] == 'c-2':\n        {end}\n"
    ended = shell(*mapped(shell, source + "    return record\n", "--json", "--unchecked"))
    assert (ended.code, ended.problem) == (2, "map-ended"), ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stream", "redirect"),
    [
        ("stdout", "| true"),
        ("stderr", "2>&-"),
        ("stderr", "2>/dev/full"),
        ("a reader of the log that ends", "2> >(head -c1 >/dev/null)"),
    ],
)
def test_a_stream_that_is_gone_does_not_change_the_exit_code_of_a_run(shell: Shell, stream: str, redirect: str) -> None:
    bad = [customer("c-1"), customer("c-2", email="no address")]
    write(shell.folder / "c.json", bad)
    run = f"{sys.executable} -m streammig run --customers c.json --dry-run look --json"
    call = f"{run} {redirect}; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", call], cwd=shell.folder, env=environment(shell.folder), capture_output=True, text=True,
        timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "3", (stream, done)


def test_the_store_of_the_sandbox_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Store(tmp_path / "store.sqlite").close()
    finally:
        os.umask(before)
    assert (tmp_path / "store.sqlite").stat().st_mode & 0o777 == 0o600
