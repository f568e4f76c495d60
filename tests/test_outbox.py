"""The outbox: a body is there until its batch is settled, nobody else reads it, and what is lost is never guessed."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from streammig import disk
from streammig.batching import assemble
from streammig.bodies import room_of_outbox
from streammig.checkpoint import Checkpoint, outbox_path, write_body
from streammig.checkpoint.contents import decode_contents
from streammig.errors import Unusable
from streammig.model import BatchState, Kind, Place, Position, Progress, Range, Receipt, Record
from streammig.settings import Settings
from tests.commands import Called, Shell, sandbox, states, write
from tests.problems import raises
from tests.sandbox_caller import customer, transaction
from tests.test_batching_resume import HEAD, KINDS, TAIL, record_of
from tests.test_batching_resume import Kind as Shape

STOPS = {"on": "customers", "nth": 2, "do": "answer", "status": 403}


@settings(max_examples=150, deadline=None)
@given(st.builds(Random, st.integers(0, 2**32)), st.sampled_from(KINDS), st.integers(0, 12))
def test_i5_the_records_of_a_body_make_it_again_byte_for_byte(dice: Random, kind: Shape, count: int) -> None:
    records: list[Record] = []
    for number in range(count):
        units = list(range(number * 9, number * 9 + (dice.randrange(1, 5) if kind.listed else 1)))
        records.append(record_of(dice, kind, Position(0, number * 100, 99, number + 1), 0, units))
    if not kind.listed:  # a customer is in a batch once
        records = [*{it.owner: it for it in reversed(records)}.values()][::-1]
    draft = assemble(records, HEAD, TAIL)
    contents = decode_contents(draft.body, draft.table)
    assert (contents.head, contents.tail) == (HEAD, TAIL)
    assert assemble(contents.records, HEAD, TAIL) == draft
    assert [(it.position, it.owner, it.tally) for it in contents.records] == [
        (it.position, it.owner, it.tally) for it in records
    ]
    firsts = {it.owner for it in records}
    if len(firsts) == len(records):
        assert contents.records == records
    few = decode_contents(draft.body, draft.table, 3).records
    assert len(few) == min(count and len(records), 3)
    assert all(it in contents.records for it in few)


def begun(shell: Shell, url: str, *more: object) -> Called:
    """A run of two batches that stops at the second one."""
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(1500)])
    return shell.run(url, "--customers", "e.json", "--unchecked", "--json", *more)


def test_i9_a_body_is_the_owner_s_alone_and_goes_when_its_batch_is_settled(shell: Shell) -> None:
    with sandbox(STOPS) as target:
        assert begun(shell, target.url).code == 5
        outbox = outbox_path(shell.checkpoint)
        assert {path.name for path in outbox.iterdir()} == {"customers-2", "customers.samples"}
        assert stat.S_IMODE(outbox.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in outbox.iterdir()} == {0o600}
        assert b"c1400" in (outbox / "customers-2").read_bytes()
        (outbox / "0123456789abcdef.part").write_bytes(b"of a crash")
        assert begun(shell, target.url).code == 0
        assert not outbox.exists()
        assert not shell.checkpoint.with_name(shell.checkpoint.name + "-wal").exists()


def missing(path: Path) -> None:
    path.unlink()


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def of_another(path: Path) -> None:
    records = [Record(Position(0, 0, 9, 1), 0, "x", b'{"id":"x"}', 1)]
    draft = write_body(path.parent, assemble(records, HEAD, TAIL))
    (path.parent / draft.file).replace(path)


def test_a_table_that_is_whole_but_means_nothing_is_a_body_that_is_lost(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c"
    file = Checkpoint.create(checkpoint, binding={}, version="1", started=1.0)
    file.add_stage("customers", 0, {}, [])
    records = [Record(Position(0, 0, 9, 1), 0, "x", b'{"id":"x"}', 1)]
    sound = assemble(records, HEAD, TAIL, (Range(Place(), Place(0, 9, 0, 2)),))
    draft = structs.replace(sound, table=b"\x93\x01\x02", few=b"\x93\x01\x02")
    batch = file.seal("customers", draft, Progress(Place(0, 9, 0, 2), 1, draft.tally), 1.0)
    assert file.lost_bodies() == [batch]
    with raises(Unusable, "body-lost"):
        file.outbox.contents(batch)
    file.received(batch, file.sending(batch, 1.0), Receipt(Kind.ACCEPTED), BatchState.ACCEPTED, 2.0)
    assert file.batch("customers", 1).sample is None
    file.close()


@pytest.mark.parametrize("damage", [missing, altered, cut_short, of_another])
def test_i4_a_body_that_is_lost_stops_the_run_before_its_first_request(
    shell: Shell, damage: Callable[[Path], None]
) -> None:
    with sandbox(STOPS) as target:
        assert begun(shell, target.url).code == 5
        before, asked = shell.checkpoint.read_bytes(), target.ledger()["requests"]["customers"]
        outbox = outbox_path(shell.checkpoint)
        kept = shutil.copytree(outbox, shell.folder / "kept")
        damage(outbox / "customers-2")
        ended = begun(shell, target.url)
        assert ended.code == 2
        assert f"{outbox.name}: bodies missing or altered: 1" in ended.err
        assert target.ledger()["requests"]["customers"] == asked
        assert states(shell.checkpoint)["customers"] == ["accepted", "sealed"]
        assert len(before) == len(shell.checkpoint.read_bytes())
        shutil.rmtree(outbox)
        shutil.copytree(kept, outbox)
        assert begun(shell, target.url).code == 0
        assert target.ledger()["holds"]["customers"]["landed"] == 1500


def test_a_lost_body_is_told_before_the_target_is_reached(shell: Shell) -> None:
    with sandbox(STOPS) as target:
        assert begun(shell, target.url).code == 5
    (outbox_path(shell.checkpoint) / "customers-2").unlink()
    ended = begun(shell, target.url)
    assert (ended.code, ended.problem) == (2, "body-lost")


def test_i4_bodies_that_are_given_up_are_dead_letters_which_a_retry_sends(shell: Shell) -> None:
    with sandbox(STOPS) as target:
        assert begun(shell, target.url).code == 5
        shutil.rmtree(outbox_path(shell.checkpoint))
        ended = begun(shell, target.url, "--bodies-lost")
        assert ended.code == 3, ended.err
        assert ended.document["balanced"]
        assert ended.document["stages"]["customers"]["dead_by"] == {"body-lost": 500}
        assert shell("retry", shell.checkpoint.name).code == 0
        ledger = target.ledger()
        assert ledger["holds"]["customers"]["landed"] == 1500
        assert ledger["twice"]["customers"]["count"] == 0


def test_i3_of_a_batch_of_unknown_outcome_whose_body_is_lost_nothing_is_sent(shell: Shell) -> None:
    rules: list[dict[str, Any]] = [{"on": "transactions", "nth": 1, "do": "reset", "at": "body"}]
    with sandbox(*rules) as target:
        write(shell.folder / "e.json", [customer(f"c{number}") for number in range(20)])
        write(shell.folder / "t.json", [{"id": f"c{number}", "transactions": [transaction(1)]} for number in range(20)])
        files = ["--customers", "e.json", "--transactions", "t.json", "--unchecked"]
        assert shell.run(target.url, *files).code == 4
        assert states(shell.checkpoint)["transactions"] == ["parked"]
        shutil.rmtree(outbox_path(shell.checkpoint))
        assert shell.run(target.url, *files).code == 4
        assert shell("resolve", shell.checkpoint.name, 1, "--not-landed").code == 0
        assert shell.run(target.url, *files).code == 2
        assert target.ledger()["requests"]["transactions"] == {"reset": 1}


def test_followers_wait_for_a_parked_batch_of_customers_whose_body_is_lost(shell: Shell) -> None:
    rules: list[dict[str, Any]] = [{"on": "customers", "nth": 1, "do": "reset", "at": "body"}]
    with sandbox(*rules) as target:
        write(shell.folder / "e.json", [customer(f"c{number}") for number in range(20)])
        write(shell.folder / "t.json", [{"id": f"c{number}", "transactions": [transaction(1)]} for number in range(20)])
        files = ["--customers", "e.json", "--unchecked"]
        assert shell.run(target.url, *files).code == 4
        shutil.rmtree(outbox_path(shell.checkpoint))
        files += ["--transactions", "t.json"]
        for _ in range(2):  # whose batch it is, nobody knows: the user decides, or nothing goes on
            ended = shell.run(target.url, *files)
            assert (ended.code, ended.problem) == (4, "outcome-unknown"), ended.err
        assert shell("resolve", shell.checkpoint.name, 1, "--not-landed").code == 0
        assert shell.run(target.url, *files, "--bodies-lost").code == 3
        assert "transactions" not in target.ledger()["requests"]


def test_the_room_of_the_outbox_is_bounded_by_the_settings_and_by_the_export(tmp_path: Path) -> None:
    settings, path = Settings(concurrency=4, max_bytes=4_000_000, most_parked=3), tmp_path / "c"
    marks = {"customers": [{"length": 10**12}], "events": [{"length": 10}]}
    assert room_of_outbox(settings, marks, path) == {"the outbox": 1.25 * (8_000_000 + 256_000_000 + 16 * 4_000_000)}
    few = {"customers": [{"length": 500}, {"length": 300}], "events": [{"length": 10}]}
    assert room_of_outbox(settings, few, path) == {"the outbox": 1000}
    outbox_path(path).mkdir()
    (outbox_path(path) / "customers-1").write_bytes(b"x" * 600)
    assert room_of_outbox(settings, few, path) == {"the outbox": 400}


def test_a_disk_without_room_for_the_outbox_is_said_before_the_target_is_reached(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 1000)
    write(shell.folder / "e.json", [customer(f"c{number}") for number in range(1500)])
    ended = shell.run("http://127.0.0.1:9", "--customers", "e.json", "--unchecked")
    assert (ended.code, ended.problem) == (1, "disk-space")
    assert "the outbox" in ended.err
    assert not shell.checkpoint.exists()
