"""The account's limits as text, and its file: durable, owner-only, shared, readable by others, translated errors."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streammig.checkpoint.sqlite import translated
from streammig.errors import MachineFault, Unusable
from streammig.ratelimit import OFF, AccountState, Limits, Window, account_name, account_path, parse_limits, starts_of
from streammig.ratelimit.state import EXTRA_HALVES, LONGEST_HOLD, OPEN, Pace, Taken
from tests.problems import raises

PRESETS = {"dev": Limits((Window(1, 5.0), Window(250, 3600.0)), (Window(1000, 86400.0),))}
GAP = Limits((Window(1, 5.0),))
NOW = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return account_path(tmp_path / "state", "acme")


@pytest.fixture
def file(path: Path) -> Iterator[AccountState]:
    opened = AccountState(path)
    yield opened
    opened.close()


def pace(limits: Limits, margin: float = 0.0, lead: float = 0.0, kind: str = "migration") -> Pace:
    return Pace(limits, (margin,) * len(limits.counted("general" if kind == "general" else "migration")), lead)


def take(file: AccountState, now: float, limits: Limits = GAP, run_id: str = "") -> Taken:
    return file.take("migration", 1, pace(limits), now, run_id)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("1/5s", Limits((Window(1, 5.0),))),
        (" 1/5s , 250/1h ; general = 1000/1d ", PRESETS["dev"]),
        ("dev", PRESETS["dev"]),
        ("off", OFF),
        ("general=2500/1d", Limits((), (Window(2500, 86400.0),))),
        ("migration=1/50ms,2000/1.5m", Limits((Window(1, 0.05), Window(2000, 90.0)))),
        ("1/0.05s", Limits((Window(1, 0.05),))),
    ],
)
def test_limits_are_read_as_they_are_written(text: str, limits: Limits) -> None:
    assert parse_limits(text, PRESETS) == limits
    assert parse_limits(str(limits), PRESETS) == limits


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "''"),
        ("1/5", "'1/5'"),
        ("1/5s,x", "'x'"),
        ("0/5s", "'0/5s'"),
        ("1/0s", "'1/0s'"),
        ("1/367d", "'1/367d'"),
        ("-1/5s", "'-1/5s'"),
        ("1/5s;reads=1/1s", "'reads'"),
        ("1/5s;1/6s", "migration occurs twice"),
        ("staging", "'staging'"),
        ("1/1e9s", "'1/1e9s'"),
    ],
)
def test_wrong_limits_are_refused_naming_the_part(text: str, part: str) -> None:
    with raises(Unusable, "limits-invalid") as caught:
        parse_limits(text, PRESETS)
    assert part in caught.value.what
    assert "dev, off" in caught.value.hint


def test_a_window_is_written_in_its_largest_whole_unit() -> None:
    windows = Window(1, 5.0), Window(3, 90.0), Window(250, 3600.0), Window(7, 86400.0), Window(1, 0.05)
    assert [str(window) for window in windows] == ["1/5s", "3/90s", "250/1h", "7/1d", "1/0.05s"]
    assert str(OFF) == "off"


def test_an_account_without_a_name_is_a_hash_that_needs_key_and_address() -> None:
    one = account_name(None, "https://a.example", "secret-key")
    assert one == account_name("", "https://a.example", "secret-key")
    assert (
        len({one, account_name(None, "https://b.example", "secret-key"), account_name(None, "https://a.example", "k")})
        == 3
    )
    assert "secret" not in one
    assert account_name("acme", "https://a.example", "rotated") == "acme"


def test_every_account_has_a_file_of_its_own_whatever_its_name(tmp_path: Path) -> None:
    names = ["acme", "ACME", "Acme", "../acme", "a/b", "a b", "", "é", "x" * 300, "x" * 301, "key-0a"]
    paths = {str(account_path(tmp_path, name)).casefold() for name in names}
    assert len(paths) == len(names)
    assert all(Path(path).parent == Path(str(tmp_path / "accounts").casefold()) for path in paths)
    assert max(len(Path(path).name) for path in paths) < 100


def test_i7_a_start_must_be_older_than_window_and_margin(file: AccountState) -> None:
    first = file.take("migration", 2, pace(GAP, 0.5), NOW)
    assert len(first.starts) == 1
    file.sent(first.starts[0], NOW + 0.25)
    assert file.take("migration", 1, pace(GAP, 0.5), NOW + 5.7).wait == pytest.approx(0.05, abs=1e-3)
    assert file.take("migration", 1, pace(GAP, 0.5, lead=0.06), NOW + 5.7).starts


def test_i7_a_request_that_has_not_left_yet_counts_as_leaving_now(file: AccountState) -> None:
    (start,) = take(file, NOW).starts
    assert take(file, NOW + 7).wait == pytest.approx(5.0)
    file.sent(start, NOW + 8)
    assert take(file, NOW + 8.5).wait == pytest.approx(4.5)
    assert take(file, NOW + 13).starts


def test_i7_a_start_whose_process_is_silent_closes_by_itself(file: AccountState) -> None:
    take(file, NOW)
    assert take(file, NOW + OPEN + 4).wait == pytest.approx(1.0)
    assert take(file, NOW + OPEN + 5).starts


def test_what_a_dead_run_left_open_left_before_it_is_resumed(file: AccountState) -> None:
    take(file, NOW, run_id="run")
    assert file.enter("another", (), NOW + 2) == 0
    assert take(file, NOW + 6).wait == pytest.approx(5.0)
    assert file.enter("run", (), NOW + 7) == 0
    assert take(file, NOW + 12).starts


def test_migration_requests_count_in_the_general_windows_and_reads_not_in_theirs(file: AccountState) -> None:
    limits = Limits((Window(2, 10.0),), (Window(3, 100.0),))
    for _ in range(2):
        (start,) = take(file, NOW, limits).starts
        file.sent(start, NOW)
    assert file.take("general", 1, pace(limits, kind="general"), NOW + 1).starts
    assert file.take("general", 1, pace(limits, kind="general"), NOW + 2).wait == pytest.approx(98.0)
    assert take(file, NOW + 20, limits).wait == pytest.approx(80.0)


def test_several_that_fit_are_taken_in_one_go_and_the_rest_not(file: AccountState) -> None:
    assert len(file.take("migration", 3, pace(Limits((Window(2, 10.0),))), NOW).starts) == 2


def test_i7_a_new_file_takes_over_the_starts_that_a_checkpoint_knows(file: AccountState) -> None:
    limits = Limits((Window(9, 60.0),))
    file.enter("run", [NOW - 70, NOW - 3], NOW)
    file.enter("another", [NOW - 1], NOW)  # it is not new any more
    assert starts_of(file.path, limits, NOW).usage(limits, NOW)[0].used == 1
    assert take(file, NOW + 1).wait == pytest.approx(1.0)


def test_a_hold_stops_everyone_and_is_only_ever_prolonged(file: AccountState, path: Path) -> None:
    file.hold(NOW + 60)
    file.hold(NOW + 10)
    other = AccountState(path)
    assert take(other, NOW, OFF) == Taken((), 60.0, "held")
    assert other.take("general", 1, pace(GAP, kind="general"), NOW + 59).wait == pytest.approx(1.0)
    assert take(other, NOW + 60, OFF).starts == (0,)
    other.close()


def test_a_429_widens_the_margin_and_time_narrows_it_again(file: AccountState) -> None:
    (start,) = take(file, NOW).starts
    file.sent(start, NOW)
    file.on_429(NOW)
    file.on_429(NOW + 1)  # the same trouble
    assert take(file, NOW + 5).wait == pytest.approx(0.05, abs=1e-3)
    file.on_429(NOW + 11)
    assert take(file, NOW).wait == pytest.approx(5.1, abs=1e-2)
    for more in range(20):
        file.on_429(NOW + 30 + 20 * more)
    wide = NOW + 30 + 20 * 19
    (start,) = take(file, wide).starts
    file.sent(start, wide)
    assert take(file, wide).wait == pytest.approx(7.0, abs=0.01)
    (start,) = take(file, wide + 10 * EXTRA_HALVES).starts
    file.sent(start, wide + 10 * EXTRA_HALVES)
    assert take(file, wide + 10 * EXTRA_HALVES).wait == pytest.approx(5.002, abs=0.001)


def test_starts_in_the_future_count_as_made_now(file: AccountState) -> None:
    (start,) = take(file, NOW + 3600).starts
    file.sent(start, NOW + 3600)
    file.hold(NOW + 3 * LONGEST_HOLD)
    assert take(file, NOW).wait > 3 * LONGEST_HOLD - 1
    assert file.enter("run", (), NOW) == 1
    assert take(file, NOW + LONGEST_HOLD).starts


def test_starts_that_no_window_needs_are_dropped_and_those_of_an_hour_kept(file: AccountState) -> None:
    limits = Limits((Window(1, 0.5),))
    for moment in range(0, 7200, 60):
        (start,) = take(file, NOW + moment, limits).starts
        file.sent(start, NOW + moment)
    with sqlite3.connect(file.path) as db:
        assert db.execute("SELECT count(*), max(at) - min(at) FROM start").fetchone() == (62, 3660.0)
    db.close()


def test_the_budget_says_used_and_left_in_every_window(file: AccountState) -> None:
    limits = Limits((Window(1, 5.0), Window(3, 3600.0)), (Window(10, 86400.0),))
    for moment in (0, 10):
        (start,) = take(file, NOW + moment, limits).starts
        file.sent(start, NOW + moment)
    file.take("general", 1, pace(limits, kind="general"), NOW + 11)
    assert [tuple(use) for use in starts_of(file.path, limits, NOW + 12).usage(limits, NOW + 12)] == [
        ("1/5s", "migration", 1, 1, 0, 3.0),
        ("3/1h", "migration", 3, 2, 1, 3588.0),
        ("10/1d", "general", 10, 3, 7, 86388.0),
    ]
    assert starts_of(file.path, limits, NOW + 100_000).usage(limits, NOW + 100_000)[0] == (
        "1/5s",
        "migration",
        1,
        0,
        1,
        0.0,
    )


def test_an_account_never_used_has_its_whole_budget_and_reading_makes_no_file(tmp_path: Path) -> None:
    assert starts_of(tmp_path / "none.sqlite", GAP, NOW).usage(GAP, NOW) == [("1/5s", "migration", 1, 0, 1, 0.0)]
    assert list(tmp_path.iterdir()) == []


def test_status_can_read_after_a_process_died_in_the_middle_of_a_commit(file: AccountState, path: Path) -> None:
    (start,) = take(file, NOW).starts
    file.sent(start, NOW)
    dies = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode = TRUNCATE'); db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN IMMEDIATE'); db.execute('DELETE FROM start')\n"
        "db.execute('CREATE TABLE filler (x)')\n"
        "for _ in range(50): db.execute('INSERT INTO filler VALUES (zeroblob(4000))')\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", dies, str(path)], check=False).returncode == 9
    assert Path(f"{path}-journal").stat().st_size > 0
    assert starts_of(path, GAP, NOW + 1).usage(GAP, NOW + 1)[0].used == 1


def test_what_is_no_file_of_ours_is_refused_and_untouched(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    text = tmp_path / "notes.txt"
    text.write_text("not a database, " * 100)
    for path, code in ((foreign, "account-file-foreign"), (text, "account-file-damaged")):
        before = path.read_bytes()
        with raises(Unusable, code) as caught:
            AccountState(path)
        assert str(path) in caught.value.what
        with raises(Unusable, code):
            starts_of(path, GAP, NOW)
        assert path.read_bytes() == before


@pytest.mark.parametrize("other", [3, 9])
def test_another_format_is_refused_by_its_number(file: AccountState, other: int) -> None:
    with sqlite3.connect(file.path) as db:
        db.execute(f"PRAGMA user_version = {other}")
    db.close()
    with raises(Unusable, "account-file-format"):
        AccountState(file.path)


def test_a_folder_that_cannot_be_made_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(MachineFault, "account-file-io") as caught:
        AccountState(tmp_path / "file" / "accounts" / "a.sqlite")
    assert "--state-dir" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENOSPC, "Make room"), (errno.EDQUOT, "Make room"), (errno.EACCES, "--state-dir")]
)
def test_a_folder_without_room_is_no_folder_that_may_not_be_written(tmp_path: Path, code: int, hint: str) -> None:
    with pytest.raises(MachineFault) as caught, translated(tmp_path / "a.sqlite", AccountState.role):
        raise OSError(code, os.strerror(code))
    assert hint in caught.value.hint


def test_i2_on_a_full_disk_no_slot_is_given_and_the_file_stays_whole(path: Path) -> None:
    script = (
        "import resource, signal, sys, pathlib\n"
        "from streammig.ratelimit import AccountState, Limits, Window\n"
        "from streammig.ratelimit.state import Pace\n"
        "from streammig.errors import MachineFault\n"
        "file = AccountState(pathlib.Path(sys.argv[1]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "size = pathlib.Path(sys.argv[1]).stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "noted = 0\n"
        "try:\n"
        "    while noted < 10_000:\n"
        "        file.take('migration', 100, Pace(Limits((Window(10**6, 1e6),)), (0,)), 1.0)\n"
        "        noted += 100\n"
        "except MachineFault as fault:\n"
        "    print(noted, fault.exit_code, fault.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    noted, exit_code, hint = done.stdout.split(" ", 2)
    assert exit_code == "1"
    assert "Nothing was sent that it does not hold. Make room" in hint
    assert len(starts_of(path, Limits((Window(10**6, 1e6),)), 2.0).migration) == int(noted) < 10_000


def test_a_file_that_another_process_never_lets_go_is_said_so(file: AccountState) -> None:
    file._db.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with raises(MachineFault, "account-file-busy") as caught:
        file.hold(NOW)
    assert "Another process" in caught.value.hint
    other.close()
    file.hold(NOW)
