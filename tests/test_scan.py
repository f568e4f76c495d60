"""What a scan finds before the first request: each finding stops the run, or passes it with the operator's word."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from streammig.model import Place
from streammig.sandbox.local import LocalTarget
from streammig.scan.progress import ScanProgress
from streammig.sources import open_source, parse_input
from streammig.telemetry import Notice, Waiting
from tests.commands import Called, Shell, write
from tests.sandbox_caller import OTHER_REWARD, customer, event, lot, transaction


def settings(shell: Shell, text: str) -> Path:
    """A settings file over the exports that are there."""
    stages = [name for name in ("customers", "events", "transactions") if (shell.folder / f"{name}.json").exists()]
    tables = {name: f'[{name}]\nfiles = ["{name}.json"]\n' for name in stages}
    head, *parts = re.split(r"(?m)^\[", text)
    for part in parts:
        name, _, lines = part.partition("]")
        tables[name] += lines + "\n"
    path = shell.folder / "migration.toml"
    path.write_text(head + "\n" + "".join(tables.values()))
    return path


def run(shell: Shell, target: LocalTarget, text: str = "", *more: str) -> Called:
    return shell.run(target.url, settings(shell, text), "--json", *more)


def requests(target: LocalTarget) -> dict[str, Any]:
    return {name: count for name, count in target.ledger()["requests"].items() if name != "auth"}


# -- how far it is ---------------------------------------------------------------------------------------------------


def test_a_scan_tells_its_share_its_speed_and_when_it_ends_over_all_files_at_most_once_a_second(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in files:
        path.write_text(json.dumps([{"id": path.name[0] * 400_000}]))
    source = open_source([parse_input(str(path)) for path in files])
    now, told = [100.0], list[Notice]()

    async def main() -> None:
        tell = ScanProgress(told.append, lambda: now[0]).tracker("scanning the customers once", source)
        for file, offset in ((0, 0), (0, 200_000), (1, 100_000), (1, 150_000)):
            tell(Place(file, offset))
            now[0] += 0.9
        await asyncio.sleep(0)

    asyncio.run(main())
    said = [(it.reason, it.seconds and round(it.seconds, 1)) for it in told if isinstance(it, Waiting)]
    assert said == [
        ("scanning the customers once: 0%", None),
        ("scanning the customers once: 62%, 0.3 MB/s", 1.1),
    ]


# -- owners in several records of a once-only stage ------------------------------------------------------------------


def histories(*owners: str) -> list[dict[str, Any]]:
    return [{"id": owner, "transactions": [transaction(1, details=f"t{at}")]} for at, owner in enumerate(owners)]


def twice(shell: Shell) -> None:
    """c1 has a second record far behind the first; so has a deleted customer, of whom nothing is sent."""
    people = [customer(f"c{at}", balance=[lot(2 if at == 1 else 1)]) for at in range(1200)]
    write(shell.folder / "customers.json", [*people, customer("gone", deleted_at="2021-01-01T00:00:00Z")])
    everybody = [f"c{at}" for at in range(1200)]
    write(shell.folder / "transactions.json", histories("gone", *everybody, "c1", "gone"))


def test_i3_a_customer_with_two_records_of_transactions_stops_the_run_before_its_first_request(
    shell: Shell, target: LocalTarget
) -> None:
    twice(shell)
    ended = run(shell, target)
    assert (ended.code, ended.problem) == (2, "owner-twice")
    what = ended.document["error"]["what"]
    assert [word in what for word in ("more than one: 2 (", "record 3 of", "record 1,202 of", "c1")] == [True] * 3 + [
        False
    ]
    assert requests(target) == {}
    assert not shell.checkpoint.exists()


def test_i3_all_records_of_such_a_customer_become_dead_letters_where_the_settings_say_so(
    shell: Shell, target: LocalTarget
) -> None:
    twice(shell)
    ended = run(shell, target, '[transactions]\nowner_twice = "dead-letter"')
    stage = ended.document["stages"]["transactions"]
    assert (ended.code, stage["accepted"], stage["dead_by"]) == (3, 1199, {"owner-twice": 2})
    assert [*stage["filtered_by"]] == ["customer-filtered"]
    assert target.ledger()["twice"]["transactions"]["count"] == 0
    # As they are, one of the two can't be sent: the target takes a customer's transactions once.
    assert shell("retry", shell.checkpoint, "--code", "owner-twice").code in (0, 3)
    assert target.ledger()["twice"]["transactions"]["count"] == 0


def test_the_second_record_that_comes_with_a_file_added_later_is_found(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "customers.json", [customer("c1", balance=[lot(1)])])
    first = write(shell.folder / "t1.json", histories("c1"))
    more = write(shell.folder / "t2.json", histories("nobody", "c1"))
    command = "--customers", "customers.json", "--transactions", first
    assert shell.run(target.url, *command).code == 0
    ended = shell.run(target.url, *command, "--transactions", more, "--json")
    assert (ended.code, ended.problem) == (2, "owner-twice")
    assert target.ledger()["twice"]["transactions"]["count"] == 0


# -- transactions that do not explain a balance ----------------------------------------------------------------------

OLD = lot(5, expiration_date="2021-01-01T00:00:00Z")
SUMS: list[tuple[list[Any], list[Any], bool]] = [
    ([lot(1)], [transaction(1)], True),
    ([lot(0.1), lot(0.2)], [transaction(0.3)], True),  # which no binary float can tell
    ([lot(0.1), lot(0.2)], [transaction(0.31), transaction(-0.01)], True),
    ([lot(1)], [transaction(1.01)], False),
    ([lot(1)], [transaction(1, reward_id=OTHER_REWARD)], False),
    ([lot(1, brand_id="b")], [transaction(1)], False),
    ([lot(1, brand_id="b"), lot(2)], [transaction(2), transaction(1, brand_id="b")], True),
    ([lot(1, brand_id="b"), lot(2)], [transaction(1), transaction(2, brand_id="b")], False),
    ([], [transaction(3), transaction(-3, type="REDEMPTION")], True),
    ([], [transaction(3)], False),
    ([OLD], [transaction(5), transaction(-5, type="EXPIRATION")], True),
    ([OLD], [transaction(5)], False),
    ([lot(1)], [transaction(1), transaction(1, type="MIGRATION")], True),
    ([lot(10**15)], [transaction(10**15)], True),
    ([lot(10**15)], [transaction(10**15 + 1)], False),
]


@pytest.mark.parametrize(("balance", "history", "fits"), SUMS)
def test_transactions_that_do_not_add_up_to_the_balance_are_found_before_the_first_request(
    shell: Shell, target: LocalTarget, balance: list[Any], history: list[Any], fits: bool
) -> None:
    people = [customer("c0", balance=[lot(2)]), customer("c1", balance=balance), customer("c2", balance=[lot(7)])]
    write(shell.folder / "customers.json", people)
    rows = [{"id": "c1", "transactions": history}, {"id": "c0", "transactions": [transaction(2)]}]
    write(shell.folder / "transactions.json", rows)
    ended = run(shell, target)
    if fits:
        assert (ended.code, target.ledger()["holds"]["transactions"]["count"]) == (0, 1 + len(history))
        return
    assert (ended.code, ended.problem, requests(target)) == (2, "balance-differs", {})
    what = ended.document["error"]["what"]
    assert ("customer: 1 (" in what, "record 1 of" in what, "c1" in what) == (True, True, False)
    ended = run(shell, target, 'balances = "dead-letter"')
    stage = ended.document["stages"]["transactions"]
    assert (ended.code, stage["accepted"], stage["dead_by"]) == (3, 1, {"balance-differs": 1})
    again = shell("retry", shell.checkpoint)  # the target would drop them
    assert (again.code, "1 dead letter with the code balance-differs left out" in again.err) == (3, True)
    assert "To go on" not in again.err  # what was sent before was seen
    assert target.ledger()["holds"]["transactions"]["count"] == requests(target)["transactions"]["201"] == 1
    ended = run(shell, target, 'balances = "send"', "--checkpoint", "other", "--dry-run", "d")
    assert (ended.code, ended.document["stages"]["transactions"]["accepted"]) == (0, 2)


# -- marks of deleted customers --------------------------------------------------------------------------------------

MARKS = [
    ({"deleted": True}, "deleted=true", True),
    ({"deleted": "Yes"}, "deleted=Yes", True),
    ({"is_deleted": 1}, "is_deleted=1", True),
    ({"active": False}, "active=false", True),
    ({"isActive": 0}, "isActive=0", True),
    ({"deletedAt": "2020-01-01"}, "deletedAt", True),
    ({"deleted": False}, "", False),
    ({"active": True}, "", False),
    ({"deletedAt": None}, "", False),
    ({"activity": False}, "", False),
]


@pytest.mark.parametrize(("fields", "setting", "stops"), MARKS)
def test_nobodys_deleted_customers_are_sent_in_silence(
    shell: Shell, target: LocalTarget, fields: dict[str, Any], setting: str, stops: bool
) -> None:
    write(shell.folder / "customers.json", [customer("c1"), customer("c2", **fields), customer("c3", **fields)])
    ended = run(shell, target)
    if not stops:
        assert (ended.code, target.ledger()["holds"]["customers"]["count"]) == (0, 3)
        return
    assert (ended.code, ended.problem) == (2, "deleted-unclear")
    assert "(2)" in ended.document["error"]["what"]
    assert "2020" not in ended.err
    assert requests(target) == {}
    ended = run(shell, target, f'[customers]\ndeleted = ["{setting}"]')
    assert (ended.code, target.ledger()["holds"]["customers"]["count"]) == (0, 1)
    ended = run(shell, target, f'[customers]\nnot_deleted = ["{setting}"]', "--checkpoint", "other", "--dry-run", "d")
    assert ended.document["stages"]["customers"]["accepted"] == 3


def test_a_mark_in_a_field_that_is_sent_unknown_asks_for_a_decision_too(shell: Shell, target: LocalTarget) -> None:
    write(shell.folder / "customers.json", [customer("c1"), customer("c2", deleted=True)])
    send = 'unknown_fields = "send"\n'
    assert run(shell, target, send).problem == "deleted-unclear"
    assert run(shell, target, send + '[customers]\nnot_deleted = ["deleted"]', "--dry-run", "d").code == 0
    ended = run(shell, target, send + '[customers]\ndeleted = ["deleted"]')
    assert (ended.code, target.ledger()["holds"]["customers"]["count"]) == (0, 1)


def test_what_an_older_run_left_out_is_looked_at_behind_a_mapping_too(shell: Shell, target: LocalTarget) -> None:
    (shell.folder / "maps.py").write_text(MAPS)
    rows = [{"no": f"c{at}"} for at in (1, 2)]
    for name, found in (("old", rows), ("new", [*rows, {"no": "c3", "is_deleted": 1}])):
        (shell.folder / f"{name}.json").write_text(json.dumps(found))
    mapped = ["--map", "customers=maps:plain", "--json"]
    assert shell.run(target.url, "--customers", "old.json", "--checkpoint", "old", *mapped).code == 0
    ended = shell.run(target.url, "--customers", "new.json", "--checkpoint", "new", "--not-in", "old", *mapped)
    assert (ended.code, ended.problem) == (2, "deleted-unclear")


MAPS = """
def plain(it):
    return {**made(it), "deleted": it["Gone Flag"]} if "Gone Flag" in it else made(it)
