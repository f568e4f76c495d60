"""The report on a run: what it tells, how it is written, and how somebody checks it later."""

from __future__ import annotations

import html
import json
import re
import sqlite3
import stat
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import make
from streammig.checkpoint import locked
from streammig.errors import Altered, Unusable
from streammig.report.audit import opened
from streammig.report.history import SLOTS, history
from streammig.report.html import rendered
from streammig.report.records import Line
from streammig.report.reports import Report
from streammig.report.text import next_steps
from tests import manual, problems
from tests.browser import CHROMIUM, browser
from tests.commands import KEY, Shell, write
from tests.manual import GUIDE
from tests.past import export
from tests.sandbox_caller import customer


@pytest.fixture(scope="module")
def page(past: Path) -> bytes:
    return rendered(history(past))


@pytest.fixture
def checked(shell: Shell) -> bytes:
    """The report of a check of the same export."""
    export(shell.folder)
    files = "--customers", "c&<b>.ndjson", "--events", "e.ndjson"
    assert shell("check", *files, "--offline", "--report", "check.html").code == 3
    return (shell.folder / "check.html").read_bytes()


BOTH = pytest.mark.parametrize("kind", ["page", "checked"])


@pytest.fixture
def either(request: pytest.FixtureRequest, kind: str) -> bytes:
    """The page of a run's report, or that of a check's."""
    found: bytes = request.getfixturevalue(kind)
    return found


def test_it_tells_in_units_and_exact_sums_where_everything_is(past: Path) -> None:
    found = history(past)
    assert found["status"] == Report.read(past).document | {"budget": []}
    customers, events = found["stages"]["customers"], found["stages"]["events"]
    for stage in (customers, events):
        placed = {key: value for key, value in stage["units"].items() if key != "read"}
        assert stage["units"]["read"] == sum(placed.values())
        for sums in stage["sums"].values():
            assert Decimal(sums.pop("read")) == sum(map(Decimal, sums.values()))
    assert (customers["units"]["accepted"], customers["units"]["dead"], events["units"]["unknown"]) == (7, 1, 7)
    (sums,) = customers["sums"].values()
    assert (sums["accepted"], sums["dead"]) == ("17.5", "2.5")
    assert customers["dead"] == [{"code": "bad-email", "field": "email", "count": 1}]
    assert customers["requests_a_batch"] == {"2": 1}
    assert {(it["kind"], it["status"]) for it in customers["answers"]} == {("accepted", 201), ("throttled", 429)}
    assert [(it["kind"], it["count"]) for it in events["answers"]] == [("unknown", 1)]
    assert sum(slot["units"] for slot in customers["timeline"]) == 7
    answers = [slot["answers"] for slot in customers["timeline"] + events["timeline"]]
    assert sum(map(Counter, answers), Counter()) == {"accepted 201": 1, "throttled 429": 1, "unknown": 1}
    assert all((slot["p50"] or 0) <= (slot["p90"] or 0) for slot in customers["timeline"])
    assert [(it["state"], it["units"], it["open"]) for it in found["decisions"]] == [("parked", 7, True)]
    (left,) = found["status"]["undecided"]
    assert (left["answer"], "read back" in left["known"]) == ("connection-lost", True)


@BOTH
def test_it_holds_no_name_no_email_no_key_and_no_markup_of_others(either: bytes) -> None:
    text = either.decode()
    for secret in ("Aurelia", "@", KEY):
        assert secret not in text.replace("@media", "")
    assert "c&amp;&lt;b&gt;.ndjson" in text
    assert "<b>" not in text


@BOTH
def test_it_needs_no_network_and_runs_no_script(either: bytes) -> None:
    text = either.decode()
    assert re.findall(r"(?:src=|href=|url\()", text) == []
    assert "default-src 'none'" in html.unescape(text)
    assert re.findall(r"<script[^>]*>", text) == ['<script type="application/json" id="proof">']


@BOTH
def test_every_chart_has_a_title_a_description_and_a_table(either: bytes) -> None:
    text = either.decode()
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) >= 4
    for chart in charts:
        named = re.search(r'role="img" aria-labelledby="(\S+) (\S+)"', chart)
        assert named is not None
        assert f'<title id="{named[1]}">' in chart
        assert f'<desc id="{named[2]}">' in chart
    sections = [part for part in text.split("<section>") if "<svg" in part]
    assert all("<table" in part for part in sections)


