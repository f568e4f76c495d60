"""The real command line for tests: called in this process, or as one of its own, against a sandbox on 127.0.0.1."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from subprocess import DEVNULL
from typing import IO, Any, NamedTuple

import pytest

from streammig.checkpoint import Checkpoint
from streammig.cli import main
from streammig.errors import Problem
from streammig.sandbox import SandboxConfig
from streammig.sandbox.local import LocalTarget

KEY = "sandbox-key"
PATIENCE = 100.0  # seconds: a bound, not a wait; a noisy machine with two cores may take its time
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


class Called(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def problem(self) -> str | None:
        """The code of the problem that ended it, if one did; of a mistake in the usage it is in the document alone."""
        if self.out.startswith("{"):
            found: str | None = self.document.get("error", {}).get("code")
            return found
        said = re.search(r"^error: .*?\[([a-z][a-z0-9-]+)\]$", self.err, re.MULTILINE | re.DOTALL)
        return said[1] if said else None


class Shell:
    """Calls commands in a folder of their own, with state and checkpoint in it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._patch = patch
        self._capture = capture
        patch.chdir(folder)
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("MASIVO_API_KEY", KEY)
        patch.setenv("COLUMNS", "1000")  # a message is one line, however long
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))

    def __call__(self, *arguments: object) -> Called:
        """One command, as `main` runs it."""
        self._capture.readouterr()
        self._patch.setattr(sys, "argv", ["streammig", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        else:
            code = 0
        out, err = self._capture.readouterr()
        return Called(code, out, err)

    def run(self, url: str, *arguments: object) -> Called:
        """`streammig run` against a target on this machine, as fast as it goes."""
        return self("run", *quickly(url), *arguments)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "migration.checkpoint"

    def files(self) -> dict[str, bytes]:
        """Every file below the folder with its content."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


def quickly(url: str) -> list[str]:
    return ["--base-url", url, "--limits", "off", "--settle-time", "0.1", "--verify-sample", "0"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {"MASIVO_API_KEY": KEY, "XDG_STATE_HOME": str(folder / "state")} | more


@contextlib.contextmanager
def process(
    folder: Path,
    *arguments: object,
    before: Callable[[], None] | None = None,
    stdin: IO[str] | int = DEVNULL,
    **environ: str,
) -> Iterator[subprocess.Popen[str]]:
    """A command as a process, killed if need be when the block is left. `before` is called in it first."""

    def begin() -> None:
        # Tests that run in the background or under nohup hand on that they ignore these.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if before is not None:
            before()

    with subprocess.Popen(
        [sys.executable, "-m", "streammig", *map(str, arguments)], cwd=folder, env=environment(folder, **environ),
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=begin,
    ) as running:  # fmt: skip
        try:
            yield running
        finally:
            running.kill()


def finished(folder: Path, *arguments: object, **how: Any) -> Called:
    """A command as a process, to its end; `how` as for `process`."""
    with process(folder, *arguments, **how) as running:
        out, err = running.communicate(timeout=PATIENCE)
        return Called(running.returncode, out, err)


def like_any_user() -> None:
    """For `before`: file modes hold, also where the tests run as root."""
    if sys.platform == "linux":
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def with_files_up_to(size: int) -> Callable[[], None]:
    """For `before`: a write beyond so many bytes of a file fails, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def until(happened: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until `happened` gives something true, and return that."""
    end = time.monotonic() + patience
    while not (found := happened()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.03)
    return found


@contextlib.contextmanager
def sandbox(*script: Mapping[str, Any], **config: Any) -> Iterator[LocalTarget]:
    """A sandbox in a thread of its own; `script` is what happens to it."""
    with LocalTarget(SandboxConfig(script=script, **config)) as target:
        yield target


def states(checkpoint: Path) -> dict[str, list[str]]:
    """The states of the batches of each stage, in order; empty as long as there is no checkpoint to read."""
    try:
        file = Checkpoint.open(checkpoint, read_only=True)
    except Problem:
        return {}
    try:
        return {
            row.name: [
                str(found[0]) for found in file.rows("SELECT state FROM batch WHERE stage = ? ORDER BY seq", row.name)
            ]
            for row in file.stages()
        }
    finally:
        file.close()


def write(path: Path, records: list[Any], *, lines: bool = False) -> Path:
    """An export: an array under "customers", or NDJSON."""
    if lines:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        path.write_text(json.dumps({"customers": records}))
    return path


def listing(target: LocalTarget, entity: str) -> list[dict[str, Any]]:
    """All that the target holds of an entity, asked for over the wire."""
    found: list[dict[str, Any]] = []
    after: Any = ""
    while after is not None:
        query = urllib.parse.urlencode({"entity": entity, "limit": 10_000, "after": after})
        with urllib.request.urlopen(f"{target.url}/_sandbox/holds?{query}") as answer:
            page = json.load(answer)
        found += page["holds"]
        after = page["next"]
    return found
