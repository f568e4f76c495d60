"""What several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Shell


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Commands, called in this process, in a folder of their own."""
    return Shell(tmp_path, monkeypatch, capsys)
