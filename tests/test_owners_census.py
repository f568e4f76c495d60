"""Claims about the pass over the customers: its reading, and the child process that sorts what was read."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from streammig.errors import BrokenExport, MachineFault, Unusable
from streammig.owners import Census, OwnerTable, check_space, child, open_table, take, wire
from streammig.owners.layout import About
from streammig.owners.passing import JUMP, keys_at
from streammig.records import START, Examined, Place, Position, Record, Run, Slice

LENGTH = 100


def examined(nth: int, *keys: tuple[str, str], absent: Sequence[tuple[str, str]] = ()) -> Examined:
    position = Position(0, nth * LENGTH, LENGTH - 2, nth + 1)
    records = tuple(Record(position, unit, own, b"", 1, (), None, twin) for unit, (own, twin) in enumerate(keys))
    return Examined(position, records, absent=tuple(absent))


def customers(*keys: tuple[str, str]) -> list[Examined]:
    return [examined(nth, key) for nth, key in enumerate(keys)]


class Listed:
    """A `Source` and `Rules` over given keys: one file after another, `step` slices a run.

    A slice's bytes are its number; which records it becomes is looked up. Counts what is opened and read.
    """

    head = tail = b""
    once = False

    def __init__(self, *files: Sequence[tuple[str, str]], step: int = 3, length: int = LENGTH) -> None:
        self.files, self.step, self.length = files, step, length
        self.compression = ""
        self.opened: list[Place] = []
        self.read = self.closed = 0
        self.breaks_at: int | None = None

    def runs(self, start: Place = START) -> Iterator[Run]:
        self.opened.append(start)
        try:
            for source in range(start.source, len(self.files)):
                begin = -(-start.offset // self.length) if source == start.source else 0
                for at in range(begin, len(self.files[source]), self.step):
                    if self.breaks_at is not None and at >= self.breaks_at:
                        raise BrokenExport("x.json", at * self.length, "it is cut")
                    some = range(at, min(at + self.step, len(self.files[source])))
                    self.read += len(some)
                    yield [Slice(source, nth * self.length, nth + 1, 9, b"%d" % nth) for nth in some]
        finally:
            self.closed += 1

    def fingerprints(self) -> list[dict[str, Any]]:
        return [{"compression": self.compression} for _ in self.files]

    def unchanged(self) -> None:
        pass

    def examine(self, run: Run) -> list[Examined]:
        found = [(it.position, self.files[it.source][int(it.data)]) for it in run]
        return [Examined(at, (Record(at, 0, owner, b"", 1, (), None, twin),)) for at, (owner, twin) in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run.owners"


def never(places: Iterator[Place]) -> Iterable[tuple[str, str]]:
    raise AssertionError("nothing was to be read again")


# -- the pass --------------------------------------------------------------------------------------------------------


def test_a_pass_leaves_a_table_that_a_later_call_opens(folder: Path) -> None:
    keys = [("a", "x"), ("b", "y"), ("a", "z"), ("c", "y"), ("d", "")]
    with Census(folder, "token") as census:
        census.add(customers(*keys))
        census.add([examined(5, absent=[("e", "deleted"), ("a", "deleted")]), examined(6, absent=[("f", "")])])
        with census.finish(lambda places: (keys[it.offset // LENGTH] for it in places)) as table:
            assert [(it.place.ordinal, it.code, it.first.ordinal) for it in table.duplicates()] == [
                (3, "duplicate-customer", 1),
                (4, "duplicate-email", 2),
            ]
    again = open_table(folder, "token")
    assert isinstance(again, OwnerTable)
    with again:
        assert again.absent("abcdefg") == {
            "c": "duplicate-email", "e": "deleted", "f": "left-out", "g": "unknown-customer",
        }  # fmt: skip
    assert not list(folder.glob("gathered*"))
    assert not (folder / "spill").exists()


def test_i6_the_process_that_passes_imports_no_duckdb(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from streammig.owners import Census\n"
        f"with Census(Path({str(folder)!r}), '') as census: census.finish(list).close()\n"
        "assert not any('duckdb' in name for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nothing_is_read_again_where_no_hash_stands_twice(folder: Path) -> None:
    with Census(folder, "") as census:
        census.add(customers(("a", "x"), ("b", ""), ("c", "")))
        census.finish(never).close()


def test_a_policy_of_none_reads_nothing_again(folder: Path) -> None:
    with Census(folder, "", policy="none") as census:
        census.add(customers(("a", "x"), ("a", "x")))
        with census.finish(never) as table:
            assert table.duplicate_count == 0


def test_keys_may_be_given_behind_a_look_ahead_over_all_places(folder: Path) -> None:
    keys = [(f"o{nth % 3000}", "") for nth in range(6000)]
    with Census(folder, "", bits=20) as census:
        census.add(customers(*keys))
        with census.finish(lambda places: [keys[it.offset // LENGTH] for it in list(places)]) as table:
            assert [it.place.ordinal for it in table.duplicates()] == list(range(3001, 6001))


@pytest.mark.parametrize("again", [[("a", "")], [], [("a", "")] * 3, [("a", ""), ("b", "")]])
def test_an_export_whose_keys_changed_meanwhile_is_refused(folder: Path, again: list[tuple[str, str]]) -> None:
    with Census(folder, "") as census:
        census.add(customers(("a", ""), ("a", "")))
        with pytest.raises(Unusable, match="the export changed"):
            census.finish(lambda places: (key for _, key in zip([*places, 0], again, strict=False)))
    assert open_table(folder, "") is None


def test_what_reading_again_raises_passes(folder: Path) -> None:
    with Census(folder, "") as census:
        census.add(customers(("a", ""), ("a", "")))
        with pytest.raises(BrokenExport):
            census.finish(lambda places: next(_broken()))


def _broken() -> Iterator[list[tuple[str, str]]]:
    raise BrokenExport("x.json", 7, "it is cut")
    yield []


# -- reading ---------------------------------------------------------------------------------------------------------


def test_a_source_is_passed_over_once_and_read_again_where_it_must(folder: Path) -> None:
    export = Listed([("a", "x"), ("b", "y"), ("c", "z"), ("d", "")], [("c", ""), ("e", "x"), ("f", "")])
    seen: list[int] = []
    with Census(folder, "") as census, take(census, export, export, seen.append) as table:
        assert [(it.place[:2], it.code, it.first[:2]) for it in table.duplicates()] == [
            ((1, 0), "duplicate-customer", (0, 200)),
            ((1, 100), "duplicate-email", (0, 0)),
        ]
    assert seen == [3, 4, 7]
    assert export.closed == len(export.opened) == 3


def test_a_far_place_of_a_plain_file_is_read_by_opening_it_there(folder: Path) -> None:
    keys = [(f"o{nth}", "") for nth in range(30)]
    export = Listed(keys, length=JUMP)
    for jump, opened, read in ((JUMP, 2, 5), (None, 1, 30)):
        export.opened, export.read = [], 0
        places = [Place(0, nth * JUMP, 0, nth + 1) for nth in (0, 1, 28)]
        assert list(keys_at(export, export, jump, iter(places))) == [keys[0], keys[1], keys[28]]
        assert (len(export.opened), export.read) == (opened, read)
        assert export.closed


def test_a_compressed_file_is_read_again_in_one_go(folder: Path) -> None:
    export = Listed([(f"o{nth % 10}", "") for nth in range(20)], length=JUMP)
    export.compression = "gzip"
    with Census(folder, "") as census, take(census, export, export) as table:
        assert table.duplicate_count == 10
    assert len(export.opened) == 2


def test_records_that_are_gone_end_the_keys_early() -> None:
    export = Listed([("a", ""), ("b", "")])
    places = [Place(0, 0, 0, 1), Place(0, 50, 0, 1), Place(0, 100, 0, 2)]
    assert list(keys_at(export, export, None, iter(places))) == [("a", "")]
    assert list(keys_at(export, export, None, iter([Place(0, 900, 0, 9)]))) == []
    assert list(keys_at(export, export, None, iter(()))) == []


def test_an_export_that_breaks_off_is_taken_up_to_there(folder: Path) -> None:
    export = Listed([("a", ""), ("b", ""), ("b", ""), ("c", "")])
    export.breaks_at = 3
    with Census(folder, "") as census, take(census, export, export) as table:
        assert table.owners == 2
        assert table.absent("abc") == {"c": "unknown-customer"}


def test_whoever_watches_can_end_the_pass(folder: Path) -> None:
    export = Listed([("a", "")] * 9)

    def stop(records: int) -> None:
        raise KeyboardInterrupt

    with Census(folder, "") as census, pytest.raises(KeyboardInterrupt):
        take(census, export, export, stop)
    assert census._child.returncode == -signal.SIGKILL
    assert export.closed == 1


# -- the child's ends ------------------------------------------------------------------------------------------------


def wait_until(true: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_child_that_is_killed_is_a_clear_fault_and_leaves_no_table(folder: Path) -> None:
    with Census(folder, "") as census:
        census.add(customers(("a", "")))
        os.kill(census._child.pid, signal.SIGKILL)
        with pytest.raises(MachineFault, match=r"run\.owners ended by signal 9"):
            census.finish(never)
        census.close()
    assert open_table(folder, "") is None
    with Census(folder, "") as census:
        census.finish(never).close()


def test_a_child_that_dies_during_the_pass_is_noticed_while_adding(folder: Path) -> None:
    with Census(folder, "") as census:
        os.kill(census._child.pid, signal.SIGKILL)
        some = [examined(nth, (f"o{nth}", "")) for nth in range(2_000)]
        with pytest.raises(MachineFault, match="ended by signal 9"):
            list(map(census.add, repeat(some, 100)))


def test_closing_from_another_thread_ends_a_call_that_is_under_way(folder: Path) -> None:
    with Census(folder, "") as census:
        census.add(customers(("a", ""), ("a", "")))
        os.kill(census._child.pid, signal.SIGSTOP)
        threading.Timer(0.05, census.close).start()
        with pytest.raises(MachineFault):
            census.finish(never)


def test_the_child_ends_with_a_parent_that_is_killed(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from streammig.owners import Census\n"
        f"census = Census(Path({str(folder)!r}), '')\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as parent:
        gathered = folder / "gathered.duckdb"
        wait_until(lambda: gathered.exists() and gathered.stat().st_size and not _let_go(gathered))
        parent.kill()
    wait_until(lambda: _let_go(gathered))
    assert open_table(folder, "") is None


def _let_go(path: Path) -> bool:
    """Whether no process works on this DuckDB file any more: DuckDB locks it for as long as it lives."""
    with open(path, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def test_ctrl_c_does_not_reach_the_child(folder: Path) -> None:
    with Census(folder, "") as census:
        wait_until((folder / "gathered.duckdb").exists)
        assert os.getpgid(census._child.pid) != os.getpgid(0)
        assert os.getsid(census._child.pid) != os.getsid(0)
        os.kill(census._child.pid, signal.SIGINT)
        census.finish(never).close()


def test_i9_the_child_knows_nothing_of_our_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def refuse(*args: Any, env: dict[str, str], **kwargs: Any) -> None:
        seen.append(env)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setenv("MASIVO_API_KEY", "not-for-children")
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(MachineFault, match="can't be started: Cannot allocate memory"):
        Census(folder, "")
    assert "not-for-children" not in str(seen)
    assert set(seen[0]) <= {"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL", "PYTHONPATH"}


def test_a_disk_that_is_full_is_said_in_those_words(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        census = Census(folder, "")  # the child inherits the limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with census:
        census.add(examined(nth, (f"o{nth}", f"mail-{nth}")) for nth in range(30_000))
        with pytest.raises(MachineFault, match=r"run\.owners: .* the disk is full"):
            census.finish(never)
    assert open_table(folder, "") is None


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    with Census(tmp_path / "no" / "such", "") as census, pytest.raises(MachineFault, match="No such file or directory"):
        census.finish(never)


def test_a_table_that_can_not_be_marked_finished_is_not_finished(folder: Path) -> None:
    with Census(folder, "") as census:
        wait_until((folder / "gathered.duckdb").exists)
        (folder / "about.part").mkdir()
        with pytest.raises(MachineFault, match="can't be kept there: Is a directory"):
            census.finish(never)
    assert open_table(folder, "") is None


def test_a_table_that_reads_back_as_something_else_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammig.owners.census.open_table", lambda *_, **__: None)
    with Census(folder, "") as census, pytest.raises(MachineFault, match="reads back as something else"):
        census.finish(never)


@pytest.mark.slow
def test_a_pass_beyond_its_memory_spills_and_comes_out_right(folder: Path) -> None:
    count = 400_000
    with Census(folder, "", memory_bytes=32 << 20) as census:
        for begin in range(0, count, 2_000):
            census.add(examined(nth, (f"o{nth % 300_000}", f"mail{nth}")) for nth in range(begin, begin + 2_000))
        keys = ((f"o{nth % 300_000}", f"mail{nth}") for nth in [*range(100_000), *range(300_000, count)])
        with census.finish(lambda places: (key for _, key in zip(places, keys, strict=True))) as table:
            assert (table.owners, table.duplicate_count) == (300_000, 100_000)


@pytest.mark.slow
def test_a_child_killed_at_any_moment_leaves_no_table_or_a_whole_one(folder: Path) -> None:
    for delay in range(0, 240, 12):
        with Census(folder, "") as census:
            timer = threading.Timer(delay / 1000, os.kill, (census._child.pid, signal.SIGKILL))
            timer.start()
            try:
                census.add(customers(*((f"o{nth % 900}", "") for nth in range(1_000))))
                census.finish(lambda places: ((f"o{it.offset // LENGTH % 900}", "") for it in places)).close()
            except MachineFault:
                assert open_table(folder, "") is None
            timer.cancel()
        table = open_table(folder, "")
        if table is not None:
            with table:
                assert table.duplicate_count == 100


# -- the child's side, in this process -------------------------------------------------------------------------------


def serve(begin: wire.Begin, *requests: wire.Request) -> list[wire.Answer]:
    inbox, outbox = io.BytesIO(), io.BytesIO()
    for request in (begin, *requests):
        wire.send(inbox, request)
    inbox.seek(0)
    child.serve(inbox, outbox, lambda: None)
    outbox.seek(0)
    decoder: msgspec.msgpack.Decoder[wire.Answer] = msgspec.msgpack.Decoder(wire.Answer)
    answers = []
    while (answer := wire.receive(outbox, decoder)) is not None:
        answers.append(answer)
    return answers


def begin(folder: Path, memory_bytes: int = 64 << 20) -> wire.Begin:
    return wire.Begin(str(folder), b"k" * 32, 64, memory_bytes, 1, True)


def entry(nth: int, owner: str) -> wire.Entry:
    return (0, nth * LENGTH, 0, nth + 1, owner, "", "")


def test_the_child_answers_request_by_request_until_there_are_no_more(folder: Path) -> None:
    answers = serve(
        begin(folder),
        wire.Add([entry(0, "a"), entry(1, "a")]),
        wire.Find(),
        wire.More(),
        wire.Keys([("a", ""), ("a", "")]),
        wire.More(),
        wire.Conclude(About("", "", 0, 0, (), "", "")),
    )
    assert answers[:3] == [
        wire.Found(2), wire.Page([Place(0, 0, 0, 1), Place(0, 100, 0, 2)]), wire.Page([]),
    ]  # fmt: skip
    assert isinstance(answers[3], wire.Done)
    assert (answers[3].about.owners, answers[3].about.duplicates) == (1, 1)


def test_the_child_ends_with_its_input_and_says_so_first() -> None:
    gone: list[bool] = []
    child.serve(io.BytesIO(b"\x05\0\0\0abc"), io.BytesIO(), lambda: gone.append(True))
    wait_until(lambda: gone)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "the disk is full"),
        (OSError(errno.EIO, "x"), "Input/output error"),
        (OSError("x"), "Input/output error"),
        (duckdb.IOException("Could not write file: No space left on device"), "the disk is full"),
        (duckdb.OutOfMemoryException("failed to offload data block: max_temp_directory_size"), "the disk is full"),
        (duckdb.OutOfMemoryException("could not allocate block"), "within 64 MB of memory"),
        (duckdb.ConversionException("cannot cast 'secret' to UBIGINT"), "DuckDB reports ConversionException"),
        (ValueError("secret"), r"ValueError in test_owners_census\.py, line \d+"),
    ],
)
def test_i9_what_stops_the_child_is_said_in_words_without_a_value(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    class Failing:
        def __init__(self, *_: object) -> None:
            raise error

    monkeypatch.setattr(child, "Gathering", Failing)
    (answer,) = serve(begin(folder))
    assert isinstance(answer, wire.Fault)
    assert not answer.changed
    with pytest.raises(MachineFault, match=words) as raised:
        raise MachineFault(answer.what, answer.hint)
    assert "secret" not in str(raised.value)


def test_the_child_says_when_the_export_changed(folder: Path) -> None:
    adds = wire.Add([entry(0, "a"), entry(1, "a")])
    answers = serve(begin(folder), adds, wire.Find(), wire.More(), wire.Keys([("b", "")]), wire.More())
    assert answers[2:] == [wire.Fault("the export changed while its customers were read", "", changed=True)]


def test_the_space_of_the_real_disk_is_looked_at(folder: Path) -> None:
    with pytest.raises(MachineFault, match="are free"):
        check_space(folder, 1 << 60)
