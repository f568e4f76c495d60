"""`streammig check`: every planted problem is found, nothing else is named, and the plan is what the run then uses."""

from __future__ import annotations

import html
import json
import random
import re
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from streammig import disk
from streammig.check.outline import Outline
from streammig.check.stage import Note, Stage
from streammig.cli.check import Written
from streammig.errors import MachineFault
from streammig.sandbox.local import LocalTarget
from streammig.sources import open_source, parse_input
from tests.commands import Called, Shell, sandbox, write
from tests.problems import raises
from tests.sandbox_caller import OTHER_REWARD, REWARD, TIER, customer, event, lot, transaction

STAGES = ("customers", "events", "transactions")


def check(shell: Shell, *more: object) -> Called:
    named = [(f"--{name}", f"{name}.json") for name in STAGES if (shell.folder / f"{name}.json").exists()]
    return shell("check", *[word for pair in named for word in pair], "--json", "--offline", *more)


def kinds(ended: Called) -> dict[str, dict[tuple[str, str], int]]:
    """The problems that were found: stage, then code and field, then how many."""
    return {
        name: {(it["code"], it["field"]): it["count"] for it in stage["problems"]}
        for name, stage in ended.document["stages"].items()
        if stage["problems"]
    }


def people(count: int, **more: Any) -> list[dict[str, Any]]:
    return [customer(f"c{at}", **more) for at in range(count)]


def test_a_clean_export_has_no_problem_and_the_plan_has_the_requests_of_its_run(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(2_300, balance=[lot(1)]))
    events = [{"id": f"c{at}", "events": [event(f"p{at}-{i}") for i in range(3)]} for at in range(900)]
    write(shell.folder / "events.json", events)
    owners = [{"id": f"c{at}", "transactions": [transaction(1)]} for at in range(2_300)]
    write(shell.folder / "transactions.json", owners)
    ended = check(shell)
    found = ended.document
    assert (ended.code, found["problems"], found["warnings"], kinds(ended)) == (0, [], [], {})
    assert [it["dead"] for it in found["stages"].values()] == [0, 0, 0]
    with sandbox() as target:
        flags = [word for name in STAGES for word in (f"--{name}", f"{name}.json")]
        run = shell.run(target.url, *flags, "--json")
        assert run.code == 0
    planned = {name: (it["requests"], it["units"]) for name, it in found["stages"].items()}
    assert planned == {name: (it["requests"], it["units"]) for name, it in run.document["stages"].items()}
    assert found["plan"]["requests"] == sum(requests for requests, _ in planned.values())


def histories(*owners: str) -> list[dict[str, Any]]:
    return [{"id": owner, "transactions": [transaction(1)]} for owner in owners]


LATIN = json.dumps(customer("x", name="Jos\u00e9"), ensure_ascii=False).encode("latin-1")
PLANTED: list[tuple[str, Any, dict[tuple[str, str], int]]] = [
    ("customers", customer("c1"), {("duplicate-customer", ""): 1}),
    ("customers", customer("other", email="C2@example.org"), {("duplicate-email", ""): 1}),
    ("customers", customer("x", registration_date="yesterday"), {("bad-date", "registration_date"): 1}),
    ("customers", customer("x", registration_date="2020-01-01T00:00:00"), {("bad-date", "registration_date"): 1}),
    ("customers", LATIN, {("invalid-utf8", ""): 1}),
    ("customers", b'{"id": "x", "name"', {("invalid-json", ""): 1}),
    ("events", {"id": "stranger", "events": [event("p")]}, {("owner-unknown-customer", ""): 1}),
    ("events", {"id": "c1", "events": [event("p-c1")]}, {("purchase-twice", ""): 1}),
    ("transactions", {"id": "poor", "transactions": [transaction(1)]}, {("balance-differs", ""): 1}),
    ("transactions", histories("c1")[0], {("owner-twice", ""): 2}),
    (
        "transactions",
        {"id": "poor", "transactions": [transaction(1)] * 1_001},
        {("too-many-transactions", "transactions"): 1},
    ),
]


