"""What a run shows while it goes, and how its totals read."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint
from streammig.cli.exit import Ended, headline
from streammig.model import (
    START,
    Batch,
    BatchState,
    DeadLetter,
    Kind,
    Place,
    Position,
    Progress,
    Range,
    Receipt,
    Tally,
)
from streammig.ratelimit import parse_limits
from streammig.report import live
from streammig.report.document import document, iso
from streammig.report.live import JsonLines, Lines, watching
from streammig.report.progress import Pace, share_settled
from streammig.report.text import ROWS, shared, state_sentence, summary, totals_table, wrapped
from streammig.report.watch import Watch
from streammig.stages import STAGES
from streammig.telemetry import (
    Account,
    Advanced,
    Answered,
    DeadLettered,
    Decided,
    Expected,
    Grouping,
    Judging,
    Notice,
    Output,
    RunBegan,
    Sealed,
    Sending,
    StageBegan,
    StageEnded,
    Stopping,
    Verifying,
    Waiting,
    Warned,
    spoken,
)
from tests.drafts import made

END = Place(0, 500, 0, 11)


def batch(number: int = 1, units: int = 1000) -> Batch:
    return Batch("customers", number, (Range(START, END),), Tally(units, units), b"", 500)


def accepted(number: int = 1) -> Answered:
    return Answered(batch(number), Receipt(Kind.ACCEPTED, 201))


def accepted_unit() -> Answered:
    return Answered(batch(1, 1), Receipt(Kind.ACCEPTED, 201))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, *notices: Notice, quiet: bool = False) -> str:
    with watching(stream, Output(quiet=quiet)) as tell:
        for notice in notices:
            tell(notice)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("notice", "said"),
    [
        (StageBegan("events"), "events: starting"),
        (StageBegan("events", Account(Place(0, 9, 0, 12_345))), "12,345"),
        (StageBegan("events", Account(Place(0, 9, 0, 12_345), complete=True)), "events: all is read and sent"),
        (Stopping(150.0), "stopping: requests under way may end, for at most 150 s; once more cuts them off"),
        (Decided(batch(), BatchState.ACCEPTED), ""),
        (RunBegan({"events": Account()}, "1/5s", "", 300.0, 4), ""),
        (Judging("the compiled judge"), "records are judged by the compiled judge"),
        (Grouping("events", "move.checkpoint.grouped", 2_100_000), "move.checkpoint.grouped, of up to 3 MB"),
        (StageEnded("events", "complete"), "events: complete"),
        (StageEnded("events", "failed", "byte 7"), "events: failed: byte 7"),
        (Waiting("settling", "for the queue", 300), "waiting: for the queue (5 min)"),
        (Waiting("you", "for you"), "waiting: for you"),
        (Warned("x", "look"), "warning: look"),
        (Answered(batch(7), Receipt(Kind.THROTTLED, 429)), "customers: batch 7: throttled (429)"),
        (
            Answered(batch(7), Receipt(Kind.REJECTED, 422, "invalid\n reward of <id>")),
            "customers: batch 7: rejected (422): invalid reward of <id>",
        ),
        (Answered(batch(7), Receipt(Kind.NOT_SENT)), "customers: batch 7: not sent, no connection was made"),
        (DeadLettered("events", Tally(1234, 5)), "events: 1,234 records became dead letters"),
        (DeadLettered("events", Tally(1, 5)), "events: 1 record became a dead letter"),
        (accepted(), ""),
        (Sealed("customers", batch()), ""),
    ],
)
def test_a_notice_is_one_line_or_none(notice: Notice, said: str) -> None:
    found = notice.text()
    assert json.dumps(notice.json())
    assert said in found if said else found == ""
    assert "\n" not in found


class Log:
    """A log under a clock of its own."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.stream = io.StringIO()
        self.tell = Lines(self.stream, lambda: self.now)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_a_log_has_a_line_of_sums_a_minute_each_with_its_time() -> None:
    log = Log()
    log.tell(StageBegan("customers", Account(Place(0, 200), (1000,), 2000, 2000)))
    for number in range(1, 13):
        log.now += 10
        log.tell(Advanced("customers", Place(0, 200 + 50 * number), 2000 + 1000 * number, 0))
        log.tell(DeadLettered("customers", Tally(1, 3)))
        log.tell(accepted(number))
    assert log.lines == [
        "2023-11-14T22:13:20Z customers: going on at record 1",
        "2023-11-14T22:14:20Z customers: 43.8% done, 7,000 customers accepted, 15 dead, 5 requests",
        "2023-11-14T22:15:20Z customers: 74.4% done, 13,000 customers accepted, 33 dead, 11 requests",
    ]
    assert "\x1b" not in log.stream.getvalue()


