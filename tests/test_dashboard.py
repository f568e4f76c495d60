"""The page of a run and its numbers: what they tell, who may see them, and that they cost the run nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.report import make
from streammig.checkpoint import locked
from streammig.dashboard.door import TOKEN, Door, opened
from streammig.dashboard.metrics import metrics, metrics_kept
from streammig.dashboard.server import MOST, SECTIONS, page, served
from streammig.dashboard.view import EVERY, REST, Look, View
from streammig.errors import MachineFault, Unusable
from streammig.report.reports import Report
from streammig.telemetry import Notice, ignore
from tests import problems
from tests.browser import CHROMIUM, Tab, browser
from tests.commands import KEY, PATIENCE, Shell, process, quickly, sandbox, write
from tests.manual import GUIDE, table
from tests.sandbox_caller import customer

SECRET = "a-token-of-some-length"
PICTURES = os.environ.get("STREAMMIG_PICTURES", "")  # a folder for pictures of the page, for people to look at


@asynccontextmanager
async def serving(view: View, token: str = "") -> AsyncIterator[tuple[ClientSession, str]]:
    """The page of a run at a free port, and a client for it."""
    door = opened("0", "listen", token)
    async with ClientSession() as client, served(door, view):
        yield client, door.url


def numbers(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Each sample of a text of metrics, as Prometheus reads it."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def number(found: Mapping[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return found[f"streammig_{name}", frozenset(labels.items())]


# -- numbers for machines ----------------------------------------------------------------------------------------------


async def test_the_numbers_are_those_of_status_and_prometheus_reads_them(past: Path) -> None:
    async with serving(View(past)) as (client, url), client.get(f"{url}metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found = numbers(await answer.text())
    status = Report.read(past).document
    for name, stage in status["stages"].items():
        placed = {key[1]: value for key, value in found.items() if key[0] == "streammig_units"}
        of_stage = [value for labels, value in placed.items() if ("stage", name) in labels]
        assert number(found, "read_units_total", stage=name) == stage["in_units"]["read"] == sum(of_stage)
        for part in ("accepted", "dead", "unknown"):
            assert number(found, "units", stage=name, state=part) == stage["in_units"][part]
    assert number(found, "dead_letters", stage="customers", code="bad-email") == 1
    assert number(found, "requests_total", stage="customers", kind="throttled", code="429") == 1
    assert number(found, "requests_total", stage="customers", kind="accepted", code="201") == 1
    assert number(found, "requests_total", stage="events", kind="unknown", code="none") == 1
    assert number(found, "request_seconds_bucket", stage="customers", le="+Inf") == 2
    assert number(found, "permits_left", window="1000/1h", kind="migration") == status["budget"][0]["left"] < 1000
    assert number(found, "parked_batches") == 1
    assert number(found, "last_success_timestamp_seconds", stage="customers") > 1.7e9
    assert number(found, "state", state=status["state"]) == 1


def test_before_there_is_a_checkpoint_the_numbers_say_that_the_run_is_on() -> None:
    assert number(numbers(metrics(None)), "state", state="running") == 1


def test_labels_are_escaped_as_prometheus_wants_it(past: Path) -> None:
    found = asyncio.run(View(past).look()).found
    assert found is not None
    odd = 'a"b\\c\nd'
    stages = {odd: found["stages"]["customers"]}
    again = numbers(metrics({**found, "stages": stages}))
    assert number(again, "read_units_total", stage=odd) == 8


async def test_the_metrics_file_is_whole_owner_only_and_replaces_its_own_kind_alone(past: Path, tmp_path: Path) -> None:
    out, export = tmp_path / "run.prom", write(tmp_path / "export.json", [customer("c1")])
    kept = export.read_bytes()
    for _ in range(2):
        async with metrics_kept(out, View(past), ignore):
            assert numbers(out.read_text())
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with problems.raises(Unusable, "output-exists"):
        async with metrics_kept(export, View(past), ignore):
            raise AssertionError
    assert export.read_bytes() == kept
    assert set(os.listdir(tmp_path)) == {"run.prom", "export.json"}


async def test_a_metrics_file_that_fails_later_warns_once_and_stops_nothing(past: Path, tmp_path: Path) -> None:
    folder, told = tmp_path / "there", list[Notice]()
    folder.mkdir()
    warned = asyncio.Event()

    def heard(notice: Notice) -> None:
        told.append(notice)
        warned.set()

    async with metrics_kept(folder / "run.prom", View(past), heard, every=0.0):
        (folder / "run.prom").unlink()
        folder.rmdir()
        await asyncio.wait_for(warned.wait(), 60)
    assert [notice.json()["code"] for notice in told] == ["metrics-failed"]
    with problems.raises(MachineFault, "output-failed"):
        async with metrics_kept(folder / "run.prom", View(past), ignore):
            raise AssertionError


def test_the_guide_names_each_metric_and_alerts_and_board_use_no_other(past: Path) -> None:
    text = metrics(asyncio.run(View(past).look()).found)
    known = set(re.findall(r"(?m)^# TYPE (\w+)", text))
    assert {row[0] for row in table(GUIDE / "dashboard.md", "metric", "meaning")} >= known
    known |= {row[0] for row in table(GUIDE / "dashboard.md", "metric", "meaning")}
    rules = yaml.safe_load((GUIDE / "dashboard-alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(alerts) >= 5
    assert all(set(rule) >= {"alert", "expr", "labels", "annotations"} for rule in alerts)
    board = json.loads((GUIDE / "dashboard-grafana.json").read_text())
    targets = [target for panel in board["panels"] for target in panel["targets"]]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for expression in [rule["expr"] for rule in alerts] + [target["expr"] for target in targets]:
        used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"streammig_\w+", expression)}
        assert used
        assert used <= known, expression


# -- who may come in ---------------------------------------------------------------------------------------------------


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{token}".encode()).decode()}


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        ("", {}, 200),
        ("", {"Host": "localhost:1"}, 200),
        ("", {"Host": "evil.example:8790"}, 421),
        (SECRET, {}, 401),
        (SECRET, basic("another-token-of-it"), 401),
        (SECRET, {"Authorization": "Basic %%"}, 401),
        (SECRET, {"Authorization": f"Bearer {SECRET}x"}, 401),
        (SECRET, {"Authorization": f"Bearer {SECRET}"}, 200),
        (SECRET, basic(SECRET), 200),
    ],
)
async def test_this_machine_or_who_has_the_token_comes_in(
    past: Path, token: str, headers: dict[str, str], status: int
) -> None:
    async with serving(View(past), token) as (client, url):
        for path in ("", "metrics", "events"):
            async with client.get(url + path, headers=headers) as answer:
                assert answer.status == status
                if status != 200:
                    assert SECRET not in await answer.text() + str(answer.headers)
        async with client.get(f"{url}healthz", headers=headers) as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with client.post(url, headers=headers) as answer:
            assert answer.status >= 400


@pytest.mark.parametrize(
    ("address", "token", "code"),
    [
        ("MIGRATION.toml", "", "address-invalid"),
        ("127.0.0.1:99999", "", "address-invalid"),
        ("0.0.0.0:0", "", "token-needed"),
        ("[::]:0", "", "token-needed"),
        ("0.0.0.0:0", "short", "token-short"),
        ("no-such-host.invalid:0", SECRET, "port-unusable"),
    ],
)
def test_an_address_that_can_not_be_served_is_told_by_its_code(address: str, token: str, code: str) -> None:
    with problems.raises(Unusable, code):
        opened(address, "listen", token)


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        yield other.getsockname()[1]


def test_a_port_in_use_ends_a_command_before_anything_is_sent(shell: Shell, past: Path, taken: int) -> None:
    write(shell.folder / "c.json", [customer("c1")])
    with sandbox() as target:
        ended = shell.run(target.url, "--customers", "c.json", f"--dashboard=127.0.0.1:{taken}")
        assert (ended.code, ended.problem) == (2, "port-unusable")
        assert not shell.checkpoint.exists()
    ended = shell("dashboard", past, "--listen", f"127.0.0.1:{taken}")
    assert (ended.code, ended.problem) == (2, "port-unusable")
    assert shell("dashboard", "none.checkpoint").problem == "checkpoint-missing"


async def test_a_page_that_can_not_be_served_leaves_nothing_open(past: Path) -> None:
    door = Door(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with pytest.raises(ValueError, match="Socket"):
        async with served(door, View(past)):
            raise AssertionError
    assert door.socket.fileno() == -1


def test_the_token_is_in_no_environment_of_a_child(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    write(shell.folder / "c.json", [customer("c1")])
    monkeypatch.setenv(TOKEN, SECRET)
    with sandbox() as target:
        ended = shell.run(target.url, "--customers", "c.json", "--metrics-file", "run.prom", "--dashboard=0")
    assert ended.code == 0
    assert TOKEN not in os.environ
    assert SECRET not in ended.err
    assert "dashboard: http://127.0.0.1:" in ended.err
    assert number(numbers((shell.folder / "run.prom").read_text()), "state", state="complete") == 1


# -- the page ----------------------------------------------------------------------------------------------------------


async def test_the_page_is_small_needs_no_network_and_holds_no_name_no_email_no_key(past: Path) -> None:
    async with serving(View(past)) as (client, url), client.get(url) as answer:
        text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    assert len(text) <= 60_000
    assert re.findall(r"(?:src=|url\(|href=)(?!\"data:,\")", text) == []
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    for secret in ("Aurelia", "@", KEY, "c1"):
        assert secret not in text.replace("@media", "")
    for told in (
        '<th scope="row">bad-email</th><td>email</td>',
        "customers: units accepted over time",
        "customers: requests by their answer over time",
        "customers: how long answers took over time",
        "throttled 429",
        "parked",
        "can be read back",
        "1000/1h",
        "Plan and drift",
        "half within",
    ):
        assert told in text


def test_the_page_of_a_long_run_is_small_too(tmp_path: Path) -> None:
    make(tmp_path / "run.checkpoint", 1_000)
    assert len(page(asyncio.run(View(tmp_path / "run.checkpoint").look())).encode()) <= 60_000


async def test_a_browser_is_sent_only_what_changed_and_the_last_state_at_the_end(past: Path) -> None:
    view = View(past)
    async with serving(view) as (client, url):
        with locked(past, "a run"):
            stream = await client.get(f"{url}events")
            assert await stream.content.readline() == b"event: parts\n"
            first = json.loads((await stream.content.readline()).removeprefix(b"data: "))
            assert list(first) == ["state", *SECTIONS]
            assert "The run is on." in first["state"]
        ended = asyncio.create_task(stream.content.read())
    *_, last, end = [part for part in (await ended).split(b"\n\n") if part]
    changed = json.loads(last.partition(b"data: ")[2])
    assert "The run is on." not in changed["state"]
    assert "dead" not in changed
    assert end == b"event: end\ndata: "


async def test_so_many_browsers_are_served_and_no_more(past: Path) -> None:
    async with serving(View(past)) as (client, url):
        streams = [await client.get(f"{url}events") for _ in range(MOST + 1)]
        assert [stream.status for stream in streams] == [200] * MOST + [503]
        for stream in streams:
            stream.close()


async def test_looks_are_shared_and_take_a_small_share_of_the_time(past: Path) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # so long does everything take
        return now[0]

    view = View(past, clock)
    first, same = await view.look(), await view.look()
    assert same.found is first.found
    now[0] += REST + EVERY
    assert (await view.look()).found is not first.found


async def test_a_look_that_began_before_the_end_of_a_run_does_not_hide_the_end(past: Path) -> None:
    view = View(past)
    before = asyncio.create_task(view.look())
    await asyncio.sleep(0)  # the look is under way
    view.expire()
    assert (await view.look()).found is not (await before).found


async def test_a_checkpoint_that_can_not_be_read_is_told_and_what_was_seen_stays(past: Path, tmp_path: Path) -> None:
    view = View(Path(shutil.copy(past, tmp_path)))
    assert (await view.look()).found is not None
    shutil.copyfile(GUIDE / "codes.md", tmp_path / past.name)
    view.expire()
    look = await view.look()
    assert (look.found is not None, look.fault) == (True, "checkpoint-damaged")
    assert "checkpoint-damaged" in page(look)


def test_before_there_is_a_checkpoint_the_page_says_what_the_run_waits_for() -> None:
    assert "reading the export &lt;1&gt;" in page(Look(doing=["waiting: reading the export <1>"]))


@pytest.mark.slow
def test_browsers_that_read_nothing_or_vanish_do_not_hold_the_run(tmp_path: Path) -> None:
    write(tmp_path / "c.ndjson", [customer(f"c{at}") for at in range(5_000)], lines=True)
    with sandbox() as target, ExitStack() as stack:
        run = "run", "--customers", "c.ndjson", *quickly(target.url), "--limits", "1/1s", "--dashboard=0"
        running = stack.enter_context(process(tmp_path, *run))
        port = urlsplit(address_of(running)).port
        for reads_nothing in [True] * (MOST // 2) + [False] * MOST:
            browser = socket.create_connection(("127.0.0.1", port or 0))
            browser.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            stack.callback(browser.close) if reads_nothing else browser.close()
        assert running.wait(PATIENCE) == 0
        assert target.ledger()["holds"]["customers"]["count"] == 5_000


# -- in a real browser -------------------------------------------------------------------------------------------------

WIDTHS = ((1200, "light"), (1200, "dark"), (390, "light"), (320, "dark"))
SMALLEST = """Math.min(...[...document.querySelectorAll('main *')].filter(e => e.innerText)
    .map(e => parseFloat(getComputedStyle(e).fontSize)))"""


@contextmanager
def page_of(folder: Path, *arguments: object) -> Iterator[str]:
    """The address of the page that a command serves, which runs in a process of its own."""
    with process(folder, *arguments) as running:
        yield address_of(running)


def address_of(running: subprocess.Popen[str]) -> str:
    assert running.stderr is not None
    line = next(line for line in running.stderr if line.startswith("dashboard: "))
    return line.removeprefix("dashboard: ").strip()


def shown(tab: Tab, text: str) -> None:
    """Wait until a page shows a text."""
    said = f"document.body.innerText.includes({json.dumps(text)})"
    tab.wait(f"new Promise(done => {{ const look = () => {said} ? done(1) : setTimeout(look, 50); look(); }})")


def check(tab: Tab, url: str, name: str) -> None:
    """It fits each width in both schemes, loads nothing from elsewhere, and each picture has a name."""
    for width, scheme in WIDTHS:
        tab.show(url, width, scheme=scheme)
        assert tab.value("document.documentElement.scrollWidth") <= width
        assert tab.value(SMALLEST) >= 12
        assert [it["entry"]["text"] for it in tab.heard("Log.entryAdded")] == []
        asked = [it["request"]["url"] for it in tab.heard("Network.requestWillBeSent")]
        assert {it for it in asked if not it.startswith("data:")} <= {url, f"{url}events"}
        if PICTURES:
            Path(PICTURES, f"{name}-{width}-{scheme}.png").write_bytes(tab.picture())
    tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    pictures = [node for node in tree if node.get("role", {}).get("value") == "image"]
    assert pictures
    assert all(node["name"]["value"] for node in pictures)
    assert [node for node in tree if node.get("role", {}).get("value") == "status"]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_a_browser_follows_a_run_that_is_on_and_throttled_and_says_when_it_has_ended(tmp_path: Path) -> None:
    write(tmp_path / "c.ndjson", [customer(f"c{at}") for at in range(8_000)], lines=True)
    script = {"on": "customers", "nth": 4, "do": "answer", "status": 429, "retry_after": 60}
    with sandbox(script, limits="off") as target, browser(tmp_path / "profile") as tab:
        run = "run", "--customers", "c.ndjson", "--base-url", target.url, "--limits", "1/1s,500/1h", "--dashboard=0"
        with page_of(tmp_path, *run) as url:
            tab.show(url, 1200)
            shown(tab, "The run is on.")
            shown(tab, "429")
            shown(tab, "waiting (")
            for opened in (True, False):
                tab.value("document.querySelector('#time summary').focus()")
                tab.press("Enter")
                assert tab.value("document.querySelector('#time details').open") == opened
            check(tab, url, "throttled")
            tab.value("document.querySelector('#time details').open = true")
            tab.value("document.querySelector('#now').dataset.seen = document.querySelector('#now').innerHTML")
            tab.wait("new Promise(done => new MutationObserver(done).observe(now, {childList: true}))")
            assert tab.value("document.querySelector('#time details').open")
        shown(tab, "The connection is lost.")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_a_browser_shows_a_run_with_unknowns_and_one_that_is_done(past: Path, shell: Shell) -> None:
    write(shell.folder / "c.json", [customer(f"c{at}") for at in range(2_500)])
    with sandbox() as target:
        assert shell.run(target.url, "--customers", "c.json").code == 0
    with browser(shell.folder / "profile") as tab:
        for checkpoint, told in ((past, "parked"), (shell.checkpoint, "The run is complete.")):
            with page_of(shell.folder, "dashboard", checkpoint, "--listen=0") as url:
                check(tab, url, told.split()[-1].strip("."))
                shown(tab, told)
                paints = []
                for _ in range(3):
                    tab.show(url, 390)
                    paints.append(tab.wait(
                        "new Promise(done => new PerformanceObserver(found => done(found.getEntries()[0].startTime))"
                        ".observe({type: 'paint', buffered: true}))"
                    ))  # fmt: skip
                assert min(paints) < 500
