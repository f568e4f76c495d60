"""A checkpoint or an account's file that was damaged or set back doubles nothing and loses nothing, or is refused."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from streammig.checkpoint import Checkpoint
from streammig.errors import MachineFault, Unusable
from tests.proof_lives import Lives
from tests.proof_report import scratch
from tests.proof_surgery import damaged
from tests.proof_writes import Fate
from tests.shares import share

CUSTOMERS = 150


@pytest.fixture(scope="module")
def drained() -> Iterator[Lives]:
    """A migration that was told to stop in the middle: its checkpoint is one file, and more is to be sent."""
    with scratch() as folder:
        lives = Lives(folder, 5, CUSTOMERS)
        assert lives.live(Fate("drain", 50)).word == "paused"
        assert len(lives.taken) > 2
        yield lives


def test_i3_i4_damaged_or_older_files_are_gone_on_with_or_refused() -> None:
    damaged(14, seed=1).must_hold()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_damaged_or_older_files() -> None:
    found = damaged(share(2000), seed=1000)
    found.must_hold()
    assert 0 < found.refusals < found.points


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE stage SET offset = offset - 64",  # what lies behind the frontier would be sealed and sent once more
        "UPDATE stage SET record = record + 1",
        "UPDATE batch SET state = 'sealed' WHERE seq = 1",
        "UPDATE batch SET state = 'sdaled' WHERE seq = 2",  # no state at all: it would never be sent
        "UPDATE batch SET ranges = x'00' || ranges WHERE seq = 1",
        "UPDATE batch SET attempts = 0",
        "DELETE FROM batch WHERE seq = 1",
        "DELETE FROM attempt",
        "INSERT INTO absent_owner VALUES (x'00', 'deleted')",
        "UPDATE run SET started = started + 1",
        "UPDATE run SET salt = x'00'",
        "UPDATE run SET digest = x'0000000000000000'",
        "UPDATE stage SET shape = CAST(x'ff' AS TEXT)",
        "DELETE FROM run",
    ],
)
def test_damage_that_leaves_a_sound_database_is_refused_before_anything_is_sent(
    damage: str, drained: Lives, tmp_path: Path
) -> None:
    shutil.copytree(drained.folder, tmp_path, dirs_exist_ok=True)
    lives = Lives(tmp_path, drained.seed, CUSTOMERS)
    db = sqlite3.connect(lives.checkpoint)
    assert db.execute(damage).rowcount
    db.commit()
    db.close()
    ended = lives.live()
    assert (ended.word, ended.code, lives.taken) == ("Unusable", 2, [])
    assert "is damaged" in ended.said


def test_a_flipped_bit_in_the_index_of_states_is_refused(drained: Lives, tmp_path: Path) -> None:
    path = tmp_path / "c"
    shutil.copy(drained.checkpoint, path)
    db = sqlite3.connect(path)
    (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'batch_state'").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    data = bytearray(path.read_bytes())
    at = data.index(b"accepted", (root - 1) * size, root * size)
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(Unusable, match="damaged"):
        Checkpoint.open(path)


def test_a_change_that_is_undone_leaves_the_digest_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "c"
    file = Checkpoint.create(path, binding={}, version="1", started=1.0)

    def twice_the_same_stage() -> None:
        with file.transaction():
            file.add_stage("customers", 0, {}, [{}, {}])
            file.add_stage("customers", 0, {}, [{}])

    with pytest.raises(MachineFault):
        twice_the_same_stage()
    file.add_stage("events", 0, {}, [{}])
    file.verify()
    file.close()
    Checkpoint.open(path).close()


def test_a_checkpoint_without_its_log_is_refused_as_an_older_copy() -> None:
    with scratch() as folder:
        lives = Lives(folder, 7, 24, {"events": {}})
        assert lives.live(Fate("after", 50)).word == "killed"
        lives.checkpoint.with_name("run.checkpoint-wal").unlink()
        lives.checkpoint.with_name("run.checkpoint-shm").unlink()
        assert lives.live().code == 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE send SET what = CAST(replace(CAST(what AS TEXT), '[', '{') AS BLOB) WHERE seq = 1",
        "UPDATE send SET seq = 7 WHERE seq = 1 AND attempt = 1",  # then the note stands for another batch
        "UPDATE send SET stage = CAST(x'ff' AS TEXT)",
        "DROP TABLE start",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'hold', CAST(x'ff' AS TEXT))",
    ],
)
def test_an_account_s_file_whose_notes_are_damaged_is_refused(damage: str, drained: Lives, tmp_path: Path) -> None:
    shutil.copytree(drained.folder, tmp_path, dirs_exist_ok=True)
    lives = Lives(tmp_path, drained.seed, CUSTOMERS)
    db = sqlite3.connect(lives.account)
    db.executescript(damage)
    db.close()
    ended = lives.live()
    assert (ended.word, ended.code, lives.taken) == ("Unusable", 2, [])
    assert "it is damaged" in ended.said


def test_an_account_s_file_that_was_cut_is_refused(drained: Lives, tmp_path: Path) -> None:
    shutil.copytree(drained.folder, tmp_path, dirs_exist_ok=True)
    lives = Lives(tmp_path, drained.seed, CUSTOMERS)
    whole = lives.account.read_bytes()
    for size in range(512, len(whole), 4096):
        lives.account.write_bytes(whole[:size])
        ended = lives.live()
        assert (ended.word, ended.code, lives.taken) == ("Unusable", 2, [])