def test_a_log_has_its_line_a_minute_also_in_a_wait_of_hours() -> None:
    log = Log()
    log.tell(StageBegan("customers", Account(Place(0, 200), (1000,), 2000, 2000)))
    log.tell(Waiting("limit", "the limit 25/1h of migration requests is used up", 3_000.0))
    for _ in range(150):
        log.now += 1
        log.tell.look()
    assert log.lines[2:] == [
        "2023-11-14T22:14:20Z customers: 20.0% done, 2,000 customers accepted, 0 requests",
        "2023-11-14T22:15:20Z customers: 20.0% done, 2,000 customers accepted, 0 requests",
    ]


def test_a_log_looks_by_itself_whether_its_line_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK", 0.001)
    monkeypatch.setattr(live, "EVERY", 0.002)
    said = threading.Event()

    class Told(io.StringIO):
        def write(self, text: str) -> int:
            if "customers accepted" in text:
                said.set()
            return super().write(text)

    with watching(Told(), Output()) as tell:
        tell(StageBegan("customers", Account(Place(0, 200), (1000,), 2000, 2000)))
        assert said.wait(60)


def test_a_terminal_that_can_not_draw_a_line_again_gets_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "Z customers: going on at record 11" in shown(Terminal(), StageBegan("customers", Account(END)))


def test_a_log_ends_a_stage_with_its_sums_and_tells_the_time_left_of_the_whole_job() -> None:
    log = Log()
    later = Account(expected=Expected(10.0))
    log.tell(RunBegan({"customers": Account(START, (1000,)), "events": later}, "1/5s", "", 30.0, 4))
    log.tell(StageBegan("customers", Account(Place(0, 500), (1000,), 5000, 5000, made=5)))
    log.tell(StageEnded("customers", "interrupted"))
    assert log.lines[-2:] == [
        "2023-11-14T22:13:20Z customers: 50.0% done, 5,000 customers accepted, 0 requests, 50 s left, all: 96 s left",
        "2023-11-14T22:13:20Z customers: interrupted",
    ]


def test_a_log_for_programs_has_one_object_a_notice_with_its_time() -> None:
    stream = io.StringIO()
    tell = JsonLines(stream, lambda: 1_700_000_000.0)
    for notice in (Sending(batch(7), 2), Answered(batch(7), Receipt(Kind.THROTTLED, 429), 2), Stopping(150.0)):
        tell(notice)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [it["notice"] for it in found] == ["sending", "answered", "stopping"]
    assert {it["time"] for it in found} == {"2023-11-14T22:13:20Z"}
    assert [(it["stage"], it["batch"], it["attempt"]) for it in found[:2]] == [("customers", 7, 2)] * 2
    with watching(Terminal(), Output(quiet=True, log="json")) as told:
        assert isinstance(told, JsonLines)


@pytest.mark.parametrize(
    ("account", "share"),
    [
        (Account(), None),
        (Account(Place(0, 500), (1000,)), 0.5),  # all of it had no unit
        (Account(Place(0, 800), (1000,), 400, 100), 0.2),
        (Account(Place(0, 800), (1000,), 400, 100, 200, 100), 0.8),
        (Account(Place(1, 500), (1000, 1000), 10, 10), 0.75),
        (Account(Place(0, 1000), (1000,), 10, 10), 0.999),
        (Account(Place(0, 1000), None, 10, 10, complete=True), 1.0),
        (Account(Place(0, 1000), (1000,), 10, 5, complete=True), 0.5),
    ],
)
def test_what_is_settled_counts_as_done_and_what_is_only_read_does_not(account: Account, share: float | None) -> None:
    assert share_settled(account) == share


def test_a_log_does_not_repeat_what_the_run_waits_for() -> None:
    log = Log()
    for second in range(40):
        log.tell(Waiting("reading-back", f"reading back whether batch {second} landed", 0.0))
        log.now += 1
    assert [line.partition("waiting: ")[2] for line in log.lines] == [
        f"reading back whether batch {second} landed" for second in (0, 30)
    ]


