"""The checkpoint keeps what a run needs to go on, and nothing else gets in or out."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammig.checkpoint import Checkpoint, is_held, locked
from streammig.checkpoint.codec import decode_tally, encode_tally, pack_ranges, unpack_ranges
from streammig.errors import MachineFault, Unusable
from streammig.model import (
    Batch,
    BatchState,
    DeadLetter,
    Draft,
    Kind,
    Place,
    Position,
    Progress,
    Range,
    Receipt,
    Tally,
)
from tests.drafts import made
from tests.problems import raises

FINGERPRINT = {"name": "export.json", "size": 1000, "head": "aa"}


def tally(records: int, amount: str = "0") -> Tally:
    value = Decimal(amount)
    return Tally(records, records, {"points": value} if value else {})


def draft(begin: int, end: int, amount: str = "1.50") -> Draft:
    ranges = (Range(Place(0, begin * 10, 0, begin + 1), Place(0, end * 10, 0, end + 1)),)
    return made(ranges, tally(end - begin, amount), b"%d-%d" % (begin, end))


def behind(end: int, read: Tally, **more: object) -> Progress:
    return Progress(Place(0, end * 10, 0, end + 1), end, read, **more)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.checkpoint"


@pytest.fixture
def file(path: Path):  # type: ignore[no-untyped-def]
    opened = Checkpoint.create(path, binding={"account": "a"}, version="1", started=1000.0)
    opened.add_stage("customers", 0, {"map": ""}, [FINGERPRINT])
    yield opened
    opened.close()


def sent(file: Checkpoint, batch: Batch, kind: Kind, state: BatchState) -> None:
    attempt = file.sending(batch, 1.0)
    file.received(batch, attempt, Receipt(kind, 201, latency=0.5, date="now"), state, 2.0)


def test_i1_a_lost_cent_is_an_imbalance(file: Checkpoint) -> None:
    file.seal("customers", draft(0, 3), behind(3, tally(3, "1.51")), 1.0)
    assert not file.totals("customers").balanced


def test_what_bins_hold_beyond_the_frontier_is_counted_and_passed_over(file: Checkpoint) -> None:
    file.seal("customers", draft(5, 7, "2"), Progress(read=tally(2, "2")), 1.0)
    assert file.totals("customers").balanced
    assert file.ahead_ranges("customers") == list(draft(5, 7).ranges)
    file.seal("customers", draft(0, 5), behind(7, tally(7, "3.50")), 1.0)
    assert file.ahead_ranges("customers") == []
    assert file.totals("customers").balanced


def test_the_parts_of_a_split_batch_name_it_and_carry_its_records(file: Checkpoint) -> None:
    batch = file.seal("customers", draft(0, 4, "2"), behind(4, tally(4, "2")), 1.0)
    first, second = file.split(batch, [draft(0, 2, "1.50"), draft(2, 4, "0.50")], 2.0)
    assert (first.parent, second.parent) == (batch.seq, batch.seq)
    assert file.totals("customers").balanced
    letters = [DeadLetter(Position(0, at * 10, 9, at + 1), 0, "refused", "422", tally(1)) for at in (0, 1)]
    letters[0] = DeadLetter(letters[0].position, 0, "refused", "422", tally(1, "1.50"))
    file.dead(first, letters, 3.0, ["c1"])
    assert file.totals("customers").balanced
    assert file.absent_reasons(["c1", "c2"]) == {"c1": "refused"}
    assert [batch for batch, _ in file.dead_letters("customers")] == [first.seq, first.seq]


def test_storing_the_same_progress_twice_changes_nothing(file: Checkpoint) -> None:
    letter = DeadLetter(Position(0, 0, 9, 1), 0, "bad-date", "$.dob", tally(1))
    reading = behind(2, tally(2), filtered={"deleted": tally(1)}, dead=(letter,), absent=(("c1", "deleted"),))
    file.advance("customers", reading)
    file.advance("customers", reading)
    assert file.totals("customers").balanced
    assert file.dead_codes("customers") == {"bad-date": 1}


def test_i9_owners_are_kept_as_salted_hashes(file: Checkpoint, path: Path) -> None:
    file.advance("customers", Progress(absent=(("anna@example.org", "deleted"),)))
    file.close()
    for name in os.listdir(path.parent):
        assert b"anna@example.org" not in (path.parent / name).read_bytes()


@pytest.mark.parametrize(
    ("sizes", "count", "sampled"),
    [
        ([10] * 20, 5, [1, 5, 10, 15, 20]),
        ([10] * 20, 50, list(range(1, 21))),
        ([4000] * 6 + [40] * 20, 5, [1, 2, 4, 5, 26]),  # not the many parts of a refused one
    ],
)
def test_samples_are_spread_evenly_over_the_bytes_of_accepted_batches(
    file: Checkpoint, sizes: list[int], count: int, sampled: list[int]
) -> None:
    for at, size in enumerate(sizes):
        one = draft(at, at + 1)
        body = made(one.ranges, one.tally, one.body.ljust(size, b"."))
        batch = file.seal("customers", body, behind(at + 1, tally(at + 1)), 1.0)
        sent(file, batch, Kind.ACCEPTED, BatchState.ACCEPTED)
    assert [it.seq for it in file.sample("customers", count)] == sampled
    assert file.last_settled("customers") == 2.0


def test_a_reader_sees_a_run_that_goes_on_and_can_not_write(file: Checkpoint, path: Path) -> None:
    reader = Checkpoint.open(path, read_only=True)
    file.seal("customers", draft(0, 3), behind(3, tally(3, "1.50")), 1.0)
    assert reader.totals("customers").pending == tally(3, "1.50")
    with pytest.raises(MachineFault):
        reader.stage_state("customers", "running", 1.0)
    reader.close()


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("PRAGMA application_id = 1", "checkpoint-foreign"),
        ("PRAGMA user_version = 99", "checkpoint-newer"),
        ("PRAGMA user_version = 2", "checkpoint-older-format"),
    ],
)
def test_what_is_no_checkpoint_of_this_version_is_refused_as_it_is(
    file: Checkpoint, path: Path, statement: str, code: str
) -> None:
    file.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
        db.execute("UPDATE run SET version = '0.7'")
    before = path.read_bytes()
    with raises(Unusable, code) as refused:
        Checkpoint.open(path)
    assert ("streammig 0.7" in refused.value.hint) == (code == "checkpoint-older-format")
    assert path.read_bytes() == before


@pytest.mark.parametrize("jump", [-3600.0, 0.0, 3600.0])
def test_i3_what_counts_as_accepted_later_does_not_hang_on_the_wall_clock(file: Checkpoint, jump: float) -> None:
    """The clock is set while the outcome of the second of three batches is in doubt, and told wrong since."""
    first, lost, last = (
        file.seal("customers", draft(it, it + 1), behind(it + 1, tally(it + 1)), 1.0) for it in range(3)
    )
    for batch, at, kind in (
        (first, 10.0, Kind.ACCEPTED), (lost, 20.0 + jump, Kind.UNKNOWN), (last, 30.0 + jump, Kind.ACCEPTED)
    ):  # fmt: skip
        state = BatchState.ACCEPTED if kind is Kind.ACCEPTED else BatchState.UNKNOWN
        file.received(batch, file.sending(batch, at), Receipt(kind, latency=0.1), state, at + 0.1)
    assert [it.seq for it in file.accepted_after(lost, 1e9, 3)] == [last.seq]


def test_the_totals_of_a_stage_cost_the_same_however_many_batches_are_settled(file: Checkpoint) -> None:
    copy_batch(file, 1000)
    steps: list[int] = []
    file._db.set_progress_handler(lambda: steps.append(1), 10)  # every ten instructions of SQLite
    file.totals("customers")
    assert 0 < len(steps) < 20


def test_an_accepted_batch_of_a_stage_in_order_takes_less_than_200_bytes(file: Checkpoint) -> None:
    copy_batch(file, 2000)
    ((pages, size),) = file.rows("SELECT * FROM pragma_page_count, pragma_page_size")
    copy_batch(file, 2000)
    ((now,),) = file.rows("PRAGMA page_count")
    assert (now - pages) * size < 200 * 2000


def copy_batch(file: Checkpoint, count: int) -> None:
    """So many accepted batches more, as one of 1,000 customers is kept."""
    last = file.counts("customers")["accepted"]
    if not last:
        begin, end = Place(0, 10**11, 0, 10**8), Place(0, 10**11 + 10**6, 0, 10**8 + 1000)
        one = made((Range(begin, end),), Tally(1000, 1000, {"points": Decimal("123456.78")}), b"x" * 70_000)
        batch = file.seal("customers", one, Progress(end, 1000, one.tally), 1.7e9, mapping="0123456789abcdef")
        file.received(batch, file.sending(batch, 1.7e9), Receipt(Kind.ACCEPTED), BatchState.ACCEPTED, 1.7e9 + 0.3)
        last = 1
    columns = [row["name"] for row in file.rows("PRAGMA table_info(batch)")]
    copied = ", ".join("number" if name == "seq" else name for name in columns)
    numbers = f"SELECT {last + 1} UNION ALL SELECT number + 1 FROM n WHERE number < {last + count}"
    file.change(
        f"WITH RECURSIVE n (number) AS ({numbers})"
        f" INSERT INTO batch ({', '.join(columns)}) SELECT {copied} FROM batch, n WHERE seq = 1"
    )


def test_a_lock_that_a_dead_process_left_is_no_hindrance(path: Path) -> None:
    path.with_name(path.name + ".lock").write_text('{"pid": 1, "host": "gone", "command": "x"}')
    with locked(path, "again"):
        assert is_held(path)


places = st.tuples(st.integers(0, 2**40), st.integers(0, 2000), st.integers(1, 2**33))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), places, st.integers(0, 2**34), st.integers(0, 999), st.integers(0, 1000))))
def test_ranges_come_back_as_they_were_packed(seeds: list[tuple[int, tuple[int, int, int], int, int, int]]) -> None:
    ranges: list[Range] = []
    source = offset = 0
    ordinal = 1
    for step, (gap, unit, _), length, end_unit, count in seeds:
        if step:
            source, offset, ordinal = source + step, 0, 1
        begin = Place(source, offset + gap, unit, ordinal)
        end = Place(source, begin.offset + length, end_unit, begin.ordinal + count)
        ranges.append(Range(begin, end))
        offset, ordinal = end.offset, end.ordinal
    assert unpack_ranges(pack_ranges(ranges)) == tuple(ranges)


def test_ranges_out_of_order_are_a_defect() -> None:
    with pytest.raises(ValueError, match="reading order"):
        pack_ranges([draft(5, 6).ranges[0], draft(0, 1).ranges[0]])


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.decimals(allow_nan=False, allow_infinity=False)))
def test_a_tally_comes_back_exactly(sums: dict[str, Decimal]) -> None:
    assert decode_tally(encode_tally(Tally(1, 2, sums))) == Tally(1, 2, sums)


def test_a_crash_within_a_rollback_journal_keeps_nobody_from_reading(tmp_path: Path) -> None:
    made = Checkpoint.create(tmp_path / "c", binding={"account": "a"}, version="1", started=0.0)
    made.close()
    writer = sqlite3.connect(tmp_path / "c", isolation_level=None)
    for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA cache_size = 1", "BEGIN IMMEDIATE"):
        writer.execute(statement)
    writer.execute("CREATE TABLE more (text)")
    writer.executemany("INSERT INTO more VALUES (?)", [("x" * 3000,)] * 100)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("c", "c-journal"):
        shutil.copy(tmp_path / name, crashed / name)
    writer.close()
    file = Checkpoint.open(crashed / "c", read_only=True)
    assert file.run["binding"] == {"account": "a"}
    assert not file.rows("SELECT 1 FROM sqlite_master WHERE name = 'more'")
    file.close()