@pytest.mark.parametrize(("stage", "record", "found"), PLANTED)
def test_a_planted_problem_is_found_and_nothing_else_is_named(
    shell: Shell, stage: str, record: Any, found: dict[tuple[str, str], int]
) -> None:
    names = [f"c{at}" for at in range(40)]
    made: dict[str, list[Any]] = {
        "customers": [customer("poor"), *people(40, balance=[lot(1)])],
        "events": [{"id": name, "events": [event(f"p-{name}")]} for name in names],
        "transactions": histories(*names),
    }
    made[stage].append(record)
    for name, records in made.items():
        lines = [it if isinstance(it, bytes) else json.dumps(it).encode() for it in records]
        (shell.folder / f"{name}.json").write_bytes(b"\n".join(lines) + b"\n")
    ended = check(shell, "--out", "all.ndjson")
    assert (ended.code, kinds(ended), ended.document["problems"]) == (3, {stage: found}, [])
    assert ended.document["stops"] == [code for code, _ in found if code in ("balance-differs", "owner-twice")]
    out = shell.folder / "all.ndjson"
    listed = [json.loads(line) for line in out.read_text().splitlines()]
    assert out.stat().st_mode & 0o777 == 0o600
    assert [(it["stage"], it["code"], it["field"]) for it in listed] == [
        (stage, *kind) for kind, count in found.items() for _ in range(count)
    ]
    assert listed[-1]["line"] == len(made[stage])
    whose = listed[-1]["id"]
    assert whose == (record["id"] if isinstance(record, dict) else "x" if record == LATIN else "")
    assert f'"{whose or "x"}"' not in ended.out


def test_a_run_does_not_stop_for_what_the_settings_make_dead_letters(shell: Shell) -> None:
    write(shell.folder / "t.json", histories("c1", "c1"))
    settings = '[transactions]\nfiles = ["t.json"]\n'
    for more, stops in (("", ["owner-twice"]), ('owner_twice = "dead-letter"\n', [])):
        (shell.folder / "m.toml").write_text(settings + more)
        assert shell("check", "m.toml", "--offline", "--json").document["stops"] == stops


def test_no_problem_keeps_the_next_record_the_next_file_or_the_next_stage_from_being_checked(shell: Shell) -> None:
    (shell.folder / "a.json").write_text(json.dumps(people(3, balance=[lot(1)]))[:-40])  # cut in the third one
    write(shell.folder / "b.json", [customer("c1"), customer("y", deleted=True)])
    write(shell.folder / "t.json", histories("c1", "stranger"))
    files = "--customers", "a.json", "--customers", "b.json", "--events", "none.json", "--transactions", "t.json"
    ended = shell("check", *files, "--json", "--offline")
    found = ended.document
    assert ended.code == 2
    assert [it["code"] for it in found["unreadable"]] == ["export-unreadable"]
    assert [it["code"] for it in found["problems"]] == ["export-broken", "deleted-unclear"]
    assert kinds(ended) == {
        "customers": {("duplicate-customer", ""): 1},
        "transactions": {("owner-unknown-customer", ""): 1},
    }
    first = found["stages"]["customers"]["problems"][0]["examples"][0]
    assert (first["file"], first["line"]) == ("b.json", 1)