def out(it):
    return None if it.get("is_deleted") else made(it)
def made(it):
    return {"id": it["no"], "name": "A", "email": it["no"] + "@example.org", "balance": [],
            "registration_date": "2020-01-31T10:00:00Z"}
"""
FIELDS = """
[customers.fields]
id = "no"
name = {constant = "A"}
email = {join = ["no", "at"], with = ""}
balance = []
registration_date = {constant = "2020-01-31T10:00:00Z"}
"""
READ = FIELDS + 'status = {field = "Baja", map = {si = "DELETED", "*" = ""}}'
MAPPED = [
    ('map = "maps:plain"', {"is_deleted": 1}, "is_deleted=1"),
    ('map = "maps:plain"', {"deleted_at": "2020-01-01"}, "deleted_at"),
    ('map = "maps:plain"', {"status": "Deleted"}, "status=Deleted"),
    ('map = "maps:plain"', {"Is Deleted": "yes"}, "Is Deleted=yes"),
    ('map = "maps:plain"', {"Gone Flag": True}, "deleted=true"),
    ('map = "maps:plain"', {"status": "gold", "active": True, "Gone Flag": False}, ""),
    ('map = "maps:out"', {"is_deleted": 1}, ""),
    (FIELDS, {"is_deleted": 1}, "is_deleted=1"),
    (FIELDS, {"Baja": "si"}, "Baja=si"),
    (READ, {"Baja": "si"}, ""),
]


@pytest.mark.parametrize(
    ("mapping", "fields", "setting", "form"),
    [(*it, ["json", "csv"][at % 2]) for at, it in enumerate(MAPPED)],
)
def test_nobodys_deleted_customers_are_sent_in_silence_behind_a_mapping(
    shell: Shell, mapping: str, fields: dict[str, Any], setting: str, form: str
) -> None:
    rows = [{"no": "c1", "at": "@x.org"}, *({"no": f"c{at}", "at": "@x.org", **fields} for at in (2, 3))]
    if form == "csv":
        names = [*rows[1]]
        lines = [",".join(str(it.get(name, "")).replace("True", "true") for name in names) for it in rows]
        (shell.folder / "c.csv").write_text("\n".join([",".join(names), *lines, ""]))
    else:
        (shell.folder / "c.json").write_text(json.dumps(rows))
    (shell.folder / "maps.py").write_text(MAPS)
    write(shell.folder / "events.json", [{"id": f"c{at}", "events": [event(f"p{at}")]} for at in (1, 2, 3)])
    fits = '\n[events]\nfiles = ["events.json"]\n'

    def dry(more: str = "") -> Called:
        path = shell.folder / "move.toml"
        path.write_text(f'[customers]\nfiles = ["c.{form}"]\n{more}{mapping}\n{fits}')
        return shell("run", path, "--dry-run", f"look{len(more)}", "--json")

    ended = dry()
    if not setting:
        assert ended.problem is None
        return
    assert (ended.code, ended.problem) == (2, "deleted-unclear")
    what = ended.document["error"]["what"]
    assert (f"{setting.partition('=')[0]}:" in what, "(2)" in what, "2020" in what) == (True, True, False)
    assert f"first in {'line 3' if form == 'csv' else 'record 2'} of " in what
    checked = shell("check", shell.folder / "move.toml", "--offline", "--json").document
    assert [it["code"] for it in checked["problems"]] == ["deleted-unclear"]
    stages = dry(f'deleted = ["{setting}"]\n').document["stages"]
    assert [(it["accepted"], it["filtered"]) for it in stages.values()] == [(1, 2), (1, 2)]
    stages = dry(f'not_deleted = ["{setting}"]\n').document["stages"]
    assert [it["accepted"] for it in stages.values()] == [3, 3]


# -- all of a stage refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["customers", "events", "transactions"])
def test_a_stage_of_which_every_record_is_refused_is_told_first(shell: Shell, target: LocalTarget, stage: str) -> None:
    write(shell.folder / f"{stage}.json", [{"id": f"c{at}", stage: [{"x": 1}]} for at in range(300)])
    ended = run(shell, target, "", "--dry-run", "d")
    assert ended.code == 3
    assert "every record is refused" in " ".join(ended.err.split())
    assert "mapping" in ended.err


def test_a_file_in_another_encoding_is_told_as_that(shell: Shell, target: LocalTarget) -> None:
    lines = [json.dumps(customer("c1", name="Jos\u00e9"), ensure_ascii=False).encode("latin-1") + b"\n"] * 3
    (shell.folder / "c.ndjson").write_bytes(b"".join(lines))
    assert "iconv" in shell.run(target.url, "--customers", "c.ndjson").err
