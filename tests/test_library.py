"""What a program may import: a run and its report, and the errors that end one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

import streammig
from tests.commands import KEY, sandbox
from tests.sandbox_caller import customer


def test_only_what_is_exported_is_public() -> None:
    for name in streammig.__all__:
        assert getattr(streammig, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = streammig.Checkpoint


def test_a_program_migrates_in_its_own_loop_and_reads_the_report(tmp_path: Path) -> None:
    export, checkpoint = tmp_path / "customers.json", tmp_path / "run.checkpoint"
    export.write_text(json.dumps([customer(f"c{number}") for number in range(20)]))
    with sandbox() as target:
        settings = streammig.Settings.load(
            base_url=target.url,
            checkpoint=str(checkpoint),
            state_dir=str(tmp_path / "state"),
            limits="off",
            settle_time=0.1,
            customers={"files": [str(export)]},
        )
        assert asyncio.run(streammig.Migration(settings, key=KEY).run()) is True
        assert target.ledger()["holds"]["customers"]["count"] == 20
    report = streammig.Report.read(checkpoint)
    assert (report.document["state"], report.document["balanced"]) == ("complete", True)
    assert "customers" in str(report)


def test_a_problem_has_a_code_and_says_what_to_do(tmp_path: Path) -> None:
    settings = streammig.Settings.load(checkpoint=str(tmp_path / "run.checkpoint"), base_url="http://127.0.0.1:1")
    with pytest.raises(streammig.Unusable) as raised:
        asyncio.run(streammig.Migration(settings, key=KEY).run())
    assert raised.value.code == "no-input"
    assert "--customers" in raised.value.hint