@pytest.mark.slow
def test_purchases_that_come_twice_are_found_exactly_and_nothing_else_is_named(shell: Shell) -> None:
    dice = random.Random(5)
    made = [
        (f"c{dice.randrange(40)}", dice.choice(["PURCHASE", "RETURN"]), f"p{dice.randrange(400)}") for _ in range(3_000)
    ]
    owners: list[dict[str, Any]] = []
    for at in range(0, len(made), 3):
        owner = made[at][0]
        owners.append({"id": owner, "events": [event(id_, type=kind) for _, kind, id_ in made[at : at + 3]]})
        made[at : at + 3] = [(owner, kind, id_) for _, kind, id_ in made[at : at + 3]]
    write(shell.folder / "a.json", owners[:600])
    write(shell.folder / "b.json", owners[600:])
    ended = shell("check", "--events", "a.json", "--events", "b.json", "--offline", "--json", "--out", "all.ndjson")
    expected, seen = [], set()
    for at, (owner, kind, id_) in enumerate(made):
        if kind == "PURCHASE" and (owner, id_) in seen:
            expected.append((owner, "b.json" if at >= 1_800 else "a.json", at % 1_800 // 3 + 1, at % 3))
        if kind == "PURCHASE":
            seen.add((owner, id_))
    listed = [json.loads(line) for line in (shell.folder / "all.ndjson").read_text().splitlines()]
    assert {it["code"] for it in listed} == {"purchase-twice"}
    assert [(it["id"], it["file"], it["line"], it["unit"]) for it in listed] == expected
    assert (ended.code, ended.document["stages"]["events"]["repeated"]) == (3, len(expected))
    assert not list(shell.folder.glob("**/purchases"))


def test_an_events_file_that_was_exported_twice_is_found_by_its_purchases(shell: Shell) -> None:
    owners = [{"id": f"c{at}", "events": [event(f"p{at}")]} for at in range(50)]
    write(shell.folder / "a.json", owners)
    write(shell.folder / "again.ndjson", owners[::-1], lines=True)
    ended = shell("check", "--events", "a.json", "--events", "again.ndjson", "--offline", "--json")
    assert kinds(ended) == {"events": {("purchase-twice", ""): 50}}


def test_customers_with_a_balance_and_no_history_are_counted(shell: Shell) -> None:
    write(shell.folder / "customers.json", [customer("poor"), *people(5, balance=[lot(1)])])
    write(shell.folder / "transactions.json", histories("c0", "c3"))
    ended = check(shell)
    (warning,) = ended.document["warnings"]
    assert (ended.code, warning["code"], warning["wrong"]) == (0, "balance-without-history", False)
    assert ": 3; the first is record 3" in warning["what"]


def test_a_disk_without_room_to_look_for_duplicates_is_named_and_each_record_is_checked(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [customer("x", registration_date="yesterday"), customer("y", deleted=True)]
    write(shell.folder / "customers.json", [*people(19), *odd])
    write(shell.folder / "events.json", [{"id": "c1", "events": [event("p"), event("p")]}])
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 1_000)
    ended = check(shell)
    found = ended.document
    told = [it["code"] for it in (*found["warnings"], *found["problems"])]
    assert (ended.code, told) == (3, ["disk-space", "disk-space", "deleted-unclear"])
    assert kinds(ended) == {"customers": {("bad-date", "registration_date"): 1}}
    assert {name: it["units"] for name, it in found["stages"].items()} == {"customers": 20, "events": 2}


def test_what_belongs_to_a_bad_or_a_filtered_customer_is_told_with_the_reason(shell: Shell) -> None:
    left_out = [customer("bad", email="none"), customer("gone", status="DELETED")]
    write(shell.folder / "customers.json", [*people(5), *left_out])
    write(shell.folder / "events.json", [{"id": owner, "events": [event(owner)]} for owner in ("c1", "bad", "gone")])
    write(shell.folder / "transactions.json", histories("bad", "gone"))
    ended = check(shell)
    for stage in ("events", "transactions"):
        assert kinds(ended)[stage] == {("owner-bad-email", ""): 1}
        assert ended.document["stages"][stage]["filtered"] == {"customer-filtered": 1}


def test_one_customer_in_two_files_and_one_file_that_is_named_twice_are_told(shell: Shell) -> None:
    write(shell.folder / "a.json", people(20))
    write(shell.folder / "b.json", [*people(40)[25:], customer("c3")])
    write(shell.folder / "e.json", [{"id": "c1", "events": [event("p")]}])
    files = "--customers", "a.json", "--customers", "b.json", "--events", "e.json", "--events", "./e.json"
    ended = shell("check", *files, "--json", "--offline")
    assert (ended.code, [it["code"] for it in ended.document["unreadable"]]) == (2, ["export-twice"])
    assert kinds(ended) == {"customers": {("duplicate-customer", ""): 1}}


def test_duplicates_of_a_table_are_found_however_far_apart_they_are(shell: Shell) -> None:
    rows = [f"c{at},A,a{at}@example.org,2020-01-01T00:00:00Z" for at in range(4_000)]
    rows += ["c7,A,z@example.org,2020-01-01T00:00:00Z", "new,A,A9@example.org,2020-01-01T00:00:00Z"]
    (shell.folder / "c.csv").write_text("\n".join(["id,name,email,registration_date", *rows, ""]))
    table = 'id = "id"\nname = "name"\nemail = "email"\nregistration_date = "registration_date"\nbalance = []\n'
    (shell.folder / "m.toml").write_text(f'[customers]\nfiles = ["c.csv"]\n[customers.fields]\n{table}')
    ended = shell("check", "m.toml", "--json", "--offline")
    found = {("duplicate-customer", ""): 1, ("duplicate-email", ""): 1}
    assert (ended.code, kinds(ended)) == (3, {"customers": found})
    lines = {it["code"]: it["examples"][0]["line"] for it in ended.document["stages"]["customers"]["problems"]}
    assert lines == {"duplicate-customer": 4_002, "duplicate-email": 4_003}


REMARKS: list[tuple[str, dict[str, Any], str]] = [
    ("customers", customer("z", newsletter=True), "consent-dropped"),
    ("customers", customer("z", metrics={"lifetime": {"spend_total": 1}}), "metrics-and-events"),
    ("customers", customer("z", balance=[lot(1, expiration_date="2021-01-01T00:00:00Z")]), "lots-expired"),
    ("customers", customer("z", consent={"email": False}), "consent-dropped"),
    ("events", {"id": "c1", "events": [event("old", issued_at="2019-01-01T00:00:00Z")]}, "not-readable"),
    (
        "events",
        {"id": "c1", "events": [event(f"p{at}", channel_id=f"ch{at}") for at in range(51)]},
        "too-many-resources",
    ),
]


@pytest.mark.parametrize(("stage", "record", "code"), REMARKS)
def test_what_costs_money_later_is_a_warning(shell: Shell, stage: str, record: dict[str, Any], code: str) -> None:
    made: dict[str, list[Any]] = {"customers": people(5), "events": [{"id": "c2", "events": [event("p")]}]}
    made[stage].append(record)
    for name, records in made.items():
        write(shell.folder / f"{name}.json", records)
    ended = check(shell)
    assert [it["code"] for it in ended.document["warnings"]] == [code]
    assert ended.code == (3 if code == "too-many-resources" else 0)


@pytest.mark.parametrize(("rewards", "tiers", "codes"), [
    ({REWARD: None}, [TIER], []),
    ({OTHER_REWARD: None}, [TIER], ["unknown-rewards"]),
    ({REWARD: None}, [OTHER_REWARD], ["unknown-tiers"]),
])  # fmt: skip
def test_rewards_and_tiers_that_the_account_does_not_have_are_named(
    shell: Shell, rewards: dict[str, None], tiers: list[str], codes: list[str]
) -> None:
    write(shell.folder / "c.json", people(3, balance=[lot(1)], metrics={"lifetime": {"tier_id": TIER}}))
    with sandbox(rewards=rewards, tiers=tiers) as target:
        ended = shell("check", "--customers", "c.json", "--base-url", target.url, "--limits", "off", "--json")
    assert ([it["code"] for it in ended.document["warnings"]], ended.code) == (codes, 3 if codes else 0)


@pytest.mark.parametrize("answer", [None, {"status": 401}, {"status": 429, "retry_after": 90_000}, {"status": 500}])
def test_an_account_that_can_t_be_asked_is_a_warning_and_all_else_is_checked(
    shell: Shell, answer: dict[str, Any] | None
) -> None:
    write(shell.folder / "c.json", [*people(3, balance=[lot(1)]), customer("c1")])
    with sandbox(*([{"on": "read", "do": "answer", **answer}] if answer else [])) as target:
        flags = "--base-url", target.url if answer else "http://127.0.0.1:9", "--limits", "off"
        ended = shell("check", "--customers", "c.json", *flags, "--json")
    assert [it["code"] for it in ended.document["warnings"]] == ["account-not-read"]
    assert kinds(ended) == {"customers": {("duplicate-customer", ""): 1}}


def test_a_run_that_follows_uses_what_the_check_has_scanned(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(20))
    assert check(shell).code == 0
    with sandbox() as target:
        after = shell.run(target.url, "--customers", "customers.json", "--log", "json")
    assert (after.code, "scanning" in after.err) == (0, False)


def test_a_check_beside_a_run_that_has_begun_changes_nothing_of_it(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(20))
    with sandbox() as target:
        assert shell.run(target.url, "--customers", "customers.json", "--first", "5").code == 10
    before = shell.files()
    assert check(shell).code == 0
    changed = {name for name, data in shell.files().items() if before.get(name) != data}
    assert {name for name in changed if not name.endswith(".check.lock")} == set()
    assert set(before) <= set(shell.files())


def test_the_plan_tells_the_hours_under_each_limit_and_the_run_s_own(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(2_300))
    plan = check(shell, "--limits", "1/60s", "--settle-time", "100").document["plan"]
    told = {name: it["seconds"] for name, it in plan["limits"].items()}
    assert [*told] == ["dev", "prod", "1/60s"]
    assert 110 <= told["prod"] <= told["dev"] < 140  # three requests, five seconds apart, then the target's queue
    assert 220 <= told["1/60s"] < 250
    assert plan["limits"]["dev"]["requests_a_day"] == 1000


# -- the report -------------------------------------------------------------------------------------------------------


def cells(page: str) -> list[list[str]]:
    """The rows of all tables of a page."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [
        [html.unescape(re.sub(r"<[^>]+>", "", each)) for each in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows
    ]


def test_the_report_has_totals_money_the_calendar_and_examples_with_ids_alone(shell: Shell) -> None:
    wrong = customer("x&<y>", name="Aurelia", email="none", balance=[lot(0.1)])
    write(shell.folder / "customers.json", [*people(1_100, balance=[lot(2.5)]), wrong])
    events = [event(f"p{at}", value=7) for at in range(1_001)]
    write(shell.folder / "events.json", [{"id": "c1", "events": events}])
    ended = check(shell, "--report", "sign.html", "--limits", "1/60s", "--settle-time", "100")
    page = (shell.folder / "sign.html").read_text()
    rows, plan = cells(page), ended.document["plan"]
    assert ended.code == 3
    assert ["to be sent", "1,100", "1,001"] in rows
    assert ["dead letters", "1", "0"] in rows
    assert [REWARD, "2,750.0", "0", "0.1"] in rows
    assert ["bad-email", "x&<y>", "customers.json", "1,101"] in [row[:4] for row in rows]
    own = plan["limits"][plan["own"]]["calendar"]
    assert own["customers"]["begins"] == plan["starts"]
    assert own["customers"]["ends"] == own["events"]["begins"] < own["events"]["ends"]
    for name, requests in (("customers", "2"), ("events", "2")):
        told = [f"{own[name][at][:16].replace('T', ' ')} UTC" for at in ("begins", "ends")]
        assert any(row[:3] == [name, *told] and row[4] == requests for row in rows)
    assert "Aurelia" not in page
    assert '"x&' not in ended.out


def test_the_report_is_found_to_be_as_it_was_written_and_is_of_no_run(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(3))
    assert check(shell, "--report", "sign.html").code == 0
    assert shell("report", "--audit", "sign.html").code == 0
    with sandbox() as target:
        assert shell.run(target.url, "--customers", "customers.json").code == 0
    assert shell("report", shell.checkpoint, "--audit", "sign.html").problem == "report-foreign"
    page = (shell.folder / "sign.html").read_bytes()
    (shell.folder / "sign.html").write_bytes(page.replace(b"customers", b"Customers", 1))
    assert shell("report", "--audit", "sign.html").problem == "report-altered"


def test_files_that_are_written_are_named_at_the_end_and_a_list_of_problems_that_is_not(shell: Shell) -> None:
    write(shell.folder / "customers.json", [*people(3), customer("c1")])
    both = shell("check", "--customers", "customers.json", "--offline", "--out", "a.ndjson", "--report", "sign.html")
    assert both.err.splitlines()[-2:] == ["problems: a.ndjson, 1 line", "report: sign.html"]
    none = shell("check", "--customers", "customers.json", "--offline")
    assert "--out FILE.ndjson" in none.err.splitlines()[-1]


@pytest.mark.parametrize("option", ["--report", "--out"])
@pytest.mark.parametrize(("path", "code", "ended"), [
    ("no/such/folder/it", "output-failed", 1),
    ("customers.json", "output-exists", 2),
])  # fmt: skip
def test_a_file_that_can_t_be_written_is_named_and_all_is_checked(
    shell: Shell, option: str, path: str, code: str, ended: int
) -> None:
    write(shell.folder / "customers.json", [*people(3), customer("c1")])
    before = (shell.folder / "customers.json").read_bytes()
    found = check(shell, option, path)
    assert (found.code, [it["code"] for it in found.document["unwritten"]]) == (ended, [code])
    assert kinds(found) == {"customers": {("duplicate-customer", ""): 1}}
    assert (shell.folder / "customers.json").read_bytes() == before


def test_a_disk_that_refuses_what_a_check_notes_is_named(tmp_path: Path) -> None:
    export = write(tmp_path / "e.json", [customer("c1")])
    source = open_source([parse_input(str(export))])
    with raises(MachineFault, "check-io"):
        Stage("customers", source, tmp_path / "gone" / "work", lambda line: None)
    work = Stage("customers", source, tmp_path / "work", lambda line: None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with raises(MachineFault, "disk-full"):
            work.take(Note(outlines=[Outline(0, owners=bytes(size)) for size in (5_000, 5_000, 100_000)]), 0)
        work.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_check_whose_only_finding_is_of_the_account_does_not_say_that_nothing_is_wrong(shell: Shell) -> None:
    write(shell.folder / "c.json", people(3, balance=[lot(1)]))
    with sandbox(rewards={OTHER_REWARD: None}) as target:
        ended = shell("check", "--customers", "c.json", "--base-url", target.url, "--limits", "off")
    assert ended.code == 3
    assert "Nothing is wrong" not in ended.err


def test_the_plan_of_the_run_s_own_limits_knows_its_share_and_its_hours(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(2_300))
    (shell.folder / "m.toml").write_text(
        'limits = "2/60s"\nbudget_share = 0.5\nsettle_time = 0\n[customers]\nfiles = ["customers.json"]\n'
    )
    plan = shell("check", "m.toml", "--json", "--offline").document["plan"]
    assert (plan["own"], plan["limits"][plan["own"]]["windows"]) == ("2/60s at 50%", "1/1m")
    assert 120 <= plan["limits"][plan["own"]]["seconds"] < 130


def test_the_plan_names_the_disk_that_the_run_needs(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(2_300))
    disk = check(shell).document["plan"]["disk"]
    assert disk["the outbox"] >= (shell.folder / "customers.json").stat().st_size
    assert any(what.startswith("the dedup index") for what in disk)


# -- the plan and what the run then uses -------------------------------------------------------------------------------


def test_a_run_tells_its_drift_against_the_plan_of_the_check(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(2_300))
    write(shell.folder / "events.json", [{"id": f"c{at}", "events": [event(f"p{at}")]} for at in range(1_500)])
    files = "--customers", "customers.json", "--events", "events.json"
    planned = check(shell).document["plan"]["requests"]
    late = {"on": "customers", "nth": 2, "do": "answer", "status": 429, "retry_after": 0}
    with sandbox(late) as target:
        run = shell.run(target.url, *files, "--json")
        again = shell.run(target.url, *files, "--json")
    plan = run.document["plan"]
    assert again.document["plan"] == plan  # a call that finds all done changes nothing of how long it took
    assert (run.code, plan["exact"], plan["requests"], plan["requests_now"]) == (0, True, planned, planned + 1)
    assert {name: tuple(it.values()) for name, it in plan["stages"].items()} == {"customers": (3, 4), "events": (2, 2)}
    assert plan["seconds"] > 0
    assert plan["seconds_now"] > 0
    assert shell("status", shell.checkpoint, "--json").document["plan"] == plan
    assert "6 (+1)" in shell("status", shell.checkpoint).out
    assert shell("report", shell.checkpoint, "--out", "r.html").code == 0
    assert ["customers", "3", "4", "+1"] in cells((shell.folder / "r.html").read_text())
    assert not list(shell.folder.glob("*.plan"))


def test_a_pilot_behind_a_check_is_as_far_as_its_records_and_counts_its_short_request(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(4_000))
    check(shell)
    with sandbox() as target:
        run = shell.run(target.url, "--customers", "customers.json", "--first", "200", "--json")
    plan = run.document["plan"]
    assert (run.code, plan["requests"], plan["requests_now"]) == (10, 4, 5)
    assert run.document["stages"]["customers"]["done"] == pytest.approx(0.05)


@pytest.mark.parametrize("change", ["export", "settings", "none"])
def test_a_run_without_a_plan_that_fits_plans_by_its_first_records(shell: Shell, change: str) -> None:
    write(shell.folder / "customers.json", people(2_300))
    if change != "none":
        check(shell)
    if change == "export":
        write(shell.folder / "customers.json", people(1_200))
    more = ("--max-bytes", "100000") if change == "settings" else ()
    with sandbox() as target:
        plan = shell.run(target.url, "--customers", "customers.json", *more, "--json").document["plan"]
    assert not plan["exact"]
    assert abs(plan["requests_now"] - plan["requests"]) <= 1


@pytest.mark.slow
def test_rows_in_any_order_are_planned_by_the_work_file_and_not_by_where_they_stand(shell: Shell) -> None:
    rows = [{"customer": f"c{at % 3_000}", **transaction(1)} for at in range(30_000)]
    (shell.folder / "t.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (shell.folder / "m.toml").write_text('[transactions]\nfiles = ["t.ndjson"]\nowner = "customer"\n')
    write(shell.folder / "c.json", people(3_000, balance=[lot(10)]))
    with sandbox() as target:
        run = shell.run(target.url, "m.toml", "--customers", "c.json", "--json")
    stage = run.document["plan"]["stages"]["transactions"]
    assert (run.code, stage["used"]) == (0, 30)
    assert 28 <= stage["planned"] <= 33


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("files", [1, 2])
def test_the_plan_has_the_requests_of_a_clean_export_exactly(shell: Shell, stage: str, files: int) -> None:
    made = {
        "customers": people(1_210, balance=[lot(1)]),
        "events": [
            {"id": f"c{at % 1_210}", "events": [event(f"p{at}-{i}") for i in range(at % 4)]} for at in range(1_210)
        ],
        "transactions": [{"id": f"c{at}", "transactions": [transaction(1)]} for at in range(1_210)],
    }
    flags: list[str] = []
    for name in {"customers", stage}:
        count = files if name == stage else 1
        for part in range(count):
            path = write(shell.folder / f"{name}-{part}.json", made[name][part::count])
            flags += [f"--{name}", path.name]
    plan = shell("check", *flags, "--offline", "--json").document
    with sandbox() as target:
        run = shell.run(target.url, *flags, "--json").document
    assert run["stages"][stage]["requests"] == plan["stages"][stage]["requests"] > 1
    assert run["plan"]["exact"]
    assert run["plan"]["requests"] == run["plan"]["requests_now"] == plan["plan"]["requests"]


# -- what is at the target already -------------------------------------------------------------------------------------


def against(shell: Shell, target: LocalTarget, *more: str) -> Called:
    flags = "--base-url", target.url, "--limits", "off", "--json", "--against-target", *more
    return shell("check", "--customers", "customers.json", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "looked"), [((), 100), (("40",), 40), (("all",), 300)])
def test_customers_that_are_at_the_target_before_the_first_request_are_told(
    shell: Shell, asked: tuple[str, ...], looked: int
) -> None:
    write(shell.folder / "customers.json", people(300, balance=[lot(1)]))
    with sandbox(rewards={REWARD: None}) as target:
        before = against(shell, target, *asked)
        found = before.document["at_target"]
        assert (before.code, found["looked"], found["alike"], found["different"]) == (0, looked, 0, 0)
        assert found["at_most"] == (0.0 if looked == 300 else pytest.approx(1 - 0.05 ** (1 / looked), abs=1e-6))
        assert found["confidence"] == (1.0 if looked == 300 else 0.95)
        assert shell.run(target.url, "--customers", "customers.json").code == 0
        write(shell.folder / "customers.json", people(150, balance=[lot(1)]) + people(300, name="Zoe")[150:])
        after = against(shell, target, *asked)
    found = after.document["at_target"]
    assert (after.code, found["alike"] + found["different"], found["looked"]) == (3, looked, looked)
    assert abs(found["alike"] - looked // 2) <= 1
    assert {"name", "balance"} & found["fields"].keys()
    assert [it["code"] for it in after.document["warnings"]] == ["already-there"]
    assert len(found["places"]) == 5
    assert '"c1"' not in after.out


def test_a_check_that_is_stopped_leaves_no_part_of_its_list(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        sys.exit(130)
    with pytest.raises(SystemExit), Written(tmp_path / "problems.ndjson"):
        raise stopped.value
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "code"), [
    ({"status": 401}, "token-refused"),
    ({"status": 429, "retry_after": 90_000}, "retry-after-too-long"),
])  # fmt: skip
def test_an_account_that_refuses_a_read_ends_the_look_alone(shell: Shell, answer: dict[str, Any], code: str) -> None:
    write(shell.folder / "customers.json", [*people(50), customer("c1")])
    refused = [{"on": "read", "nth": nth, "do": "answer", **answer} for nth in range(12, 80)]
    with sandbox(*refused) as target:
        ended = against(shell, target, "all")
    found = ended.document["at_target"]
    assert (ended.code, found["stopped"]["code"], kinds(ended)) == (
        3,
        code,
        {"customers": {("duplicate-customer", ""): 1}},
    )
    assert 0 < found["looked"] < 50
    assert [it["code"] for it in ended.document["warnings"]] == ["account-not-read"]


@pytest.mark.parametrize(
    "asked", [("--against-target", "0"), ("--against-target", "some"), ("--against-target", "5", "--offline")]
)
def test_a_look_that_makes_no_sense_is_refused(shell: Shell, asked: tuple[str, ...]) -> None:
    write(shell.folder / "customers.json", people(3))
    assert shell("check", "--customers", "customers.json", *asked).code == 2


def test_a_check_can_be_kept_for_the_run_of_another_checkpoint(shell: Shell) -> None:
    write(shell.folder / "customers.json", people(20))
    assert check(shell, "--save", "later.checkpoint").code == 0
    with sandbox() as target:
        flags = "--customers", "customers.json", "--checkpoint", "later.checkpoint"
        after = shell.run(target.url, *flags, "--log", "json")
        assert (after.code, "scanning" in after.err) == (0, False)
    assert shell("status", "later.checkpoint", "--json").document["plan"]["exact"]
