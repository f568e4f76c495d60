"""A first settings file: what is told of an export, and that its proposal makes a clean dry run of usual exports."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Shell

SHOP = (
    "Customer ID,First Name,Last Name,Email,Accepts Email Marketing,Default Address Company,Default Address Address1,"
    "Default Address Country Code,Default Address Zip,Default Address Phone,Phone,Total Spent,Total Orders,Note,Tags"
)


def write_shop(folder: Path) -> str:
    rows = [
        f'\'71234{n:04},Ana,P\u00e9rez {n},Ana{n}@Example.org,{"yes" if n % 2 else "no"},,"Calle {n}, apto 4",CO,'
        f"'110111,'+57 300 555 {n:04},'+57 300 555 {n:04},{n}.50,{n % 9},,\"gold, vip\""
        for n in range(200)
    ]
    (folder / "customers_export.csv").write_bytes(("\ufeff" + "\r\n".join([SHOP, *rows, ""])).encode())
    return "customers_export.csv"


def write_members(folder: Path) -> str:
    rows = ["No;Name;Mail;Geschlecht;Sex;Joined;Points;Active"]
    rows += [
        f"{n};Ana {n};ana{n}@example.org;;{'mf'[n % 2]};{n % 27 + 1:02}.05.2019;{n},50;{n % 5 > 0}" for n in range(200)
    ]
    (folder / "members.csv").write_bytes("\n".join(rows).encode("cp1252"))
    return "members.csv"


def write_socios(folder: Path) -> str:
    rows = ["Nº Socio;Nombre;Apellidos;Correo electrónico;Fecha alta;Fecha nacimiento;Sexo;Puntos;Baja"]
    rows += [
        f"S{n};José;Muñoz {n};{f's{n}@example.org' if n else 'sin correo'};{n % 27 + 1:02}/05/2019;05/05/1980;"
        f"{'HM'[n % 2]};{n},50;{'NS'[n % 5 == 0]}"
        for n in range(200)
    ]
    (folder / "socios.csv").write_bytes("\n".join(rows).encode("cp1252"))
    return "socios.csv"


def write_people(folder: Path) -> str:
    people = [
        {"person": {"id": n, "firstName": "Ana", "lastName": f"P{n}"}, "contact": {"email": f"ana{n}@example.org"},
         "createdAt": 1_600_000_000_000 + n, "loyaltyPoints": n}
        for n in range(200)
    ]  # fmt: skip
    (folder / "people.json").write_text(json.dumps({"people": people}))
    return "people.json"


def write_purchases(folder: Path) -> str:
    rows = ["receipt,member,purchased_at,total"]
    rows += [f"R-{n},{n % 50},2024-03-{n % 28 + 1:02} 12:00:00,{n}.25" for n in range(200)]
    (folder / "purchases.csv").write_text("\n".join(rows))
    return "purchases.csv"


def write_fitting(folder: Path) -> str:
    customers = [
        {"id": f"C{n}", "name": "Ana", "email": f"a{n}@example.org", "registration_date": "2020-01-01T00:00:00Z",
         "balance": []}
        for n in range(20)
    ]  # fmt: skip
    (folder / "fitting.json").write_text(json.dumps(customers))
    return "fitting.json"


USUAL = [
    (write_shop, "customers", 200),
    (write_members, "customers", 160),
    (write_people, "customers", 200),
    (write_purchases, "events", 200),
    (write_fitting, "customers", 20),
]


@pytest.mark.parametrize(("write", "stage", "units"), USUAL)
def test_the_proposal_for_a_usual_export_makes_a_clean_dry_run(
    shell: Shell, write: Any, stage: str, units: int
) -> None:
    called = shell("init", write(shell.folder))
    assert called.code == 0, called.err
    settings = Path("move.toml")
    settings.write_text(
        settings.read_text().replace("# status =", "status =").replace('"False" = ""', '"False" = "DELETED"')
    )
    dry = shell("run", "move.toml", "--dry-run", "look", "--json", "--quiet")
    assert dry.code == 0, (settings.read_text(), dry.out)
    assert dry.document["stages"][stage]["accepted"] == units
    assert dry.document["stages"][stage]["filtered"] == (40 if write is write_members else 0)


def test_a_proposal_asks_for_a_decision_about_a_mark_of_deleted_customers_before_anything_is_sent(shell: Shell) -> None:
    shell("init", write_members(shell.folder))
    settings = Path("move.toml")
    assert shell("run", "move.toml", "--dry-run", "look").problem == "deleted-unclear"
    line = '# Else say so in the table [customers]: not_deleted = ["Active"]'
    assert line in settings.read_text()
    decided = settings.read_text().replace("[customers]\n", f"[customers]\n{line.partition(': ')[2]}\n", 1)
    settings.write_text(decided)
    assert shell("run", "move.toml", "--dry-run", "look").code == 0


def test_the_shops_export_gets_its_id_without_apostrophe_its_name_joined_and_at_most_five_lines_to_mend(
    shell: Shell,
) -> None:
    called = shell("init", write_shop(shell.folder), "--json")
    assert len(called.document["mend"]["customers"]) <= 5
    assert shell("run", "move.toml", "--dry-run", "look", "--quiet").code == 0
    (body,) = shell.folder.glob("look/customers-*.json")
    first = json.loads(body.read_text())["customers"][0]
    assert first["id"] == "712340000"
    assert first["name"] == "Ana P\u00e9rez 0"
    assert first["email"] == "ana0@example.org"
    assert first["country"] == "CO"
    beside = (shell.folder / "look/customers.beside.txt").read_text()
    assert beside.count("  from: ") == beside.count("  to: ") == 10
    assert "'712340000" in beside.partition("  to: ")[0]


def test_what_is_told_and_written_holds_no_value_of_a_person(shell: Shell) -> None:
    called = shell("init", write_shop(shell.folder))
    said = called.out + called.err + Path("move.toml").read_text()
    assert "Example.org" not in said
    assert "555" not in said
    assert "712340" not in said


def test_marks_of_deletion_and_unknown_zones_are_told_and_proposed_as_lines_to_mend(shell: Shell) -> None:
    called = shell("init", write_members(shell.folder), "--json")
    mend = " ".join(called.document["mend"]["customers"])
    assert "Active" in mend
    assert "time zone" in mend
    written = tomllib.loads(Path("move.toml").read_text())
    assert written["customers"]["delimiter"] == ";"
    assert written["customers"]["fields"]["gender"]["map"] == {"f": "FEMALE", "m": "MALE", "*": ""}
    assert written["customers"]["fields"]["balance"][0]["amount"]["number"] == ","


@pytest.mark.parametrize(
    "mark", [{"deleted": True}, {"deleted": "Yes"}, {"deletedAt": "2024-01-01"}, {"is_deleted": 1}, {"active": False}]
)
def test_a_mark_that_only_a_deleted_customer_has_is_told_too(shell: Shell, mark: dict[str, Any]) -> None:
    people = [{"No": n, "Mail": f"a{n}@example.org", "state": f"S{n}", **(mark if n == 7 else {})} for n in range(20)]
    (shell.folder / "people.json").write_text(json.dumps(people))
    mend = shell("init", "people.json", "--json").document["mend"]["customers"]
    (name,) = mark
    told = [it for it in mend if "deleted" in it]
    assert told == [f"status: {name} may mark deleted customers; look at its values"]
    assert f'# status = {{field = "{name}", map = {{"*" = ""}}}}' in Path("move.toml").read_text()


def test_names_with_accents_are_known_and_what_a_sex_and_a_mark_mean_in_spanish_is_asked(shell: Shell) -> None:
    told = shell("init", write_socios(shell.folder), "--json").document
    fields = tomllib.loads(Path("move.toml").read_text())["customers"]["fields"]
    assert (fields["id"], fields["email"]["field"]) == ("Nº Socio", "Correo electrónico")
    assert fields["gender"]["map"] == {"H": "MALE", "M": "FEMALE", "*": ""}
    mend = " ".join(told["mend"]["customers"])
    assert "mujer" in mend
    assert "Baja may mark deleted customers" in mend
    forms = {it["field"]: it["form"] for it in told["files"][0]["fields"]}
    assert forms["Correo electrónico"] == "e-mail addresses, but for 1 value"


def test_files_of_one_stage_with_other_fields_are_told_since_one_mapping_is_proposed_for_both(shell: Shell) -> None:
    called = shell("init", write_people(shell.folder), write_members(shell.folder), "--json")
    assert "members.csv has other fields than people.json" in called.document["mend"]["customers"][0]


@pytest.mark.parametrize(
    "named", [["both"], ["both/*.csv"], ["both/orders-2.csv", "both/members.csv", "both/orders-10.csv"]]
)
def test_files_of_two_stages_get_a_table_each_however_they_are_named(shell: Shell, named: list[str]) -> None:
    Path("both").mkdir()
    Path("both/members.csv").write_text("No,First,Last,E-mail,Since\n1,Ana,P,a@b.co,31/05/2019\n")
    for part in (2, 10):
        Path(f"both/orders-{part}.csv").write_text(f"receipt,member,date,total\nR-{part},1,2024-03-{part},6.5\n")
    found = shell("init", *named, "--json").document["files"]
    text = tomllib.loads(Path("move.toml").read_text())
    assert [it["stage"] for it in found].count("customers") == 1
    assert text["customers"]["files"] == ["both/members.csv"]
    assert text["customers"]["fields"]["id"] == "No"
    assert text["events"]["files"] == ["both/orders-2.csv", "both/orders-10.csv"]
    stages = shell("run", "move.toml", "--dry-run", "look", "--json").document["stages"]
    assert {name: it["accepted"] for name, it in stages.items()} == {"customers": 1, "events": 2}


def test_an_object_of_records_by_their_keys_is_proposed_where_that_is_said(shell: Shell) -> None:
    people = {f"m-{n}": {"Name": f"Ana {n}", "Mail": f"a{n}@b.co", "Joined": "31/05/2019"} for n in range(3)}
    Path("by-id.json").write_text(json.dumps({"them": people}))
    assert shell("init", "by-id.json").problem == "array-not-named"
    assert "its first 1 record" in shell("init", "by-id.json", "--keyed", "id", "--out", "other.toml").err
    assert shell("init", "by-id.json#them", "--keyed", "Member").code == 0
    assert tomllib.loads(Path("move.toml").read_text())["customers"]["fields"]["id"] == "Member"
    dry = shell("run", "move.toml", "--dry-run", "look", "--json", "--quiet")
    assert (dry.code, dry.document["stages"]["customers"]["accepted"]) == (0, 3)


def test_a_settings_file_that_is_there_is_never_written_over(shell: Shell) -> None:
    Path("move.toml").write_text("limits = 'dev'\n")
    assert shell("init", write_people(shell.folder)).problem == "output-exists"
    assert Path("move.toml").read_text() == "limits = 'dev'\n"


def test_records_of_masivos_form_get_no_mapping(shell: Shell) -> None:
    (found,) = shell("init", write_fitting(shell.folder), "--json").document["files"]
    assert found["fits"]
    assert "fields" not in tomllib.loads(Path("move.toml").read_text())["customers"]


def test_what_can_be_no_export_is_refused_and_nothing_is_written(shell: Shell) -> None:
    Path("notes.txt").write_text("hello\n")
    assert shell("init", "notes.txt").problem == "export-not-json"
    assert not Path("move.toml").exists()


def test_a_few_values_that_are_no_dates_hide_no_form_and_a_list_is_no_number_of_points(shell: Shell) -> None:
    days = [f"2020-01-{n % 28 + 1:02}" for n in range(28)] + ["31/31/2020", "0000-00-00"]
    rows = [f"K{n},Ana,k{n}@example.org,{day},{n}" for n, day in enumerate(days)]
    Path("cust.csv").write_text("\n".join(["Cust No,Full Name,E-mail Address,Joined On,Points Bal.", *rows, ""]))
    told = shell("init", "cust.csv", "--json").document
    assert "dates like %Y-%m-%d, but for 2 values" in [it["form"] for it in told["files"][0]["fields"]]
    fields = tomllib.loads(Path("move.toml").read_text())["customers"]["fields"]
    assert (fields["id"], fields["registration_date"]["date"]) == ("Cust No", "%Y-%m-%d")
    assert fields["balance"][0]["amount"]["field"] == "Points Bal."
    Path("list.json").write_text(json.dumps([{"id": "1", "name": "A", "balance": [{"amount": 3}]}] * 2))
    assert shell("init", "list.json", "--out", "list.toml").code == 0
    assert tomllib.loads(Path("list.toml").read_text())["customers"]["fields"]["balance"] == []