def test_quiet_shows_nothing_and_before_a_stage_begins_there_is_no_bar() -> None:
    before = Warned("x", "look"), accepted(), Waiting("x", "a while"), StageEnded("x", "complete")
    assert shown(Terminal(), *before, quiet=True) == ""
    assert "look" in shown(Terminal(), *before)


STORY = (
    RunBegan({"customers": Account(START, (1000,)), "events": Account(expected=Expected(10.0))}, "1/5s", "", 30.0, 4),
    StageBegan("customers", Account(Place(0, 250), (1000,), 2500, 2500, sent=3, made=3, requests=4)),
    Sealed("customers", batch()),
    Advanced("customers", END, 3500, 0),
    Sending(batch(), 1),
    Answered(batch(), Receipt(Kind.ACCEPTED, 201, latency=0.4), 1),
    Sending(batch(2), 1),
    DeadLettered("customers", Tally(5, 12)),
    Waiting("asked-to-wait", "the target answered 503 and asked to wait", 60.0),
    Stopping(100.0),
)


@pytest.mark.parametrize("width", [120, 80, 60, 40, 20])
def test_a_screen_has_a_bar_for_each_stage_and_all_that_an_operator_asks(width: int) -> None:
    now = [1_000.0]
    watch = Watch(lambda: now[0])
    for notice in STORY:
        watch.hear(notice)
    now[0] += 10.0
    lines = watch.screen(width - 3)
    assert max(map(len, lines)) <= width - 3
    assert [line.split()[0] for line in lines[:3]] == ["customers", "events", "all"]
    said = "\n".join(lines)
    assert "50.0%" in lines[0]
    assert ("━" in said) == (width >= 80)
    assert "Stopping: 1 requ" in said
    assert "unknown 0" in said
    if width >= 80:
        for part in ("3,500 customers", "fill 87.5%", "100.0 customers/s", "last answer 201", "dead 12"):
            assert part in said, part
        assert "Stopping: 1 request under way, at most 90 s" in said
        assert "waiting (50 s): the target answered 503" in said
        assert "s left" in lines[0]
        assert "left" in lines[2]


def test_one_unit_is_one_and_what_is_over_is_done_and_holds_nothing() -> None:
    watch = Watch(lambda: 1_000.0)
    watch.hear(RunBegan({"customers": Account(), "events": Account(complete=True)}, "1/5s", "", 30.0, 4))
    for notice in (
        StageBegan("customers"),
        Sending(batch(1, 1), 1),
        accepted_unit(),
        StageEnded("customers", "complete"),
    ):
        watch.hear(notice)
    watch.hear(Stopping(100.0))
    lines = watch.screen(100)
    assert "  1 customer  " in lines[0]
    assert lines[2].split()[0] == "all"
    assert lines[2].endswith("30 s left")  # for the queue of the target
    assert lines[-1] == "Stopping: 0 requests under way"


def test_while_samples_are_verified_the_time_left_is_that_of_the_verify() -> None:
    now = [1_000.0]
    watch = Watch(lambda: now[0])
    watch.hear(RunBegan({"customers": Account(complete=True), "events": Account()}, "1/5s", "", 30.0, 4))
    verifying = Verifying("verifying", "verifying: 20 of about 100 records read back", 75.0)
    asked_to_wait = Waiting("asked-to-wait", "the target answered 429 and asked to wait", 9.0)
    for notice in (StageBegan("events"), StageEnded("events", "complete"), verifying, asked_to_wait):
        watch.hear(notice)
    now[0] += 5.0
    assert watch.line().endswith("all: 70 s left")
    assert watch.screen(100)[2].endswith("70 s left")


