"""Bad input through the real command line: what it is answered with, and that nothing is lost or written for it."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint, locked
from streammig.sandbox.local import LocalTarget
from tests.commands import (
    Called,
    Shell,
    finished,
    like_any_user,
    process,
    quickly,
    sandbox,
    states,
    until,
    with_files_up_to,
    write,
)
from tests.sandbox_caller import customer, event

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GOOD = [customer(f"c{number}") for number in range(8)]


def landed(target: LocalTarget) -> int:
    found: int = target.ledger()["holds"]["customers"]["landed"]
    return found


def asked(target: LocalTarget) -> dict[str, Any]:
    """The requests that came, by kind."""
    found: dict[str, Any] = target.ledger()["requests"]
    return found


# -- files that are no export ----------------------------------------------------------------------------------------


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, "export-unreadable"),
        (folder, "export-not-found"),
        (empty, "export-empty"),
        (lambda path: path.write_text(" \n"), "export-empty"),
        (os.mkfifo, "export-not-a-file"),
    ],
)
def test_a_file_that_can_be_no_export_is_named_and_nothing_is_asked_of_the_target(
    shell: Shell, target: LocalTarget, make: Callable[[Path], None], code: str
) -> None:
    make(shell.folder / "export.json")
    before = shell.files() if make is not os.mkfifo else {}
    ended = shell.run(target.url, "--customers", "export.json")
    assert (ended.code, ended.problem) == (2, code)
    assert "export.json" in ended.err
    assert "customers" not in asked(target)
    assert not shell.checkpoint.exists()
    if before:
        assert shell.files() == before


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, target: LocalTarget) -> None:
    write(tmp_path / "export.json", GOOD).chmod(0)
    ended = finished(tmp_path, "run", *quickly(target.url), "--customers", "export.json", before=like_any_user)
    assert (ended.code, ended.problem) == (2, "export-unreadable")
    assert "export.json" in ended.err
    assert "customers" not in asked(target)


@pytest.mark.parametrize(
    ("document", "name", "code", "said"),
    [
        ({"data": {"customers": GOOD}}, "e.json#data.members", "array-not-found", ["data.customers"]),
        ({"old": GOOD, "new": GOOD}, "e.json", "array-not-named", ["old: objects", "new: objects", "FILE#old"]),
        ({"data": 1}, "e.json", "array-not-named", ["FILE#path.to.array"]),
    ],
)
def test_an_array_that_can_not_be_told_is_asked_for_with_the_arrays_there_are(
    shell: Shell, target: LocalTarget, document: Any, name: str, code: str, said: list[str]
) -> None:
    (shell.folder / "e.json").write_text(json.dumps(document, indent=1))
    ended = shell.run(target.url, "--customers", name)
    assert (ended.code, ended.problem) == (2, code)
    assert all(named in ended.err for named in ["e.json", *said]), ended.err
    assert "customers" not in asked(target)
    assert not shell.checkpoint.exists()


# -- exports that break off ------------------------------------------------------------------------------------------

WHOLE = json.dumps({"customers": GOOD}).encode()
CUT = WHOLE.index(b'"c6"') + 2
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in GOOD)


def cut_gzip() -> bytes:
    packed = gzip.compress(WHOLE[:CUT]) + gzip.compress(WHOLE[CUT:])
    return packed[:-12]


def cut_zstd() -> bytes:
    packed = zstd.compress(WHOLE[:CUT]) + zstd.compress(WHOLE[CUT:])
    return bytes(packed[:-5])


BROKEN = [
    (WHOLE[:CUT], 6, f"byte {CUT}"),
    (WHOLE[:-1], 8, f"byte {len(WHOLE) - 1}"),
    (WHOLE[:-2], 8, f"byte {len(WHOLE) - 2}"),
    (WHOLE[:-2] + b",]}", 8, "byte"),
    (cut_gzip(), 7, "gzip"),
    (gzip.compress(WHOLE)[:-4], 8, "gzip"),
    (cut_zstd(), 6, "zstd"),
    (gzip.compress(WHOLE) + b"PK", 8, "garbage"),
    (WHOLE + b" [{}]", 8, f"byte {len(WHOLE) + 1}"),
    (WHOLE[:CUT] + b"\x00" + WHOLE[CUT:], 6, "byte"),
]


@pytest.mark.parametrize(("content", "delivered", "said"), BROKEN)
def test_an_export_that_breaks_off_stops_the_run_before_its_first_request_and_is_delivered_up_to_there_if_asked(
    shell: Shell, target: LocalTarget, content: bytes, delivered: int, said: str
) -> None:
    (shell.folder / "export.json").write_bytes(content)
    ended = shell.run(target.url, "--customers", "export.json", "--json")
    assert (ended.code, ended.problem) == (2, "export-broken")
    assert said in ended.err
    assert "customers" not in asked(target)
    assert not shell.checkpoint.exists()  # it would be bound to this export
    ended = shell.run(target.url, "--customers", "export.json", "--accept-broken-end", "--json")
    assert (ended.code, landed(target)) == (0, delivered)
    assert ended.document["stages"]["customers"]["state"] == "complete"
    assert said in ended.err


@pytest.mark.parametrize("behind", [b"\r\n\0\0", b"\0" * 70_000, b"(5 rows)\n", b", \n", b"x" * 3_000_000])
def test_what_stands_behind_a_whole_document_and_holds_no_record_is_a_warning(
    shell: Shell, target: LocalTarget, behind: bytes
) -> None:
    (shell.folder / "export.json").write_bytes(WHOLE + behind)
    ended = shell.run(target.url, "--customers", "export.json")
    assert (ended.code, landed(target)) == (0, 8)
    assert "after the document's end" in ended.err


def test_an_export_that_is_mended_after_the_scan_is_run_by_the_same_command(shell: Shell, target: LocalTarget) -> None:
    path = shell.folder / "export.json"
    path.write_bytes(WHOLE[:CUT])
    write(shell.folder / "events.json", [{"id": "c1", "events": [event("p1")]}])
    command = "--customers", "export.json", "--events", "events.json"
    assert shell.run(target.url, *command).code == 2
    assert "customers" not in asked(target)
    path.write_bytes(WHOLE)
    assert shell.run(target.url, *command).code == 0


def test_the_end_of_every_file_of_every_stage_is_looked_at_first(shell: Shell, target: LocalTarget) -> None:
    (shell.folder / "export.json").write_bytes(WHOLE)
    for name, cut in (("e1.json", -2), ("e2.json", -3)):
        path = write(shell.folder / name, [{"id": "c1", "events": [event(name)]}])
        path.write_bytes(path.read_bytes()[:cut])
    command = "--customers", "export.json", "--events", "e1.json", "--events", "e2.json"
    ended = shell.run(target.url, *command)
    assert ended.code == 2
    assert "e1.json: the export breaks off" in ended.err
    assert "e2.json: the export breaks off" in ended.err
    assert "customers" not in asked(target)
    ended = shell.run(target.url, *command, "--accept-broken-end")
    assert (ended.code, target.ledger()["holds"]["events"]["count"]) == (0, 1)


@pytest.mark.parametrize("stages", [("--customers",), ("--customers", "--events")])
def test_a_stage_that_is_complete_up_to_a_broken_end_stays_so_in_calls_that_do_not_say_it_again(
    shell: Shell, target: LocalTarget, stages: tuple[str, ...]
) -> None:
    (shell.folder / "export.json").write_bytes(WHOLE[:CUT])
    write(shell.folder / "events.json", [{"id": "c1", "events": [event("p1")]}])
    first = "--customers", "export.json"
    assert shell.run(target.url, *first, "--accept-broken-end").code == 0
    files = {"--customers": "export.json", "--events": "events.json"}
    again = shell.run(target.url, *(word for stage in stages for word in (stage, files[stage])), "--json")
    assert (again.code, landed(target)) == (0, 6), again.err
    assert {it["state"] for it in again.document["stages"].values()} == {"complete"}


def test_a_checkpoint_that_has_begun_on_a_broken_export_is_told_the_way_on(shell: Shell, target: LocalTarget) -> None:
    (shell.folder / "export.json").write_bytes(WHOLE[:CUT])
    assert shell.run(target.url, "--customers", "export.json", "--accept-broken-end", "--first", 2).code == 10
    ended = shell.run(target.url, "--customers", "export.json")
    assert ended.code == 2
    assert "--accept-broken-end" in ended.err
    assert "Export it again" not in ended.err
    assert shell.run(target.url, "--customers", "export.json", "--accept-broken-end").code == 0
    assert landed(target) == 6


def test_an_export_that_breaks_off_before_its_first_record_is_to_be_exported_again(
    shell: Shell, target: LocalTarget
) -> None:
    (shell.folder / "export.json").write_bytes(gzip.compress(WHOLE)[:12])
    ended = shell.run(target.url, "--customers", "export.json")
    assert ended.code == 2
    assert "Nothing was sent. Export it again" in ended.err
    (shell.folder / "export.json").write_bytes(WHOLE)
    assert shell.run(target.url, "--customers", "export.json").code == 0
    (shell.folder / "export.json").write_bytes(gzip.compress(WHOLE)[:12])
    ended = shell.run(target.url, "--customers", "export.json")
    assert (ended.code, "Put back the export" in ended.err, "is delivered" in ended.err) == (2, True, False)


# -- records that can't be sent --------------------------------------------------------------------------------------


def encoded(record: Any) -> bytes:
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (b'{"id": "bad", "name"', "invalid-json", ""),
        (b'{"id": "bad", "name": "\xff"}', "invalid-utf8", ""),
        (b'{"id": "bad", "name": "\\ud800"}', "lone-surrogate", ""),
        (encoded({**customer("bad"), "name": 5}), "wrong-type", "$.name"),
        (encoded({name: it for name, it in customer("bad").items() if name != "email"}), "missing-field", "$.email"),
        (encoded({**customer("bad"), "registration_date": "2020-13-01T00:00:00Z"}), "bad-date", "$.registration_date"),
        (encoded({**customer("bad"), "gender": "SOME"}), "bad-enum", "$.gender"),
        (encoded({**customer("bad"), "email": "no address"}), "bad-email", "$.email"),
        (encoded({**customer("bad"), "name": "x" * 5000}), "too-large", "max_record_bytes"),
        (b"[1, 2]", "not-an-object", ""),
    ],
)
def test_a_bad_record_is_a_dead_letter_and_the_rest_goes_on(
    shell: Shell, target: LocalTarget, line: bytes, code: str, said: str
) -> None:
    lines = LINES.splitlines(keepends=True)
    lines.insert(3, line + b"\n")
    (shell.folder / "export.ndjson").write_bytes(b"".join(lines))
    (shell.folder / "m.toml").write_text('max_record_bytes = 2000\n[customers]\nfiles = ["export.ndjson"]\n')
    ended = shell.run(target.url, "m.toml", "--json")
    assert ended.code == 3, ended.err
    assert landed(target) == len(GOOD)
    assert ended.document["stages"]["customers"]["dead_by"] == {code: 1}
    assert ended.document["balanced"]
    letters = shell("dead-letters", "m.checkpoint")
    assert letters.code == 0
    (letter,) = letters.out.splitlines()
    found = json.loads(letter)
    assert (found["stage"], found["line"], found["code"]) == ("customers", 4, code)
    assert found["offset"] == sum(len(each) for each in lines[:3])
    if code != "too-large":
        assert said in found["message"]
    assert "bad@example.org" not in found["message"]
    assert "no address" not in found["message"]


# -- keys, hosts, answers --------------------------------------------------------------------------------------------


@pytest.fixture
def export(shell: Shell) -> Path:
    return write(shell.folder / "export.json", GOOD)


def test_without_a_key_nothing_is_read_and_the_message_says_where_it_belongs(
    shell: Shell, target: LocalTarget, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASIVO_API_KEY")
    before = shell.files()
    ended = shell.run(target.url, "--customers", export)
    assert (ended.code, ended.problem) == (2, "key-missing")
    assert "MASIVO_API_KEY" in ended.err
    assert shell.files() == before
    assert "customers" not in asked(target)


def test_a_host_that_does_not_answer_at_the_start_is_a_mistake_in_the_address(shell: Shell, export: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for url, said in [
        (f"http://127.0.0.1:{port}", "Connect"),
        ("https://no-such-host.invalid/api", "the host's name is not known"),
    ]:
        ended = shell.run(url, "--customers", export)
        assert (ended.code, ended.problem) == (2, "no-connection"), ended.err
        assert url in ended.err
        assert said in ended.err
        assert "--base-url" in ended.err
        assert not shell.checkpoint.exists()


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "Check that the API key may migrate"), (404, "Check --base-url"), (405, "Check --base-url")],
)
def test_an_answer_that_no_record_explains_stops_the_run_with_a_hint(
    shell: Shell, export: Path, status: int, said: str
) -> None:
    with sandbox({"on": "customers", "nth": 1, "do": "answer", "status": status}) as target:
        ended = shell.run(target.url, "--customers", export)
        assert (ended.code, ended.problem) == (5, "target-refuses")
        assert said in ended.err
        assert asked(target)["customers"] == {str(status): 1}


# -- checkpoints that do not belong here -----------------------------------------------------------------------------


def interrupted(shell: Shell, target: LocalTarget, *arguments: object) -> Called:
    return shell.run(target.url, "--first", 3, "--customers", "export.json", *arguments)


@contextlib.contextmanager
def untouched(shell: Shell, target: LocalTarget) -> Iterator[None]:
    """Nothing is sent, and no file of the run changes."""
    sent, before = asked(target).get("customers"), files_of_the_run(shell)
    yield
    assert asked(target).get("customers") == sent
    assert files_of_the_run(shell) == before


def files_of_the_run(shell: Shell) -> dict[str, bytes]:
    """Not the lock, which names its last holder, nor what SQLite makes to read a file that a writer closed."""
    return {
        name: content
        for name, content in shell.files().items()
        if name.startswith("migration") and not name.endswith((".lock", "-shm")) and (content or "-" not in name)
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--customers", "export.json", "--max-bytes", 20_000], "max_bytes was 4000000 and is 20000 now"),
        (["--customers", "export.json", "--base-url", "elsewhere"], "account"),
        (["--events", "export.json"], "customers"),
    ],
)
def test_a_checkpoint_of_other_settings_another_account_or_other_stages_is_refused_without_totals(
    shell: Shell, target: LocalTarget, export: Path, change: list[object], said: str
) -> None:
    assert interrupted(shell, target).code == 10
    with sandbox() as other:
        change = [other.url if part == "elsewhere" else part for part in change]
        with untouched(shell, target):
            ended = shell.run(target.url, *change)
        assert (ended.code, ended.problem) == (2, "checkpoint-of-another-migration")
        assert ended.err.startswith("error: ")
        assert said in ended.err
        assert "accepted" not in ended.err
        assert "To go on" not in ended.err
        assert "--checkpoint" in ended.err
        assert "customers" not in asked(other)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"customers": GOOD[1:]}), "export.json: size was"),
        (json.dumps({"customers": GOOD}).replace("c5@", "x5@"), "export.json: sha256 was"),
        (json.dumps({"people": GOOD}), "export.json: path was 'customers' and is 'people' now"),
    ],
)
def test_a_checkpoint_of_another_export_is_refused_with_the_difference_named(
    shell: Shell, target: LocalTarget, export: Path, content: str, said: str
) -> None:
    assert interrupted(shell, target).code == 10
    export.write_text(content)
    with untouched(shell, target):
        ended = shell.run(target.url, "--customers", export)
    assert (ended.code, ended.problem) == (2, "checkpoint-of-another-migration")
    assert said in ended.err


@pytest.mark.parametrize("first", [[], ["--unchecked"]])
def test_customers_that_stand_twice_are_looked_for_in_all_runs_of_a_checkpoint_or_in_none(
    shell: Shell, target: LocalTarget, first: list[str]
) -> None:
    records = [*GOOD, customer("c1", name="Again"), *[customer(f"d{number}") for number in range(8)]]
    export = write(shell.folder / "export.json", records)
    assert interrupted(shell, target, *first).code == 10
    with untouched(shell, target):
        ended = shell.run(target.url, "--customers", export, *([] if first else ["--unchecked"]))
    assert ended.code == 2
    assert f"customers: unchecked was {bool(first)} and is {not first} now" in ended.err
    ended = shell.run(target.url, "--customers", export, "--json", *first)
    assert ended.code == (0 if first else 3)
    assert ended.document["stages"]["customers"]["filtered"] == 0
    assert landed(target) == 17 - (not first)


def test_another_key_of_the_same_account_is_refused_unless_the_account_has_a_name(
    shell: Shell, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox(api_key="first-key") as target:
        monkeypatch.setenv("MASIVO_API_KEY", "first-key")
        assert interrupted(shell, target).code == 10
    with sandbox(api_key="second-key") as target:
        monkeypatch.setenv("MASIVO_API_KEY", "second-key")
        ended = shell.run(target.url, "--customers", export)
        assert (ended.code, ended.problem) == (2, "checkpoint-of-another-migration")
        assert "`account` in the settings" in ended.err
        assert "second-key" not in ended.err


def database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (a)")
        db.commit()


def newer(path: Path) -> None:
    Checkpoint.create(path, binding={}, version="99", started=1.0).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: path.write_text("my notes, not to be lost\n" * 100), "checkpoint-damaged"),
        (lambda path: path.write_bytes(b""), "checkpoint-foreign"),
        (database, "checkpoint-foreign"),
        (newer, "checkpoint-newer"),
        (folder, "checkpoint-missing"),
    ],
)
def test_a_file_that_is_no_checkpoint_of_ours_is_refused_and_left_as_it_is(
    shell: Shell, target: LocalTarget, export: Path, make: Callable[[Path], None], code: str
) -> None:
    make(shell.checkpoint)
    with untouched(shell, target):
        ended = shell.run(target.url, "--customers", export)
    assert (ended.code, ended.problem) == (2, code)
    assert str(shell.checkpoint.name) in ended.err
    assert "customers" not in asked(target)


def test_a_checkpoint_that_another_run_holds_is_left_to_it(shell: Shell, target: LocalTarget, export: Path) -> None:
    assert interrupted(shell, target).code == 10
    with locked(shell.checkpoint, "streammig run other.toml"), untouched(shell, target):
        ended = shell.run(target.url, "--customers", export)
    assert (ended.code, ended.problem) == (11, "checkpoint-held")
    assert str(os.getpid()) in ended.err
    assert "streammig run other.toml" in ended.err


def test_i3_of_two_copies_of_a_checkpoint_only_one_is_run_at_a_time(shell: Shell) -> None:
    tmp_path = shell.folder
    write(tmp_path / "export.json", [customer(f"c{number}", name="x" * 6000) for number in range(3)])
    held_back = {"on": "customers", "nth": 2, "do": "slow", "seconds": 30}
    with sandbox(held_back) as target:
        run = ["run", "--customers", "export.json", "--unchecked", "--max-bytes", 10_000, *quickly(target.url)]
        assert shell(*run, "--checkpoint", "run.checkpoint", "--first", 1).code == 10
        shutil.copy(tmp_path / "run.checkpoint", tmp_path / "other.checkpoint")
        with process(tmp_path, *run, "--checkpoint", "run.checkpoint", "--concurrency", 1) as first:
            until(lambda: "sending" in states(tmp_path / "run.checkpoint").get("customers", ()), "the second request")
            before = (tmp_path / "other.checkpoint").read_bytes()
            ended = shell(*run, "--checkpoint", "other.checkpoint")
            assert (ended.code, ended.problem) == (11, "checkpoint-held"), ended.err
            assert str(first.pid) in ended.err
            assert (tmp_path / "other.checkpoint").read_bytes() == before
        ended = shell(*run, "--checkpoint", "other.checkpoint")
        assert (ended.code, ended.problem) == (2, "checkpoint-stale")
        assert "1 request newer" in ended.err
        assert (tmp_path / "other.checkpoint").read_bytes() == before


# -- machines that fail ----------------------------------------------------------------------------------------------


def test_i2_what_a_full_disk_does_not_take_is_not_sent_and_goes_on_with_room(tmp_path: Path, shell: Shell) -> None:
    export = write(tmp_path / "export.json", [customer(f"c{number}") for number in range(3000)])
    command = ["run", "--customers", export, "--max-bytes", 10_000, "--unchecked"]
    with sandbox() as target:
        # The account's file is the smaller one, and so is the lock; the checkpoint hits the limit first. The owner
        # table, which is made before anything is sent, would hit it sooner.
        ended = finished(tmp_path, *command, *quickly(target.url), before=with_files_up_to(150_000))
        assert (ended.code, ended.problem) == (1, "disk-full"), ended.err
        before = landed(target)
        accounted = states(tmp_path / "migration.checkpoint")["customers"]
        assert before < 3000  # none, where all was sealed before the first request was answered
        assert asked(target).get("customers", {}).get("201", 0) <= len([it for it in accounted if it != "sealed"])
        again = shell(*command, *quickly(target.url))
        assert again.code in (0, 4), again.err
        assert target.ledger()["twice"]["customers"]["count"] == 0
        assert target.ledger()["holds"]["customers"]["count"] + 1000 * (again.code == 4) >= 3000


@pytest.mark.parametrize("size", [0, 5_000, 40_000])
def test_a_disk_that_has_no_room_for_a_checkpoint_sends_nothing(
    tmp_path: Path, shell: Shell, target: LocalTarget, export: Path, size: int
) -> None:
    ended = finished(tmp_path, "run", "--customers", export, *quickly(target.url), before=with_files_up_to(size))
    assert (ended.code, ended.problem) == (1, "disk-full"), ended.err
    assert "customers" not in asked(target)
    again = shell.run(target.url, "--customers", export)
    assert again.code == 0, again.err
    assert landed(target) == len(GOOD)


def test_a_checkpoint_that_is_read_only_sends_nothing_and_goes_on_when_it_is_not(
    tmp_path: Path, shell: Shell, target: LocalTarget, export: Path
) -> None:
    assert interrupted(shell, target).code == 10
    shell.checkpoint.chmod(0o400)
    with untouched(shell, target):
        ended = finished(tmp_path, "run", "--customers", export, *quickly(target.url), before=like_any_user)
    assert (ended.code, ended.problem) == (1, "checkpoint-unwritable"), ended.err
    shell.checkpoint.chmod(0o600)
    assert shell.run(target.url, "--customers", export).code == 0
    assert landed(target) == len(GOOD)


def test_a_folder_that_is_read_only_is_named(tmp_path: Path, target: LocalTarget) -> None:
    export = write(tmp_path / "export.json", GOOD)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    where = closed / "run.checkpoint"
    command = ["run", "--customers", export, "--checkpoint", where, *quickly(target.url)]
    ended = finished(tmp_path, *command, before=like_any_user)
    assert ended.code == 1, ended.err
    assert str(where) in ended.err
    assert "customers" not in asked(target)


# -- settings that can't be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], "no-input", ""),
        (["gone.toml"], "settings-unreadable", "gone.toml"),
        (["--customers", "export.json", "--limits", "1 per day"], "limits-invalid", "1 per day"),
        (["--customers", "export.json", "--map", "export"], "map-invalid", "--map export"),
        (["--customers", "export.json", "--map", "customers=nowhere:f"], "map-not-importable", "nowhere"),
        (["--customers", "export.json", "--map", "customers=json:nothing"], "map-not-found", "nothing"),
        (["--customers", "export.json", "--map", "customers=json"], "map-invalid", "json"),
        (["--customers", "export.json", "--concurrency", "0"], "settings-invalid", "at `concurrency`"),
        (["--customers", "export.json", "--first", "0"], "usage", "--first"),
        (["--customers", "export.json", "--dry-run", "export.json"], "folder-unusable", "export.json"),
        (["--customers", "export.json", "--dry-run", "."], "folder-not-empty", "."),
        (["--customers", "export.json", "--checkpoint", "no/such/x"], "checkpoint-folder-missing", "no/such"),
        (["--customers", "-", "--checkpoint", "no/such/x"], "checkpoint-folder-missing", "no/such"),
        (["--customers", "export.json", "--checkpoint", "export.json/x"], "checkpoint-folder-missing", "export.json"),
        (["--customers", "export.json", "--base-url", "http://example.org"], "base-url-insecure", "example.org"),
        (["--nonsense"], "usage", "--nonsense"),
    ],
)
def test_what_is_asked_for_wrongly_is_named(
    shell: Shell, target: LocalTarget, export: Path, arguments: list[str], code: str, said: str
) -> None:
    before = shell.files()
    ended = shell("run", "--base-url", target.url, *arguments, "--json")
    error = ended.document["error"]
    assert (ended.code, error["code"], error["exit_code"]) == (2, code, 2)
    assert said in ended.err
    assert shell.files() == before
    assert "customers" not in asked(target)


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["run", "--customers", "gone.json", "--json"], "export-unreadable", 2),
        (["run", "--json"], "no-input", 2),
        (["status", "gone.checkpoint", "--json"], "checkpoint-missing", 2),
        (["retry", "gone.checkpoint", "--json"], "checkpoint-missing", 2),
        (["resolve", "gone.checkpoint", "--json"], "checkpoint-missing", 2),
        (["status", "move.toml", "--json"], "settings-given", 2),
    ],
)
def test_a_command_that_fails_says_so_as_json_too(
    shell: Shell, arguments: list[str], code: str, exit_code: int
) -> None:
    ended = shell(*arguments)
    error = ended.document["error"]
    assert (ended.code, error["code"], error["exit_code"]) == (exit_code, code, exit_code)
    assert error["what"] in ended.err
    assert error["hint"] in ended.err
