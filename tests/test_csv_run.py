"""CSV from end to end: a table of members and a log of purchases, declared fields, a stop, a resume, dead letters."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.commands import Shell, process, quickly, sandbox, states, until
from tests.shares import share

SETTINGS = """
[customers]
files = ["members.csv"]

[customers.fields]
id = {field = "ID", strip = "'"}
name = {join = ["First", "Last"]}
email = {field = "Email", trim = true, lower = true}
registration_date = {field = "Since", date = "%d/%m/%Y", zone = "America/Bogota"}

[[customers.fields.balance]]
reward_id = {constant = "11111111-1111-4111-8111-111111111111"}
amount = {field = "Points", number = "."}
expiration_date = {null = true}
brand_id = {null = true}

[events]
files = ["purchases.tsv"]
owner = "customer"

[events.fields]
customer = {field = "member", strip = "'"}
type = {constant = "PURCHASE"}
brand_id = {null = true}
fulfilled = {constant = true}
issued_at = {field = "at", epoch = true}
resolved_at = {field = "at", epoch = true}

[events.fields.order]
purchase_id = "receipt"
value = {field = "total", number = "."}
discounted_value = {field = "total", number = "."}
payment_method = {constant = "OTHER"}
products = []
"""


LINE_BREAK = "\r\n"
BAD = "'9999,too,many,fields,in,this,row"


def write_tables(folder: Path, members: int) -> None:
    rows = ["ID,First,Last,Email,Since,Points"]
    rows += [
        f"""'{7000 + n},Ana,"Pérez,{LINE_BREAK * (n % 4)} {n}", M{n}@Example.org ,04/05/2019,"""
        + ("" if n % 3 else '"1,120.50"')
        for n in range(members)
    ]
    rows.insert(3, BAD)
    rows.append(BAD)
    (folder / "members.csv").write_text("\ufeff" + "\r\n".join(rows) + "\r\n", encoding="utf-8")
    log = [f"R-{n}\t'{7000 + n}\t{1_700_000_000 + n}\t{n}.25" for n in range(members)]
    (folder / "purchases.tsv").write_text("\n".join(["receipt\tmember\tat\ttotal", *log]) + "\n", encoding="utf-8")
    (folder / "move.toml").write_text(SETTINGS, encoding="utf-8")


@pytest.mark.parametrize("command", [("check",), ("run", "--dry-run", "look")])
@pytest.mark.parametrize("slip", [('"Points"', '"Punots"'), ("[customers]", '[customers]\ndeleted = ["Punots=0"]')])
def test_a_field_that_the_header_has_not_is_refused_and_not_left_out_of_every_record(
    shell: Shell, command: tuple[str, ...], slip: tuple[str, str]
) -> None:
    write_tables(shell.folder, 3)
    Path("move.toml").write_text(SETTINGS.replace(*slip), encoding="utf-8")
    name, *options = command
    called = shell(name, "move.toml", *options)
    assert (called.code, called.problem) == (2, "fields-invalid")
    assert "no field Punots" in called.err
    assert "Did you mean Points?" in called.err


def test_i4_tables_are_delivered_once_over_a_pilot_and_a_resume_and_a_bad_row_is_a_dead_letter(shell: Shell) -> None:
    write_tables(shell.folder, 1500)
    with sandbox(limits="off") as target:
        first = shell.run(target.url, "move.toml", "--first", "700", "--json", "--quiet")
        rest = shell.run(target.url, "move.toml", "--json", "--quiet")
        held = target.ledger()["holds"]
    assert first.code == 10
    assert rest.code == 3
    assert rest.document["stages"]["customers"]["accepted"] == held["customers"]["count"] == 1500
    assert held["customers"]["landed"] == 1500
    assert held["events"]["count"] == 1500
    letters = [json.loads(line) for line in shell("dead-letters", "move.checkpoint").out.splitlines()]
    lines = Path("members.csv").read_text().split("\n")
    assert [it["line"] for it in letters] == [number for number, line in enumerate(lines, 1) if line.startswith(BAD)]
    assert {it["code"] for it in letters} == {"invalid-csv"}
    assert all(it["record"].startswith(BAD) for it in letters)


PLAIN = """
def customer(row):
    return {"id": row["ID"], "name": "A", "email": row["Email"], "balance": [],
            "registration_date": "2020-01-31T10:00:00Z"}
"""
BAD_ROWS = [
    ("7001,Ana,P,a@b.co,04/05/2019,many,", "", "mapping-failed", "Points"),
    ("7001,Ana,P,a@b.co,2019,1,", "", "mapping-failed", "Since"),
    ("7001,Ana,P,nobody,04/05/2019,1,", "", "bad-email", "Email"),
    ("7001,Ana,P,a@b.co,04/05/2019,-1,", "", "bad-amount", "Points"),
    ("7001,,,a@b.co,04/05/2019,1,", "", "missing-field", "First, Last"),
    ("7001,Ana,P,a@b.co,04/05/2019,1", "", "invalid-csv", ""),
    ("7001,Ana,P,a@b.co,04/05/2019,1,x", "", "invalid-csv", "7"),
    ("7001,Ana,P,nobody,04/05/2019,1,", 'map = "plain:customer"', "bad-email", ""),
]


