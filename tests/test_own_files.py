"""Files of ours, beside the checkpoint and in the state folder: no link is followed, and nothing of others deleted."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import closing
from pathlib import Path

import pytest

from streammig.checkpoint import Checkpoint
from streammig.checkpoint.outbox import Outbox
from streammig.dedup import forget
from streammig.disk import new_file
from streammig.grouping import forget as forget_grouped
from streammig.stages import STAGES
from tests.commands import Shell, sandbox, write
from tests.sandbox_caller import customer, lot, transaction

# Where a run keeps something, from the folder of the checkpoint on. ID is the id in the checkpoint.
PLACES = [
    "migration.checkpoint.lock",
    "migration.checkpoint.part",
    "migration.checkpoint.outbox",
    "migration.checkpoint.grouped",
    "migration.checkpoint.grouped/transactions",
    "migration.checkpoint.grouped/transactions/split",
    "migration.checkpoint.grouped/transactions/0.rows",
    "migration.checkpoint.grouped/transactions/alone.run",
    "migration.checkpoint.grouped/transactions/records",
    "migration.checkpoint.grouped/transactions/records.part",
    "migration.checkpoint.grouped/transactions/marks",
    "migration.checkpoint.grouped/transactions/about",
    "migration.checkpoint.plan",
    "migration.checkpoint.scan",
    "migration.checkpoint.scan/customers",
    "migration.checkpoint.scan/customers/1",
    "migration.checkpoint.scan/customers.found",
    "migration.checkpoint.scan/customers.found.part",
    "migration.checkpoint.stdin",
    "migration.checkpoint.stdin.part",
    "state/streammig/accounts/us.sqlite",
    "state/streammig/ID.fence",
    "state/streammig/ID.lock",
    "state/streammig/ID.orders",
    "state/streammig/verify-ID.sqlite",
]
OTHERS = {"orders": "unpause", "verify-ID.sqlite": "verify"}  # what has its file there, where that is not the run
FOLDERS = (".outbox", ".grouped", "/transactions", ".scan", "/customers", "/1")
# What others have, under names that a run would use.
THEIRS = {
    "customers-1": b"of others",
    "0123456789abcdef.part": b"too",
    "rows": b"and this",
    "1/rows": b"and that",
    "records": b"and those",
}


def kept(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in THEIRS}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    (folder / "1").mkdir(parents=True)
    for name, content in THEIRS.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_link_in_place_of_a_file_of_ours_is_named_and_not_followed(
    shell: Shell, theirs: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    records = [customer(f"c{number}", balance=[lot(2)]) for number in range(5)]
    exported = write(shell.folder / "e.json", records)
    settings = shell.folder / "migration.toml"
    settings.write_text('account = "us"\n')
    if ".grouped" in place:
        rows = [{"member": it["id"], **transaction(2)} for it in records]
        points = write(shell.folder / "points.ndjson", rows, lines=True)
        settings.write_text(f'account = "us"\n[transactions]\nfiles = ["{points}"]\nowner = "member"\n')
    command = next((it for end, it in OTHERS.items() if place.endswith(end)), "run")
    with sandbox() as target:
        arguments: list[object] = [settings, "--customers", "-" if ".stdin" in place else exported]

        def call() -> tuple[int, str | None]:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(records).encode())))
            run = shell.run(target.url, *arguments, "--json") if command == "run" else None
            ended = run or shell(command, shell.checkpoint, *(["--json"] if command == "verify" else []))
            return ended.code, ended.problem

        if "ID" in place:
            assert shell.run(target.url, *arguments, *(["--first", 2] if command == "run" else [])).code in (0, 10)
            with closing(Checkpoint.open(shell.checkpoint, read_only=True)) as file:
                place = place.replace("ID", file.run["id"])
        link = shell.folder / place
        link.parent.mkdir(parents=True, exist_ok=True)
        before = link.read_bytes() if link.is_file() else None
        link.unlink(missing_ok=True)
        link.symlink_to(theirs if place.endswith(FOLDERS) else theirs / "customers-1")
        assert call() == (2, "foreign-file")
        assert kept(theirs) == THEIRS
        assert os.path.islink(link)
        link.unlink()
        if before is not None:
            link.write_bytes(before)
        assert call() == (0, None)
        assert target.ledger()["holds"]["customers"]["count"] == len(records)


def test_a_sweep_deletes_what_a_run_put_there_and_no_more(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "m.checkpoint")
    outbox.folder.mkdir()
    ours = ["customers-2", "customers.samples", "0123456789abcdef.part"]
    others = ["notes.txt", "customers-2.json", "export.part", "Customers-1"]
    for name in ours + others:
        (outbox.folder / name).write_bytes(b"x")
    (outbox.folder / "customers-3").symlink_to(tmp_path)
    outbox.sweep(kept=["customers.samples"])
    assert sorted(it.name for it in outbox.folder.iterdir()) == sorted([*others, "customers-3", "customers.samples"])


def test_forgetting_an_index_leaves_what_others_put_beside_it(tmp_path: Path, theirs: Path) -> None:
    index = tmp_path / "index"
    (index / "2").mkdir(parents=True)
    for name in ("2/rows", "2/about", "2/notes.txt", "readme"):
        (index / name).write_bytes(b"x")
    (index / "1").symlink_to(theirs)
    forget(index)
    assert sorted(str(it.relative_to(index)) for it in index.rglob("*")) == ["1", "2", "2/notes.txt", "readme"]
    assert kept(theirs) == THEIRS


def test_forgetting_grouped_rows_leaves_what_others_put_beside_them_or_behind_a_link(
    tmp_path: Path, theirs: Path
) -> None:
    checkpoint, home = tmp_path / "m.checkpoint", tmp_path / "m.checkpoint.grouped"
    (home / "events").mkdir(parents=True)
    for name in ("records", "about", "notes.txt"):
        (home / "events" / name).write_bytes(b"x")
    (home / "transactions").symlink_to(theirs)
    forget_grouped(checkpoint, STAGES)
    assert sorted(str(it.relative_to(home)) for it in home.rglob("*")) == ["events", "events/notes.txt", "transactions"]
    linked = tmp_path / "n.checkpoint.grouped"
    (theirs / "transactions").mkdir()
    (theirs / "transactions" / "records").write_bytes(b"of others")
    linked.symlink_to(theirs)
    forget_grouped(tmp_path / "n.checkpoint", STAGES)
    assert (theirs / "transactions" / "records").read_bytes() == b"of others"
    assert kept(theirs) == THEIRS


def test_a_file_of_others_beside_a_named_output_is_left_alone_whatever_its_name(tmp_path: Path) -> None:
    theirs = {name: tmp_path / name for name in ("out.part", "out.tmp", "out~", ".out", ".out.part")}
    for name, path in theirs.items():
        path.write_text(name)
    with new_file(tmp_path / "out") as file:
        file.write(b"done")
    assert {name: path.read_text() for name, path in theirs.items()} == {name: name for name in theirs}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", *theirs])