def test_a_terminal_shows_the_screen_and_above_it_what_has_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    happened = (Warned("x", "[not markup]"), Answered(batch(2), Receipt(Kind.THROTTLED, 429)))
    said = shown(Terminal(), *STORY, *happened, StageEnded("customers", "failed", "byte 7"))
    for part in ("3,500 customers", "warning: [not markup]", "throttled (429)", "customers: failed: byte 7"):
        assert part in said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12, "12 s"),
        (119, "119 s"),
        (300, "5 min"),
        (12_000, "3 h 20 min"),
        (442_800, "5 days 3 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert spoken(seconds) == said


def test_the_table_of_totals_fits_a_terminal_of_80_columns_whatever_the_numbers() -> None:
    stage: dict[str, Any] = {"state": "interrupted", "code": "pilot", "message": "", "fill": 1.0, "done": 0.425}
    stage |= {"seconds_left": 12_000.0, "requests": 7, "in_units": dict.fromkeys(ROWS, 10**12)}
    stages = {name: stage | dict.fromkeys(ROWS, 10**12 - 1) for name in STAGES}
    table = totals_table({"state": "interrupted", "stages": stages, "dry_run": False})
    assert max(map(len, table.splitlines())) <= 79
    for part in ("paused", "42.5%", "3 h 20 min", "read       1,000,000,000,000", "  records    999,999,999,999"):
        assert part in table, table
    same = {name: stage | dict.fromkeys(ROWS, 10**12) for name in STAGES}
    assert "records" not in totals_table({"state": "complete", "stages": same, "dry_run": True})


@pytest.mark.parametrize(
    ("code", "ended", "more", "said"),
    [
        (0, Ended(True), {}, "Complete: every record is accepted or filtered (exit code 0)."),
        (0, Ended(True), {"warnings": ["x"]}, "Complete: every record is accepted or filtered, with warnings"),
        (0, Ended(True), {"dry_run": True}, "Complete: every record is written or filtered (exit code 0)."),
        (3, Ended(True), {}, "Complete, with 2 dead letters (exit code 3)."),
        (4, Ended(True), {}, "Other records are still to be sent (exit code 4)."),
        (4, Ended(True), {"state": "complete"}, "Everything else is sent (exit code 4)."),
        (5, Ended(False), {}, "The target stopped this run: see the error above (exit code 5)."),
        (130, Ended(False), {}, "Stopped on request; nothing is lost (exit code 130)."),
        (130, Ended(False), {"state": "complete"}, "Everything is sent; the last look at the target is left"),
        (130, Ended(False), {"state": "complete", "resume": None}, "Everything is sent; the last look at the target"),
        (130, Ended(True), {}, "The retry is done; the run itself is not (exit code 130)."),
        (
            10,
            Ended(False, pilot=9),
            {},
            "The pilot is done: at most 9 records, with all that belongs to their",
        ),
        (10, Ended(False, pilot=5), {}, "The pilot is done: at most 7 records"),  # an earlier run went further
        (2, Ended(False), {"resume": None}, "This run failed: see the error above (exit code 2)."),
    ],
)
def test_the_last_words_of_a_run_say_how_it_ended_and_what_goes_on(
    code: int, ended: Ended, more: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["streammig", "again"])
    stages = {"events": {"dead": 2, "unknown": 1, "source_records": 7, "code": ""}}
    found = {"stages": stages, "resume": "again", "state": "interrupted", "warnings": [], "dry_run": False} | more
    last = headline(code, found, ended)
    assert last.startswith(said)
    goes_on = f"To go on: {found['resume'] or 'streammig again'}"
    assert last.endswith(f"\n{goes_on}") == (found["resume"] is not None or code == 130)
    # What can't be used is not offered to be called again.
    assert "again" not in headline(2, found, ended)


def test_words_are_wrapped_and_a_command_that_is_offered_never_is() -> None:
    command = "streammig resolve " + "x" * 70 + " 2 --stage events"
    long = "error: " + "word " * 20 + "[a-code]"
    found = wrapped(f"{long}\nDecide: {command}\n  {command}\n\nshort: streammig run").splitlines()
    assert found == [long[:77].rstrip(), "  " + long[77:], "Decide:", f"  {command}", f"  {command}", "",
                     "short: streammig run"]  # fmt: skip


# -- the document ------------------------------------------------------------------------------------------------------

MARK = {"file": "e.json", "size": 1000, "compression": ""}


@pytest.fixture
def file(tmp_path: Path) -> Any:
    opened = Checkpoint.create(tmp_path / "c", binding={"account": "a"}, version="1", started=0.0)
    opened.set_context({"command": "streammig run"})
    opened.add_stage("customers", 0, {}, [MARK])
    yield opened
    opened.close()


def seal(file: Checkpoint, read: int = 10) -> Batch:
    draft = made([Range(START, END)], Tally(10, 10), b"x")
    return file.seal("customers", draft, Progress(frontier=END, source_records=10, read=Tally(read, read)), 1.0)


def test_time_left_is_that_of_the_requests_left_and_of_a_run_that_is_on_also_when_it_ends(file: Checkpoint) -> None:
    file.stage_state("customers", "running", 1000.0)
    pace = Pace(parse_limits("1/5s", {}), settle=60.0)
    assert document(file, running=True, now=1100.0, pace=pace)["seconds_left"] is None  # nothing to go by
    sealed = seal(file)
    assert document(file, running=True, now=1100.0)["stages"]["customers"]["done"] == 0  # read, and not sent yet
    assert file.move(sealed, BatchState.SEALED, BatchState.ACCEPTED, 1100.0)
    found = document(file, running=True, now=1100.0, pace=pace)
    stage = found["stages"]["customers"]
    assert (stage["done"], found["state"], found["resume"]) == (0.5, "running", None)
    assert (stage["seconds_left"], found["seconds_left"]) == (0.0, 0.0)
    assert stage["eta"] == found["eta"] == iso(1100.0) == "1970-01-01T00:18:20Z"
    assert "Time left: 0.0 s, until 1970-01-01 00:18 UTC" in summary(found)
    paused = document(file, running=True, now=1100.0, pace=pace._replace(paused=True))
    assert (paused["eta"], paused["stages"]["customers"]["eta"], paused["next_request_in"]) == (None, None, None)
    assert "Time left once it goes on" in summary(paused)
    stopped = document(file, running=False, now=1100.0, pace=pace)
    assert (stopped["state"], stopped["stages"]["customers"]["state"]) == ("interrupted", "interrupted")
    assert (stopped["eta"], stopped["seconds_left"], stopped["resume"]) == (None, 0.0, "streammig run")
    assert "Time left once it goes on: 0.0 s" in summary(stopped)
    file.stage_state("customers", "complete", 1000.0)
    assert document(file, running=False, now=1100.0, pace=pace)["seconds_left"] is None
    assert "All is sent. The last look" in summary(document(file, running=True, now=1100.0))


def test_a_last_look_that_is_left_is_told_and_no_time_is_told_of_one_that_takes_longer(file: Checkpoint) -> None:
    sealed = seal(file)
    assert file.move(sealed, BatchState.SEALED, BatchState.ACCEPTED, 1100.0)
    context = file.run["context"] | {"expected": {"customers": Expected(1.0, readable=True)}}
    file.set_context(context)
    file.stage_state("customers", "complete", 1100.0)
    pace = Pace(parse_limits("1/5s", {}), settle=60.0)
    early, late = (document(file, running=True, now=now, pace=pace) for now in (1130.0, 1200.0))
    assert 30.0 < early["seconds_left"] < 40.0
    assert late["seconds_left"] == 0.0
    assert "All is sent. The last look at the target is under way." in summary(late)
    stopped = document(file, running=False, now=1200.0, pace=pace)
    assert (stopped["state"], stopped["resume"]) == ("complete", "streammig run")
    assert state_sentence(stopped) == "Everything is sent; the last look at the target is left."
    file.mark_seen("customers", 1200.0)
    seen = document(file, running=False, now=1200.0, pace=pace)
    assert (seen["resume"], state_sentence(seen)) == (None, "The run is complete.")


def test_of_what_is_compressed_the_progress_is_told_by_its_length_where_that_is_known(file: Checkpoint) -> None:
    file.add_stage("events", 1, {}, [MARK | {"compression": "gzip"}])
    file.stage_state("events", "running", 1000.0)
    assert document(file, running=True, now=1100.0)["stages"]["events"]["done"] is None
    file.add_stage("transactions", 2, {}, [MARK | {"compression": "gzip", "size": 100, "length": 1000}])
    file.advance("transactions", Progress(END, 10, Tally(10, 0), filtered={"deleted": Tally(10, 0)}))
    assert document(file, running=True, now=1100.0)["stages"]["transactions"]["done"] == 0.5
    over = Progress(Place(0, 5000, 0, 11), 10, Tally(10, 0), filtered={"deleted": Tally(10, 0)})
    file.advance("transactions", over)
    assert document(file, running=True, now=1100.0)["stages"]["transactions"]["done"] < 1  # until it is complete


def test_of_a_stage_that_is_read_only_what_is_settled_counts_as_done(file: Checkpoint) -> None:
    sealed = seal(file)
    file.stage_state("customers", "complete", 1.0)
    assert file.move(sealed, BatchState.SEALED, BatchState.PARKED)
    assert document(file, running=False, now=1.0)["stages"]["customers"]["done"] == 0
    assert file.move(sealed, BatchState.PARKED, BatchState.ACCEPTED, 1.0)
    assert document(file, running=False, now=1.0)["stages"]["customers"]["done"] == 1
    assert (shared(0.99999), shared(1.0), shared(0.57)) == ("99.9%", "100.0%", "57.0%")


def test_totals_that_do_not_add_up_say_so_with_both_sides(file: Checkpoint) -> None:
    seal(file, read=11)
    found = document(file, running=False, now=1.0)
    assert not found["balanced"]
    sides = found["stages"]["customers"]["imbalance"]
    assert (sides["read"]["records"], sides["placed"]["records"]) == (11, 10)
    said = summary(found)
    assert "THE TOTALS DO NOT ADD UP." in said
    assert "'records': 11" in said
    assert "'records': 10" in said


@pytest.mark.parametrize(
    ("filtered", "dead", "said"),
    [
        ({"no-events": Tally(10)}, (), "its 10 records were filtered (no-events). Is it the file of another stage?"),
        ({"no-events": Tally(1)}, ("bad-id",) * 9, "1 of its 10 records filtered, and the rest refused (bad-id)"),
        ({}, ("mapping-failed",) * 10, "were refused (mapping-failed). Correct the mapping"),
        ({}, ("bad-id",) * 6 + ("bad-date",) * 4, "were refused (bad-id, bad-date). Do the records need a mapping?"),
        ({}, ("invalid-utf8",) * 10, "were refused (invalid-utf8). Convert the file to UTF-8 first"),
        ({}, (), "the export holds no record"),
    ],
)
def test_a_stage_of_which_nothing_was_sent_says_why(
    file: Checkpoint, filtered: dict[str, Tally], dead: tuple[str, ...], said: str
) -> None:
    letters = tuple(DeadLetter(Position(0, at, 1, at), 0, code, "", Tally(1)) for at, code in enumerate(dead))
    read = Tally(len(letters) + sum(it.records for it in filtered.values()))
    file.advance("customers", Progress(END, read.records, read, filtered=filtered, dead=letters))
    assert document(file, running=False, now=1.0)["warnings"] == []  # more may come
    file.stage_state("customers", "complete", 1.0)
    found = document(file, running=False, now=1.0)
    assert [said in it for it in found["warnings"]] == [True] * bool(said)
    assert all(f"WARNING: {it}" in summary(found) for it in found["warnings"])
    assert ("The run is complete, with" in state_sentence(found)) == bool(dead)


def test_what_the_look_behind_a_stage_found_missing_is_warned_of_also_by_status(file: Checkpoint) -> None:
    seal(file)
    file.stage_state("customers", "complete", 1.0, "of 10 samples, 1 are not visible")
    found = document(file, running=False, now=1.0)
    assert found["warnings"] == ["customers: of 10 samples, 1 are not visible"]
    assert summary(found).count("of 10 samples") == 1


def test_many_kinds_of_dead_letters_are_named_in_few_lines(file: Checkpoint) -> None:
    codes = [f"bad-field-{number}" for number in range(28)]
    tally = Tally(1, 1)
    letters = tuple(
        DeadLetter(Position(0, at, 1, at + 1), 0, code, "x", tally) for at, code in enumerate([*codes, "bad-field-7"])
    )
    file.advance("customers", Progress(END, 29, Tally(29, 29), dead=letters))
    said = [it for it in summary(document(file, running=False, now=1.0)).splitlines() if "bad-field" in it]
    assert said[0].startswith("  customers: dead letters as bad-field-7: 2, bad-field-")
    assert len(said) < 9
    assert max(map(len, said)) < 80
    assert all(f"{code}: {2 if code == 'bad-field-7' else 1}" in "\n".join(said) for code in codes)


def test_a_try_that_found_no_connection_is_no_request(file: Checkpoint) -> None:
    sealed = seal(file)
    for kind in (Kind.NOT_SENT, Kind.NOT_SENT, Kind.ACCEPTED):
        attempt = file.sending(sealed, 1.0)
        state = BatchState.ACCEPTED if kind is Kind.ACCEPTED else BatchState.SEALED
        file.received(sealed, attempt, Receipt(kind), state, 1.0)
    found = document(file, running=False, now=1.0)
    stage = found["stages"]["customers"]
    assert (stage["requests"], stage["not_sent"]) == (1, 2)
    assert "customers: failed connection attempts: 2" in summary(found)


def test_a_run_without_a_stage_is_not_complete(tmp_path: Path) -> None:
    empty = Checkpoint.create(tmp_path / "empty", binding={}, version="1", started=0.0)
    assert document(empty, running=False, now=1.0)["state"] == "interrupted"
    empty.close()