def test_the_file_is_whole_owner_only_and_replaces_an_earlier_report_alone(past: Path, shell: Shell) -> None:
    out = shell.folder / "report.html"
    for _ in range(2):
        ended = shell("report", past, "--out", out)
        assert (ended.code, ended.out) == (0, "")
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert out.read_bytes().endswith(b"</html>\n")
    assert [path.name for path in shell.folder.iterdir()] == ["report.html"]
    other = write(shell.folder / "export.json", [customer("c-1")])
    kept = other.read_bytes()
    ended = shell("report", past, "--out", other)
    assert (ended.code, ended.problem) == (2, "output-exists")
    assert other.read_bytes() == kept


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (["--out", "no/such/folder/report.html"], 1, "output-failed"),
        ([], 2, "usage"),
        (["--out", "a.html", "--audit", "b.html"], 2, "usage"),
        (["--audit", "none.html"], 2, "report-unreadable"),
    ],
)
def test_what_can_not_be_asked_for_gets_its_code(
    past: Path, shell: Shell, arguments: list[str], exit_code: int, code: str
) -> None:
    ended = shell("report", past, *arguments)
    if code == "usage":  # which is in the document alone
        assert ended.code == exit_code
        assert "--out" in ended.err
    else:
        assert (ended.code, ended.problem) == (exit_code, code)


def test_a_report_as_json_is_what_the_page_is_made_of(past: Path, shell: Shell) -> None:
    ended = shell("report", past, "--json")
    assert ended.code == 0
    assert ended.document.keys() == history(past).keys()
    rows = [row[0] for row in manual.table(GUIDE / "report.md", "field", "means")]
    told = {name for row in rows for name in re.findall(r"\w+", row)}
    assert told == {*ended.document, *Line.__struct_fields__}
    both = shell("report", past, "--json", "--out", "r.html")
    assert opened((shell.folder / "r.html").read_bytes(), "r") == both.document["proof"]


def test_it_can_be_written_while_a_run_is_on_and_changes_nothing(past: Path, shell: Shell) -> None:
    before = {path.name: path.read_bytes() for path in past.parent.iterdir() if path.is_file()}
    with locked(past, "streammig run"):
        found = shell("report", past, "--json").document
    assert found["status"]["state"] == "running"
    assert [step["command"].split()[1] for step in found["next"]][-1] == "status"
    after = {path.name: path.read_bytes() for path in past.parent.iterdir() if path.is_file()}
    assert {name: data for name, data in after.items() if not name.endswith(".lock")} == {
        name: data for name, data in before.items() if not name.endswith(".lock")
    }


def test_a_dry_run_and_a_run_without_any_request_have_a_report(shell: Shell) -> None:
    write(shell.folder / "c.json", [customer("c-1")])
    assert shell("run", "--customers", "c.json", "--dry-run", "look").code == 0
    (checkpoint,) = shell.folder.rglob("*.checkpoint")
    assert shell("report", checkpoint, "--out", "r.html").code == 0
    assert "nothing was sent" in (shell.folder / "r.html").read_text()


@pytest.mark.slow
def test_the_report_on_100_000_batches_adds_up_and_stays_small(tmp_path: Path) -> None:
    make(tmp_path / "run.checkpoint", 100_000)
    found = history(tmp_path / "run.checkpoint")
    assert found["status"]["balanced"]
    stages = found["stages"].values()
    assert sum(stage["units"]["accepted"] for stage in stages) == 100_000_000
    assert sum(slot["batches"] for stage in stages for slot in stage["timeline"]) == 100_000
    assert sum(slot["requests"] for stage in stages for slot in stage["timeline"]) == 101_998
    assert sum(it["answers"] for stage in stages for it in stage["latency"]["classes"]) == 101_998
    assert all(len(stage["timeline"]) <= SLOTS for stage in stages)
    assert len(rendered(found)) < 200_000


# -- checking one later ------------------------------------------------------------------------------------------------


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_one_changed_byte_anywhere_is_found(page: bytes) -> None:
    assert opened(page, "it")["run"]
    around = range(page.index(b"<meta name"), page.index(b"<meta name") + 300)
    for at in {*range(0, len(page), 211), *range(60), *around, len(page) - 1}:
        with pytest.raises(Altered) as found:
            opened(changed(page, at), "it")
        assert found.value.code == "report-altered"
    for cut in (page[:-1], page + b" "):
        with problems.raises(Altered, "report-altered"):
            opened(cut, "it")
    with problems.raises(Unusable, "report-foreign"):
        opened(b"<!doctype html><p>another page", "it")


@pytest.mark.slow
def test_every_changed_byte_is_found(page: bytes) -> None:
    for at in range(len(page)):
        with pytest.raises(Altered):
            opened(changed(page, at), "it")


