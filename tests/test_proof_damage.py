"""A checkpoint or an account's file that was damaged or set back doubles nothing and loses nothing, or is refused."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from streammig.checkpoint import Checkpoint
from streammig.errors import Unusable
from tests.problems import raises
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
        assert lives.live(Fate("drain", 120)).word == "paused"
        assert len(lives.taken) > 2
        yield lives


def test_i3_i4_damaged_or_older_files_are_gone_on_with_or_refused() -> None:
    damaged(10, seed=1).must_hold()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_damaged_or_older_files() -> None:
    found = damaged(share(2000), seed=1000)
    found.must_hold()
    assert 0 < found.refusals < found.points


SCHEMA = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, '%s', CAST(x'ff' AS TEXT))"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("checkpoint", "UPDATE stage SET shape = CAST(x'ff' AS TEXT)"),
        ("checkpoint", "DELETE FROM run"),
        ("checkpoint", "DROP TABLE attempt"),
        ("checkpoint", SCHEMA % "seq"),
        ("account", "DROP TABLE start"),
        ("account", SCHEMA % "hold"),
        ("fence", "DROP TABLE fence"),
        ("fence", SCHEMA % "tick"),
    ],
)
def test_damage_that_sqlite_notices_is_refused_before_anything_is_sent(
    name: str, damage: str, drained: Lives, tmp_path: Path
) -> None:
    shutil.copytree(drained.folder, tmp_path, dirs_exist_ok=True)
    lives = Lives(tmp_path, drained.seed, CUSTOMERS)
    db = sqlite3.connect(getattr(lives, name))
    db.executescript(damage)
    db.close()
    ended = lives.live()
    assert (ended.word, ended.code, lives.taken) == ("Unusable", 2, [])
    assert "is damaged" in ended.said


def test_a_flipped_bit_in_the_index_of_states_is_refused(drained: Lives, tmp_path: Path) -> None:
    path = tmp_path / "c"
    shutil.copy(drained.checkpoint, path)
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE batch SET state = 'unknown'")
    (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'batch_open'").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    data = bytearray(path.read_bytes())
    at = data.index(b"unknown", (root - 1) * size, root * size)
    data[at] ^= 1
    path.write_bytes(data)
    with raises(Unusable, "checkpoint-damaged"):
        Checkpoint.open(path)


@pytest.mark.parametrize("events", [True, False])
def test_i3_i4_a_checkpoint_that_lost_its_wal_is_refused_and_can_be_finished(events: bool) -> None:
    with scratch() as folder:
        lives = Lives(folder, 7, 150, {} if events else {"events": {}})
        assert lives.live(Fate("after", 70)).word == "killed"
        lives.checkpoint.with_name("run.checkpoint-wal").unlink()
        lives.checkpoint.with_name("run.checkpoint-shm").unlink()
        before = lives.checkpoint.read_bytes()
        ended = lives.live()
        assert (ended.word, ended.code) == ("Unusable", 2)
        assert "older copy" in ended.said
        assert "--newest-is-lost" in ended.said
        assert lives.checkpoint.read_bytes() == before
        lives.asked = {"newest_lost": True}
        assert not lives.wrong(lives.live())
        lives.asked = {}
        assert not lives.finish()


@pytest.mark.parametrize("name", ["account", "fence"])
def test_a_file_of_the_state_folder_that_was_cut_is_refused(name: str, drained: Lives, tmp_path: Path) -> None:
    shutil.copytree(drained.folder, tmp_path, dirs_exist_ok=True)
    lives = Lives(tmp_path, drained.seed, CUSTOMERS)
    path = getattr(lives, name)
    whole = path.read_bytes()
    for size in range(512, len(whole), 4096):
        path.write_bytes(whole[:size])
        ended = lives.live()
        assert (ended.word, ended.code, lives.taken) == ("Unusable", 2, [])
