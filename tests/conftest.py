"""What several test modules share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from streammig.masivo.rules.compiled import VARIABLE
from streammig.sandbox.local import LocalTarget
from tests.commands import Shell, sandbox
from tests.judges import JUDGES
from tests.past import run as past_run
from tests.sandbox_caller import Caller, running

# A process that a test starts reads compiled modules; without them, it compiles the whole package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Work files lie in memory, where it has room for them: what is killed here is never the machine, and a commit waits
# for no disk.
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


@pytest.fixture(params=JUDGES)
def judge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each judge, one after the other, as the one at work."""
    monkeypatch.setenv(VARIABLE, request.param)
    found: str = request.param
    return found


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Commands, called in this process, in a folder of their own."""
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture
def target() -> Iterator[LocalTarget]:
    """A sandbox that nothing happens to."""
    with sandbox() as found:
        yield found


@pytest_asyncio.fixture
async def caller() -> AsyncIterator[Caller]:
    """Who calls a sandbox that nothing happens to."""
    async with running() as found:
        yield found


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run that is over."""
    return past_run(tmp_path_factory.mktemp("past"))
