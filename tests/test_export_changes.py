"""The export must stay what it was: while a run reads it, and between two runs of one checkpoint."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint
from streammig.errors import Unusable
from streammig.fingerprint import check_contents
from streammig.model import Place, Progress
from streammig.sandbox.local import LocalTarget
from streammig.sources import Input, open_source
from tests.commands import Called, Shell, states
from tests.problems import raises
from tests.sandbox_caller import customer

# Long enough that a reader comes to their end long after their beginning.
FILLER = "x" * 1000
RECORDS = [{**customer(f"c{number}"), "filler": FILLER} for number in range(3000)]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)


def truncated(path: Path) -> None:
    os.truncate(path, LINES.index(b"\n", len(LINES) // 2) + 1)  # behind a whole line: a silent short read


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(LINES[: LINES.index(b"\n") + 1])


def written(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(len(LINES) - 100)
        file.write(b"y")


def replaced(path: Path) -> None:
    (path.parent / "other").write_bytes(LINES)
    (path.parent / "other").replace(path)


CHANGES = [
    (truncated, "bytes and has"),
    (grown, "bytes and has"),
    (written, "something was written to it"),
]


# -- while it is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [change for change, _ in CHANGES])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_changes_while_it_is_read_hands_out_no_record_more(
    tmp_path: Path, change: Callable[[Path], None], packed: bool
) -> None:
    path = tmp_path / "export.ndjson"
    path.write_bytes(gzip.compress(LINES, 1) if packed else LINES)
    source = open_source([Input(str(path))])
    spans = source.spans()
    next(spans)
    if packed and change is not grown:
        os.truncate(path, path.stat().st_size // 2)
    else:
        change(path)
    with raises(Unusable, "export-changed"):
        list(spans)
    with raises(Unusable, "export-changed"):
        next(source.spans())
    with raises(Unusable, "export-changed"):
        source.unchanged()


def test_a_document_that_is_cut_while_it_is_read_is_not_taken_for_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(RECORDS))
    source = open_source([Input(str(path))])
    spans = source.spans()
    next(spans)
    os.truncate(path, path.stat().st_size // 2)
    with raises(Unusable, "export-changed"):
        list(spans)


# -- during a run ----------------------------------------------------------------------------------------------------

at_c2000: list[Callable[[], None]] = []


def mapping(record: dict[str, Any]) -> Any:
    if record["id"] == "c2000" and at_c2000:
        at_c2000.pop()()
    return record


def run(shell: Shell, target: LocalTarget, *more: object) -> Called:
    stage = "customers=tests.test_export_changes:mapping"
    return shell.run(target.url, "--customers", "e.ndjson", "--map", stage, "--unchecked", "--json", *more)


def landed(target: LocalTarget) -> int:
    found: int = target.ledger()["holds"]["customers"]["landed"]
    return found


@pytest.mark.parametrize(("change", "said"), [*CHANGES, (replaced, "another file was put in its place")])
def test_an_export_that_changes_during_the_run_stops_it_and_goes_on_when_it_is_put_back(
    shell: Shell, target: LocalTarget, change: Callable[[Path], None], said: str
) -> None:
    path = shell.folder / "e.ndjson"
    path.write_bytes(LINES)
    at_c2000.append(lambda: change(path))
    ended = run(shell, target)
    assert not at_c2000
    assert ended.code == 2
    assert ended.problem == "export-changed"
    assert said in ended.err
    assert ended.document["stages"]["customers"]["state"] == "failed"
    assert ended.document["balanced"]
    path.write_bytes(LINES)
    assert run(shell, target).code == 0
    assert landed(target) == 3000
    assert target.ledger()["twice"]["customers"]["count"] == 0


def test_a_file_that_grows_after_it_was_read_keeps_its_stage_from_being_complete(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammig.stage import StageRun

    path = shell.folder / "e.ndjson"
    path.write_bytes(LINES)
    whole = StageRun.run

    async def late(self: Any) -> bool:
        done = await whole(self)
        grown(path)
        return done

    monkeypatch.setattr(StageRun, "run", late)
    ended = run(shell, target)
    assert ended.code == 2
    assert ended.problem == "export-changed"
    assert ended.document["stages"]["customers"]["state"] == "failed"


# -- between two runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [20_000, 150_000, -20_000])
@pytest.mark.parametrize("dated_back", [False, True])
def test_a_change_that_keeps_the_size_and_lies_between_the_samples_is_found_on_a_resume(
    shell: Shell, target: LocalTarget, at: int, dated_back: bool
) -> None:
    path = shell.folder / "e.ndjson"
    path.write_bytes(LINES)
    modified = path.stat().st_mtime_ns
    assert run(shell, target, "--first", 1200).code == 10
    sent = landed(target)
    at = LINES.index(FILLER.encode(), len(LINES) // 17 + at if at > 0 else len(LINES) - 100_000 + at)
    path.write_bytes(LINES[:at] + b"y" + LINES[at + 1 :])
    if dated_back:
        os.utime(path, ns=(modified, modified))
    before = states(shell.checkpoint)
    ended = run(shell, target)
    assert ended.code == 2
    assert ended.problem == "checkpoint-of-another-migration"
    assert "customers: the content of e.ndjson has changed, though not its size" in ended.err
    assert landed(target) == sent
    assert states(shell.checkpoint) == before


@pytest.mark.parametrize(("at", "found"), [(-1, True), (-60_000, True), (-70_000, False), (1, False)])
def test_i8_a_checkpoint_is_bound_to_what_was_read_last(tmp_path: Path, at: int, found: bool) -> None:
    """Also where neither the file system nor the samples show a change."""
    path, frontier = tmp_path / "e.ndjson", Place(0, 200_000, 0, 180)
    path.write_bytes(LINES)
    source = open_source([Input(str(path))])
    marks = {"customers": source.fingerprints()}
    with closing(Checkpoint.create(tmp_path / "c", binding={}, version="1", started=1.0)) as file:
        file.add_stage("customers", 0, {}, marks["customers"])
        file.advance("customers", Progress(frontier, before=source.before(frontier)))
        check_contents(file, marks, lambda: False)
        with path.open("r+b") as export:
            export.seek(frontier.offset + at)
            export.write(b"\0")
        with raises(Unusable, "checkpoint-of-another-migration") if found else nullcontext():
            check_contents(file, marks, lambda: False)
        with raises(Unusable, "export-changed"):
            source.before(frontier)


def test_a_copy_that_was_put_back_is_the_same_export_whatever_its_time(shell: Shell, target: LocalTarget) -> None:
    path = shell.folder / "e.ndjson"
    path.write_bytes(LINES)
    assert run(shell, target, "--first", 1200).code == 10
    replaced(path)
    os.utime(path, ns=(1, 1))
    assert run(shell, target, "--first", 2200).code == 10
    path.write_bytes(LINES)
    assert run(shell, target).code == 0
    assert landed(target) == 3000


def test_an_export_that_got_another_name_and_other_rights_is_the_same(shell: Shell, target: LocalTarget) -> None:
    path = shell.folder / "e.ndjson"
    path.write_bytes(LINES)
    at_c2000.append(lambda: path.chmod(0o600))
    assert run(shell, target, "--first", 2200).code == 10
    assert not at_c2000
    os.link(path, shell.folder / "other")
    assert run(shell, target).code == 0


def test_a_stop_while_the_export_is_looked_at_begins_nothing(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammig.migration import Migration
    from streammig.sources import identity

    sampled, running = identity.sampled, []
    init = Migration.__init__

    def noted(self: Migration, *arguments: Any, **more: Any) -> None:
        init(self, *arguments, **more)
        running.append(self)

    def pressed(file: str, samples: int, stopped: Callable[[], bool]) -> str:
        running[-1].stop.set()
        return sampled(file, samples, stopped)

    (shell.folder / "e.ndjson").write_bytes(LINES)
    monkeypatch.setattr(Migration, "__init__", noted)
    monkeypatch.setattr(identity, "sampled", pressed)
    assert run(shell, target).code == 130
    assert not shell.checkpoint.exists()
