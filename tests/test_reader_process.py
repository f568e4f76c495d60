"""A stage read in a process of its own comes out as it does here, breaks off the same way, and leaves nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest

from streammig.batching import BatchLimits, Sealing
from streammig.errors import BrokenExport, MachineFault, Unusable
from streammig.masivo.rules import RuleOptions, rules
from streammig.migration import Migration
from streammig.model import Progress
from streammig.reader import Reader
from streammig.reader_process import ReaderProcess
from streammig.sources import open_source, parse_input
from tests import loyalty_maps
from tests.commands import Shell, sandbox
from tests.problems import raises
from tests.sandbox_caller import customer

OPTIONS = RuleOptions(now=datetime(2024, 1, 1, tzinfo=UTC))


def parts(path: Path, mapping: Callable[[Any], Any] | None = None, **more: Any) -> tuple[Any, ...]:
    source = open_source([parse_input(str(path))], **more)
    return source, rules("customers", OPTIONS, mapping), BatchLimits(units=50), Progress()


def all_of(feed: Reader | ReaderProcess) -> list[Sealing]:
    found = []
    while (sealing := feed.next()) is not None:
        found.append(sealing)
    feed.close()
    return found


def export(path: Path, count: int = 230) -> Path:
    records = [customer(f"c{number}") for number in range(count)]
    records[7]["email"] = "none"
    path.write_text(json.dumps({"customers": records}))
    return path


def test_a_stage_read_away_is_what_it_is_here(tmp_path: Path) -> None:
    made = parts(export(tmp_path / "export.json"))
    here, away = Reader(*made), ReaderProcess(*made)
    found = all_of(away)
    assert found == all_of(here)
    assert sum(sealing.draft is not None for sealing in found) == 5
    assert away.broken is None
    assert away.next() is None


def test_a_file_that_changed_before_it_is_read_away_is_noticed_there(tmp_path: Path) -> None:
    made = parts(export(tmp_path / "export.json"))
    export(tmp_path / "export.json", 229)
    away = ReaderProcess(*made)
    with raises(Unusable, "export-changed"):
        all_of(away)


def test_a_pilot_read_away_says_why_it_stopped(tmp_path: Path) -> None:
    away = ReaderProcess(*parts(export(tmp_path / "export.json")), first=60)
    assert sum(sealing.draft.tally.records for sealing in all_of(away) if sealing.draft) == 59
    assert away.paused == "the pilot's records are read"


def test_an_export_that_breaks_off_away_names_the_byte(tmp_path: Path) -> None:
    path = export(tmp_path / "export.json")
    path.write_bytes(path.read_bytes()[:-400])
    here, away = Reader(*parts(path)), ReaderProcess(*parts(path))
    assert all_of(away) == all_of(here)
    assert isinstance(away.broken, BrokenExport)
    assert here.broken is not None
    assert (str(away.broken), away.broken.offset) == (str(here.broken), here.broken.offset)


def test_an_export_that_is_gone_stops_a_reader_away_with_the_same_words(tmp_path: Path) -> None:
    made = parts(export(tmp_path / "export.json"))
    (tmp_path / "export.json").unlink()
    away = ReaderProcess(*made)
    with pytest.raises(Unusable) as here:
        Reader(*made).next()
    with pytest.raises(Unusable) as there:
        away.next()
    assert str(there.value) == str(here.value)


def test_a_reader_that_is_killed_is_the_machines_fault(tmp_path: Path) -> None:
    away = ReaderProcess(*parts(export(tmp_path / "export.json")))
    away._child.kill()  # long before it has said anything
    with raises(MachineFault, "reader-died"):
        away.next()


def test_a_reader_lets_an_interrupt_pass_and_ends_when_nobody_listens(tmp_path: Path) -> None:
    away = ReaderProcess(*parts(export(tmp_path / "export.json", 20_000)))
    assert away.next() is not None
    away._child.send_signal(signal.SIGINT)
    assert away.next() is not None
    away._hang_up()  # as the end of this process does; the child may wait to be asked, or to be read
    assert away._child.wait(timeout=30) == 0
    away.close()


def test_a_defect_away_names_its_line_and_no_value(tmp_path: Path) -> None:
    source, judged, limits, _ = parts(export(tmp_path / "export.json"))
    away = ReaderProcess(source, judged, limits, "no progress at all")
    with raises(MachineFault, "defect") as caught:
        away.next()
    assert caught.value.what.startswith("a defect of streammig: AttributeError\n")  # as the command says it
    assert "reader_process.py:" in caught.value.what
    assert "no progress" not in caught.value.what


def test_the_key_does_not_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASIVO_API_KEY", "the-key")
    away = ReaderProcess(*parts(export(tmp_path / "export.json", 20_000)))
    away.next()
    environment = Path(f"/proc/{away._child.pid}/environ")
    if environment.exists():
        assert b"the-key" not in environment.read_bytes()
    away.close()


def test_a_mapping_goes_along_by_its_name_and_one_without_is_left_here(tmp_path: Path) -> None:
    path = tmp_path / "members.json"
    path.write_text(json.dumps([{"id": f"m{n}", "became_member_on": 20170212, "gender": "F"} for n in range(60)]))
    made = parts(path, loyalty_maps.customer)
    assert all_of(ReaderProcess(*made)) == all_of(Reader(*made))
    with pytest.raises((AttributeError, TypeError)):
        ReaderProcess(*parts(path, lambda record: record))


def test_three_stages_arrive_whole_when_each_is_read_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Migration, "__init__", partialmethod(Migration.__init__, reader_process_bytes=0))
    shell = Shell(tmp_path, monkeypatch, capfd)
    event = {
        "type": "PURCHASE", "brand_id": None, "fulfilled": True, "issued_at": "2020-01-01T00:00:00Z",
        "resolved_at": "2020-01-01T00:00:00Z",
        "order": {"purchase_id": "p", "value": 1, "discounted_value": 1, "products": [], "payment_method": "CASH"},
    }  # fmt: skip
    customers = [customer(f"c{number}") for number in range(40)] + [customer("c3")]
    (tmp_path / "c.json").write_text(json.dumps(customers))
    (tmp_path / "e.json").write_text(json.dumps([{"id": f"c{number}", "events": [event]} for number in range(45)]))
    with sandbox() as target:
        ended = shell.run(target.url, "--customers", "c.json", "--events", "e.json", "--json")
        assert ended.code == 3, ended.err
        held = target.ledger()["holds"]
    assert held["customers"]["count"] == held["events"]["count"] == 40
    stages = ended.document["stages"]
    assert (stages["customers"]["dead"], stages["events"]["dead"]) == (1, 5)
