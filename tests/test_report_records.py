"""`report --records`: a line for each unit of the export, which agrees with the totals and leads back to the export."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint, Timeline
from streammig.model import Place, Progress, Range, Tally
from streammig.report.records import Carried, Layers
from streammig.sandbox.local import LocalTarget
from tests.commands import Shell, quickly, sandbox, write
from tests.drafts import made
from tests.sandbox_caller import customer, event, lot, transaction

OUTCOMES = ("accepted", "dead", "filtered", "unknown", "pending")
FILES = {"customers": "c.ndjson", "events": "e.ndjson", "transactions": "t.ndjson"}
ARGUMENTS = [word for stage, file in FILES.items() for word in (f"--{stage}", file)]


@pytest.fixture
def target() -> Iterator[LocalTarget]:
    """One that refuses the first customers as a whole, and does not answer the first events."""
    refuse = {"on": "customers", "nth": 1, "do": "answer", "status": 422}
    with sandbox(refuse, {"on": "events", "nth": 1, "do": "reset", "at": "body"}) as found:
        yield found


def export(folder: Path) -> None:
    """Ten customers: one without a good e-mail, one deleted; each has three events and two transactions."""
    names = [f"c{at}" for at in range(10)]
    people = [customer(name, balance=[lot(5)]) for name in names]
    people[3]["email"], people[5]["gone"] = "none", "yes"
    write(folder / FILES["customers"], people, lines=True)
    bought: list[Any] = [{"id": name, "events": [event(f"{name}-{at}") for at in range(3)]} for name in names]
    bought[7]["events"][1]["order"]["value"] = "much"
    write(folder / FILES["events"], bought, lines=True)
    history = [transaction(2), transaction(3)]
    write(folder / FILES["transactions"], [{"id": name, "transactions": history} for name in names], lines=True)
    (folder / "move.toml").write_text('[customers]\ndeleted = ["gone=yes"]\n')


def run(shell: Shell, target: LocalTarget, *more: object) -> dict[str, Any]:
    return shell("run", "move.toml", *ARGUMENTS, *quickly(target.url), "--json", *more).document


def lines(shell: Shell) -> list[dict[str, Any]]:
    (shell.folder / "r.ndjson").unlink(missing_ok=True)
    ended = shell("report", "move.checkpoint", "--records", "r.ndjson")
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in (shell.folder / "r.ndjson").read_text().splitlines()]


def counted(found: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {stage: Counter() for stage in FILES}
    for line in found:
        counts[line["stage"]][line["outcome"]] += line["units"]
    return counts


def agree(shell: Shell, found: list[dict[str, Any]]) -> None:
    """The lines add up to the totals in units."""
    stages = shell("report", "move.checkpoint", "--json").document["stages"]
    for name, counts in counted(found).items():
        read = {part: counts[part] for part in OUTCOMES}
        assert read == {part: stages[name]["units"][part] for part in OUTCOMES}, name


@pytest.mark.slow
def test_the_lines_add_up_to_the_totals_and_lead_back_to_the_export(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder)
    run(shell, target)
    found = lines(shell)
    agree(shell, found)
    counts = counted(found)
    assert counts["customers"] == {"accepted": 8, "dead": 1, "filtered": 1}
    assert counts["events"]["unknown"]
    assert counts["events"]["filtered"] == 3
    for line in found:
        assert line["file"] == str(shell.folder / FILES[line["stage"]])
        with open(line["file"], "rb") as file:
            file.seek(line["byte"])
            record = json.loads(file.readline())
        assert line["id"] in (record["id"], None)
        assert (line["batch"] is not None) == (line["outcome"] in ("accepted", "unknown"))
        assert (line["sent"] is not None) == (line["batch"] is not None)
    places = [(line["stage"], line["byte"], line["unit"]) for line in found]
    assert len(set(places)) == len(places)


@pytest.mark.slow
def test_a_pilot_leaves_lines_that_are_not_read_and_a_retry_makes_dead_ones_accepted(
    shell: Shell, target: LocalTarget
) -> None:
    export(shell.folder)
    run(shell, target, "--first", 2)
    found = lines(shell)
    agree(shell, found)
    assert counted(found)["customers"] == {"accepted": 2, "not-read": 8}
    run(shell, target)
    shell("dead-letters", "move.checkpoint", "--out", "dead.ndjson")
    letters = [json.loads(line) for line in (shell.folder / "dead.ndjson").read_text().splitlines()]
    mended = [line for line in letters if line["stage"] == "customers"]
    for line in mended:
        line["record"]["email"] = "c3@example.org"
    write(shell.folder / "fixed.ndjson", mended, lines=True)
    assert shell("retry", "move.checkpoint", "--input", "fixed.ndjson", "--quiet").code in (0, 3, 4)
    found = lines(shell)
    agree(shell, found)
    (line,) = [it for it in found if it["stage"] == "customers" and it["record"] == 4]
    assert (line["outcome"], line["code"]) == ("accepted", None)


@pytest.mark.slow
def test_the_report_has_the_hash_of_the_lines_and_neither_file_is_left_by_halves(
    shell: Shell, target: LocalTarget
) -> None:
    export(shell.folder)
    run(shell, target)
    ended = shell("report", "move.checkpoint", "--out", "r.html", "--records", "r.ndjson", "--json")
    data = (shell.folder / "r.ndjson").read_bytes()
    assert ended.document["proof"]["records"] == {
        "lines": data.count(b"\n"),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert ended.document["proof"]["records"]["sha256"] in (shell.folder / "r.html").read_text()
    assert shell("report", "move.checkpoint", "--audit", "r.html").code == 0
    again = shell("report", "move.checkpoint", "--records", "r.ndjson")
    assert (again.code, again.problem) == (2, "output-exists")
    with (shell.folder / FILES["events"]).open("a") as file:
        file.write("{}\n")
    (shell.folder / "r.ndjson").unlink()
    changed = shell("report", "move.checkpoint", "--records", "r.ndjson")
    assert (changed.code, changed.problem) == (2, "export-changed")
    assert not list(shell.folder.glob("r.ndjson*"))


def place(number: int) -> Place:
    return Place(0, number * 100, 0, number + 1)


def test_the_ranges_of_all_batches_come_in_reading_order_though_they_were_sealed_in_another(tmp_path: Path) -> None:
    rng = Random(5)
    numbers = [*range(60)]
    rng.shuffle(numbers)
    file = Checkpoint.create(tmp_path / "c", binding={}, version="0", started=0.0)
    file.add_stage("events", 1, {}, [])
    for at in range(0, 60, 6):
        ranges = [Range(place(number), place(number + 1)) for number in sorted(numbers[at : at + 6])]
        file.seal("events", made(ranges, Tally(6, 6), b"%d" % at), Progress(place(0)), 0.0)
    found = list(Timeline(file).carried("events"))
    assert [it.begin.ordinal for it, _, _ in found] == [*range(1, 61)]
    assert {seq for _, seq, _ in found} == set(range(1, 11))
    assert all(numbers.index(it.begin.ordinal - 1) // 6 + 1 == seq for it, seq, _ in found)
    file.close()


def test_of_several_batches_in_one_place_the_last_one_counts() -> None:
    def carried(begin: int, end: int, seq: int, outcome: str, later: bool = False) -> Carried:
        return Carried(Range(place(begin), place(end)), (seq, later), outcome)

    layers = Layers(
        [
            carried(0, 9, 1, "dead"),
            carried(2, 4, 7, "accepted"),
            carried(3, 4, 7, "missing", True),
            carried(5, 6, 2, "x"),
        ]
    )
    found = [layers.at(place(at)[:3]) for at in range(10)]
    outcomes = [it and it.outcome for it in found]
    assert outcomes == ["dead", "dead", "accepted", "missing", "dead", "x", "dead", "dead", "dead", None]


@pytest.mark.slow
def test_another_mapping_than_that_of_the_batches_is_told(shell: Shell) -> None:
    export(shell.folder)
    (shell.folder / "maps.py").write_text("def same(record):\n    return record\n")
    (shell.folder / "move.toml").write_text('[customers]\nmap = "maps:same"\n')
    with sandbox() as target:
        shell("run", "move.toml", "--customers", "c.ndjson", *quickly(target.url), "--quiet")
    assert "WARNING" not in shell("report", "move.checkpoint", "--records", "before.ndjson").err
    (shell.folder / "maps.py").write_text("def same(record):\n    return {**record}\n")
    assert "WARNING: customers" in shell("report", "move.checkpoint", "--records", "after.ndjson").err
