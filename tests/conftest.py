"""What several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from streammig.masivo.rules.compiled import VARIABLE, is_compiled
from tests.commands import Shell


@pytest.fixture(params=["python", "compiled"])
def judge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both judges, one after the other; the compiled one only where it was compiled."""
    if request.param == "compiled" and not is_compiled():
        pytest.skip("no compiled judge in this installation")
    monkeypatch.setenv(VARIABLE, request.param)
    found: str = request.param
    return found


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Commands, called in this process, in a folder of their own."""
    return Shell(tmp_path, monkeypatch, capsys)
