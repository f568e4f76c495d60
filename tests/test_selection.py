"""Which records of a stage are sent, as customers go missing between two runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from streammig.batching import BatchLimits
from streammig.masivo.rules import RuleOptions, rules
from streammig.model import Progress, Tally
from streammig.reader import Reader
from streammig.selection import WithOwners
from streammig.sources import open_source, parse_input
from tests.sandbox_caller import event


def test_i3_of_a_record_sent_in_part_only_the_rest_is_dead_when_its_customer_goes_missing(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text(json.dumps([{"id": "c1", "events": [event(f"p{nth}") for nth in range(5)]}]))
    source, judged = open_source([parse_input(str(path))]), rules("events", RuleOptions(now=datetime.now(UTC)))
    sealing = Reader(source, judged, BatchLimits(units=2), Progress()).next()
    assert sealing
    progress = sealing.progress
    assert (progress.read.units, progress.frontier.unit) == (2, 2)
    gone = WithOwners(judged, lambda owners: dict.fromkeys(owners, "refused"), progress.begun)
    last = Reader(source, gone, BatchLimits(units=2), progress).next()
    assert last
    (letter,) = last.progress.dead
    assert (letter.unit, letter.code, letter.tally.units, letter.tally.records) == (2, "owner-refused", 3, 0)
    assert last.progress.read - progress.read == letter.tally != Tally()