@pytest.mark.parametrize(("row", "mapping", "code", "column"), BAD_ROWS)
def test_a_bad_row_is_told_by_its_line_in_the_file_and_the_column_at_fault(
    shell: Shell, row: str, mapping: str, code: str, column: str
) -> None:
    good = 'ID,First,Last,Email,Since,Points,\n7000,Ana,"P\n\n",b@b.co,04/05/2019,1,\n\n'
    Path("members.csv").write_text(f"{good}{row}\n")
    Path("plain.py").write_text(PLAIN)
    table = SETTINGS.split("[events]")[0]
    Path("move.toml").write_text(table.split("[customers.fields]")[0] + mapping if mapping else table)
    checked = shell("check", "move.toml", "--offline", "--json", "--out", "problems.ndjson").document
    shell("run", "move.toml", "--dry-run", "look")
    asked = shell("dead-letters", "look/dry-run.checkpoint", "--stage", "customers", "--code", code)
    told = [json.loads(asked.out.splitlines()[-1]), json.loads(Path("problems.ndjson").read_text().splitlines()[-1])]
    kind = next(it for it in checked["stages"]["customers"]["problems"] if it["code"] == code)
    for each in [*told, kind["examples"][-1]]:
        assert (each["line"], each["column"], each["offset"]) == (6, column, len(good))
    assert f"members.csv, line 6{', column ' * bool(column)}{column}" in shell("check", "move.toml", "--offline").err


FULL, SMALL = 1_000_000_000, 20_000_000  # bytes; STREAMMIG_PROOF says which share of the full proof is run


def write_table(path: Path, wanted: int) -> int:
    """A table of so many bytes, with line breaks in its texts, and how many members it has."""
    members = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("ID,First,Last,Email,Since,Points,Notes\r\n")
        while file.tell() < wanted:
            for _ in range(10_000):
                file.write(f'\'{members},Ana,"Pérez, {members}", M{members}@Example.org ,04/05/2019,{members % 7},')
                file.write(f'"line one\r\n{"x" * 900}"\r\n')
                members += 1
    return members


def write_object(path: Path, wanted: int) -> int:
    """As `write_table`, of an object of members by their ids, under a path."""
    members = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"made": [{"by": {"m": 1}}], "of": {"them": {')
        while file.tell() < wanted:
            for _ in range(10_000):
                row = {"First": "Ana", "Last": 'Pérez "},{"', "Email": f"M{members}@Example.org", "Since": "04/05/2019"}
                file.write(f'{"," if members else ""}\n"{members}": {json.dumps(row | {"Notes": [{"x": "y" * 900}]})}')
                members += 1
        file.write('}}, "rest": {"1": {}}}')
    return members


OBJECTS = SETTINGS.split("[events]")[0].replace("members.csv", "members.json#of.them")
LARGE = {
    "a table": ("members.csv", SETTINGS.split("[events]")[0], write_table),
    "an object": ("members.json", OBJECTS.replace("[customers]", '[customers]\nkeyed = "ID"'), write_object),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", LARGE)
def test_i3_i4_a_large_export_killed_twice_is_delivered_exactly_once(shell: Shell, what: str) -> None:
    wanted = share(FULL) if "STREAMMIG_PROOF" in os.environ else SMALL
    name, text, write = LARGE[what]
    members = write(shell.folder / name, wanted)
    (shell.folder / "move.toml").write_text(text, encoding="utf-8")
    with sandbox(limits="off") as target:
        run = ["run", "move.toml", *quickly(target.url), "--checkpoint", "migration.checkpoint"]
        for part in (3, 2):
            with process(shell.folder, *run) as running:
                until(partial(sent_is, shell.checkpoint, members // 1000 // part), "batches", wanted / 100_000)
                os.kill(running.pid, signal.SIGKILL)
        with process(shell.folder, *run, "--json") as running:
            out, err = running.communicate()
        held, doubled = target.ledger()["holds"]["customers"], target.ledger()["twice"]["customers"]["count"]
    assert running.returncode == 0, err
    assert json.loads(out)["stages"]["customers"]["accepted"] == held["count"] == held["landed"] == members
    assert doubled == 0


def sent_is(checkpoint: Path, batches: int) -> bool:
    return states(checkpoint).get("customers", []).count("accepted") >= batches


def test_of_a_table_the_record_that_comes_first_is_told_by_its_file_and_line(shell: Shell) -> None:
    settings = SETTINGS[: SETTINGS.index("[events]")].replace('"members.csv"', '"a.csv", "b.csv"')
    (shell.folder / "move.toml").write_text(settings)
    header, row = "ID,First,Last,Email,Since,Points\n", "1,Ana,Gil,a@example.org,04/05/2019,5\n"
    (shell.folder / "a.csv").write_text(header + row.replace("1,", "7,", 1).replace("a@", "b@") + row)
    (shell.folder / "b.csv").write_text(header + row + row.replace("1,", "8,", 1))
    ended = shell("check", "move.toml", "--offline")
    assert "b.csv, line 2, byte 33: the same id is in line 3 of a.csv, which comes first" in ended.err
    assert shell("run", "move.toml", "--dry-run", "look").code == 3
    told = shell("dead-letters", "look/dry-run.checkpoint").out.splitlines()
    assert [json.loads(line)["message"] for line in told] == [
        f"the same {what} is in line 3 of a.csv, which comes first" for what in ("id", "e-mail")
    ]
