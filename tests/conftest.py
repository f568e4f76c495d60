"""What several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from streammig.masivo.rules.compiled import VARIABLE
from tests.commands import Shell
from tests.judges import JUDGES


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