@pytest.mark.parametrize(
    ("statement", "exit_code", "code"),
    [
        ("UPDATE run SET started = started", 0, None),
        ("UPDATE batch SET note = note || 'x' WHERE stage = 'events'", 3, "report-differs"),
        ("UPDATE batch SET state = 'accepted' WHERE state = 'parked'", 3, "report-differs"),
        ("UPDATE attempt SET latency = latency + 1 WHERE stage = 'customers'", 3, "report-differs"),
        ("DELETE FROM attempt WHERE kind = 'throttled'", 3, "report-differs"),
        ("UPDATE source_file SET fingerprint = replace(fingerprint, 'size', 'sise')", 3, "report-differs"),
        ("UPDATE dead_letter SET code = 'another'", 3, "report-differs"),
        ("INSERT INTO unit_state VALUES ('customers', 1, 'missing', x'00', '[1,1,{}]')", 3, "report-differs"),
        ("UPDATE run SET tick = tick - 1", 3, "report-differs"),
        ("UPDATE run SET tick = tick + 1", 2, "report-outdated"),
        ("INSERT INTO verification VALUES (5.0, 1, 5.0, '{}')", 2, "report-outdated"),
        ("UPDATE run SET id = 'another'", 3, "report-differs"),
    ],
)
def test_a_report_is_held_against_its_checkpoint(
    past: Path, shell: Shell, statement: str, exit_code: int, code: str | None
) -> None:
    copy = shell.folder / "copy.checkpoint"
    copy.write_bytes(past.read_bytes())
    assert shell("report", copy, "--out", "r.html").code == 0
    with sqlite3.connect(copy) as db:
        db.execute(statement)
    db.close()
    ended = shell("report", copy, "--audit", "r.html")
    assert (ended.code, ended.problem) == (exit_code, code)
    assert shell("report", "--audit", "r.html").code == 0


# -- what is left to do ------------------------------------------------------------------------------------------------


def state(**more: Any) -> dict[str, Any]:
    counts = {name: more.pop(name, 0) for name in ("dead", "missing", "accepted")}
    stages = {"customers": counts | {"state": more.get("state", "complete"), "code": ""}}
    plain: dict[str, Any] = {
        "checkpoint": "a b.checkpoint",
        "undecided": [],
        "state": "complete",
        "resume": None,
        "dry_run": False,
        "verification": None,
    }
    return plain | {"stages": stages} | more


PARKED = {"stage": "events", "batch": 4, "records": 1000, "units": 1000, "state": "parked", "since": "then"}
SAME = {"same": True, "outdated": False}


@pytest.mark.parametrize(
    ("found", "commands"),
    [
        (state(), []),
        (state(dead=2), ["dead-letters 'a b.checkpoint'", "retry 'a b.checkpoint'"]),
        (state(dead=2, accepted=3, state="reverted"), ["dead-letters 'a b.checkpoint'"]),
        (state(dead=2, dry_run=True), ["dead-letters 'a b.checkpoint'"]),
        (state(dead=2, state="running"), ["dead-letters 'a b.checkpoint'", "status --watch 'a b.checkpoint'"]),
        (state(undecided=[PARKED]), ["resolve 'a b.checkpoint' 4 --stage events"]),
        (
            state(undecided=[PARKED] * 9),
            [*["resolve 'a b.checkpoint' 4 --stage events"] * 5, "resolve 'a b.checkpoint'"],
        ),
        (state(accepted=5), ["verify 'a b.checkpoint'"]),
        (state(accepted=5, verification=SAME), []),
        (state(accepted=5, verification=SAME | {"outdated": True}), ["verify 'a b.checkpoint'"]),
        (state(missing=2, verification=SAME), ["retry 'a b.checkpoint' --missing"]),
        (state(state="interrupted", resume="streammig run m.toml"), ["run m.toml"]),
    ],
)
def test_the_next_steps_are_exact_commands(found: dict[str, Any], commands: list[str]) -> None:
    assert [step.command for step in next_steps(found)] == [f"streammig {command}" for command in commands]


def test_a_batch_that_was_never_sent_is_undecided_since_no_moment() -> None:
    assert next_steps(state(undecided=[PARKED | {"since": None}]))[0].why.endswith("1,000 records, parked")


# -- in a real browser -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize(("kind", "heading"), [("page", "What is left to do"), ("checked", "The plan")])
def test_a_browser_shows_it_at_any_width_in_both_schemes_and_on_paper(
    request: pytest.FixtureRequest, kind: str, heading: str, tmp_path: Path
) -> None:
    page: bytes = request.getfixturevalue(kind)
    file = tmp_path / "report.html"
    file.write_bytes(page)
    papers = set()
    with browser(tmp_path / "profile") as tab:
        for width, scheme in ((1200, "light"), (1200, "dark"), (390, "light"), (320, "dark")):
            tab.show(file, width, scheme=scheme)
            assert tab.value("document.documentElement.scrollWidth") <= width
            smallest = "Math.min(...[...document.querySelectorAll('main *')].filter(e => e.innerText)"
            smallest += ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
            assert tab.value(smallest) >= 12
            assert tab.value("[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 200)")
            papers.add(tab.value("getComputedStyle(document.body).color"))
            assert [it["entry"]["text"] for it in tab.heard("Log.entryAdded")] == []
            assert [it["request"]["url"] for it in tab.heard("Network.requestWillBeSent")] == [file.as_uri()]
        assert len(papers) == 2
        assert len(tab.call("Page.printToPDF")["data"]) > 10_000
        tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    pictures = [node for node in tree if node.get("role", {}).get("value") == "image"]
    assert pictures
    assert all(node["name"]["value"] for node in pictures)
    assert json.dumps(tree).count(heading) >= 1
