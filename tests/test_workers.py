"""The pieces of a scan: whatever reads them, in whatever order, the result is that of one reading, to the byte."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import pytest

from streammig.batching import BatchLimits
from streammig.check.stage import Line, NoteMaker, Stage
from streammig.dedup import Build
from streammig.errors import Unusable
from streammig.masivo.rules import CustomerRules, RuleOptions, rules
from streammig.model import Place, Progress
from streammig.reader import Reader
from streammig.scan import Cluster, Halted, Processes, StageScan, Workers, hired
from streammig.scan.stage import read_through
from streammig.scan.tasks import Tasks
from streammig.sources import Form, open_source, parse_input
from streammig.telemetry import Notice, Warned, ignore
from tests.problems import raises
from tests.sandbox_caller import customer, event, lot

KEY = bytes(32)
OPTIONS = RuleOptions(now=datetime(2026, 1, 1, tzinfo=UTC))
PIECE = 12_000
LIMITS = BatchLimits(units=100, bytes=40_000)


def records(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Customers, some with one id or e-mail, some bad; with texts that look like places between two records."""
    rng = Random(seed)
    names = ["Ada", 'x"},{"id":"', "},{", "]}],[{", "line\nbreak", "\\\\", "J\u00f6rg " * 30]
    return [
        customer(
            f"c{rng.randrange(count * 4)}",
            email=f"m{rng.randrange(count * 3)}@example.org",
            name=rng.choice(names),
            balance=[lot(rng.randrange(1, 9)) for _ in range(rng.randrange(4))],
            **({"registration_date": "soon"} if rng.random() < 0.02 else {}),
        )
        for _ in range(count)
    ]


def grouped(count: int) -> list[dict[str, Any]]:
    return [{"id": f"c{at % 90}", "events": [event(f"p{at}-{i}") for i in range(at % 7 + 1)]} for at in range(count)]


def lines(found: list[Any]) -> bytes:
    made = [json.dumps(it, ensure_ascii=False).encode() for it in found]
    made[3:3] = [b"", b'{"id": "broken"', b"  "]
    return b"\n".join(made) + b"\n"


def document(found: list[Any], **more: Any) -> bytes:
    text = json.dumps({"about": [{"no": "record"}], "customers": found, "more": [1, {"a": 1}]}, **more)
    return text.encode()


def table(found: list[Any]) -> bytes:
    rows = [f'{it["id"]},"{it["name"].replace(chr(34), chr(34) * 2)}",{it["email"]},2020-01-01' for it in found]
    return ("id,name,email,registration_date\n" + "\n".join(rows) + "\n").encode()


PEOPLE = records(700)
FORMS: dict[str, tuple[str, bytes]] = {
    "lines": ("c.ndjson", lines(PEOPLE)),
    "lines-cut": ("c.ndjson", lines(PEOPLE)[:-50]),
    "array": ("c.json", json.dumps(PEOPLE).encode()),
    "pretty": ("c.json#customers", document(PEOPLE, indent=2)),
    "document": ("c.json#customers", document(PEOPLE)),
    "array-cut": ("c.json", json.dumps(PEOPLE).encode()[:-3_000]),
    "in-a-row": ("c.json", b"".join(json.dumps(it).encode() for it in PEOPLE)),
    "table": ("c.csv", table(PEOPLE)),
    "keyed": ("keyed.json", json.dumps({f'{at}"}},{{': it for at, it in enumerate(PEOPLE)}, indent=1).encode()),
    "keyed-under-a-path": ("keyed.json#a.b", json.dumps({"x": [1], "a": {"b": dict(enumerate(PEOPLE))}}).encode()),
    "packed": ("c.json.gz", gzip.compress(json.dumps(PEOPLE).encode())),
}


def scanned(
    folder: Path, name: str, workers: Workers | None, tell: Callable[[Place], None], stage: str = "customers"
) -> tuple[Any, list[str]]:
    """All that a check finds in a file, and the codes of its warnings."""
    judged = rules(stage, OPTIONS)
    source = open_source([parse_input(str(folder / name))], form=Form(keyed=name.startswith("keyed")))
    listed: list[Line] = []
    warned: list[str] = []

    def warn(notice: Notice) -> None:
        assert isinstance(notice, Warned)
        warned.append(notice.code)

    note_maker = NoteMaker(judged, None, stage != "customers", KEY, LIMITS)
    work = Stage(stage, source, folder / "work", listed.append)
    job = StageScan(stage, source, judged, {}, folder, note_maker=note_maker, take_note=work.take)
    tasks = Tasks(workers, Event(), warn)
    with Build(folder / "index", "", key=KEY) as build:
        found = read_through(job, build, tell, tasks)
        with build.finish(tasks.each) as index:
            work.begin_plan(note_maker, index if stage == "customers" else None, tasks)
            checked = work.settle()
            work.close()
            told = checked.document(LIMITS.units, ids=True)
            return (found, index.about, told, checked.requests, checked.bytes, listed), warned


def quietly(place: Place) -> None:
    pass


@pytest.fixture(scope="module")
def three() -> Iterator[Workers]:
    workers = Processes(3, piece=PIECE)
    yield workers
    workers.leave()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_three_processes_find_to_the_byte_what_one_finds(tmp_path: Path, three: Workers, form: str) -> None:
    name, data = FORMS[form]
    (tmp_path / name.partition("#")[0]).write_bytes(data)
    here, _ = scanned(tmp_path, name, None, quietly)
    came: list[Place] = []
    there, warned = scanned(tmp_path, name, three, came.append)
    assert (there, warned) == (here, [])
    assert len(came) > 3
    assert came == sorted(came)
    assert here[0].records > 500
    assert len(here[5]) > 20


@pytest.mark.slow
def test_the_requests_that_are_planned_are_those_of_the_run_s_reader(tmp_path: Path, three: Workers) -> None:
    (tmp_path / "e.json").write_text(json.dumps(grouped(900)))
    here, _ = scanned(tmp_path, "e.json", None, quietly, "events")
    assert scanned(tmp_path, "e.json", three, quietly, "events") == (here, [])
    reader = Reader(open_source([parse_input(str(tmp_path / "e.json"))]), rules("events", OPTIONS), LIMITS, Progress())
    drafts = [sealing.draft for sealing in iter(reader.next, None) if sealing.draft is not None]
    assert (here[3], here[4]) == (len(drafts), sum(len(it.body) for it in drafts))
    assert len(drafts) > 30


class OneDies:
    """Kills a process at the first place that a reading comes to."""

    def __init__(self, pid: Callable[[], int | None]) -> None:
        self._pid, self.killed = pid, False

    def __call__(self, place: Place) -> None:
        if not self.killed and (pid := self._pid()) is not None:
            os.kill(pid, signal.SIGKILL)
            self.killed = True


class NoneStarts(Processes):
    """Workers on a machine without a file descriptor left for a process to be started."""

    def submit(self, work: Callable[..., Any], *given: Any) -> Any:
        self._executor = self._executor or self._started()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            return super().submit(work, *given)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_the_pieces_of_a_lost_worker_are_done_again(tmp_path: Path) -> None:
    name, data = FORMS["array"]
    (tmp_path / name).write_bytes(data)
    here, _ = scanned(tmp_path, name, None, quietly)
    others = {*multiprocessing.active_children()}
    workers = Processes(3, piece=PIECE)
    one = OneDies(lambda: next(it.pid for it in multiprocessing.active_children() if it not in others))
    try:
        assert scanned(tmp_path, name, workers, one) == (here, [])
        assert one.killed
        assert workers.generation > 0
    finally:
        workers.leave()
    assert {*multiprocessing.active_children()} == others


@pytest.mark.slow
def test_workers_that_can_t_be_started_leave_the_work_to_this_process(tmp_path: Path) -> None:
    name, data = FORMS["array"]
    (tmp_path / name).write_bytes(data)
    here, _ = scanned(tmp_path, name, None, quietly)
    others = {*multiprocessing.active_children()}
    workers = NoneStarts(3, piece=PIECE)
    try:
        assert scanned(tmp_path, name, workers, quietly) == (here, ["workers-lost"])
    finally:
        workers.leave()
    assert {*multiprocessing.active_children()} == others


@pytest.mark.slow
def test_a_dask_cluster_of_which_a_worker_dies_finds_to_the_byte_what_one_process_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    name, data = FORMS["document"]
    (tmp_path / name.partition("#")[0]).write_bytes(data)
    monkeypatch.chdir(tmp_path)  # names are relative to where the check is called
    here, _ = scanned(Path(), name, None, quietly)
    make: Any = LocalCluster
    with make(n_workers=3, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)) as cluster:
        workers = Cluster(cluster.scheduler_address, piece=PIECE)
        pids = [nanny.process.pid for nanny in cluster.workers.values()]
        one = OneDies(lambda: pids[0])
        try:
            assert scanned(Path(), name, workers, one) == (here, [])
            assert one.killed
        finally:
            workers.leave()


class SeenHere:
    """Is what it is in one process alone, as a file is that no other machine has."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __reduce__(self) -> Any:
        return _seen, (os.getpid(), self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _seen(pid: int, inner: Any) -> Any:
    if os.getpid() != pid:
        raise FileNotFoundError(2, os.strerror(2), "index")
    return SeenHere(inner)


@pytest.mark.slow
@pytest.mark.parametrize("mapping", [SeenHere(dict), lambda record: record])
def test_what_workers_can_t_see_or_take_is_named_and_done_here(tmp_path: Path, three: Workers, mapping: Any) -> None:
    name, data = FORMS["array"]
    (tmp_path / name).write_bytes(data)
    mapped = CustomerRules(OPTIONS, mapping)
    source = open_source([parse_input(str(tmp_path / name))])
    warned: list[Notice] = []
    job = StageScan("customers", source, mapped, {}, tmp_path, policy=None)
    found = read_through(job, None, quietly, Tasks(three, Event(), warned.append))
    assert [it.code for it in warned if isinstance(it, Warned)] == ["worker-unfit"]
    assert found == read_through(job, None, quietly, Tasks(None, Event(), ignore))


def test_a_cluster_that_is_not_there_is_named() -> None:
    with raises(Unusable, "dask-unreachable"):
        Cluster("tcp://127.0.0.1:9", answers=0.1)


@pytest.mark.slow
def test_a_stop_ends_all_workers_and_none_has_the_key_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASIVO_API_KEY", "a-key-of-the-test")
    name, data = FORMS["array"]
    (tmp_path / name).write_bytes(data)
    others = {*multiprocessing.active_children()}
    workers, halt, seen = Processes(2, piece=PIECE), Event(), list[bytes]()

    def stop(place: Place) -> None:
        seen.extend(Path(f"/proc/{it.pid}/environ").read_bytes() for it in multiprocessing.active_children())
        halt.set()

    source = open_source([parse_input(str(tmp_path / name))])
    job = StageScan("customers", source, CustomerRules(OPTIONS), {}, tmp_path, policy=None)
    with pytest.raises(Halted):
        read_through(replace(job, note_maker=None), None, stop, Tasks(workers, halt, ignore))
    workers.leave()
    assert {*multiprocessing.active_children()} == others
    assert seen
    assert b"a-key-of-the-test" not in b"".join(seen)


def test_small_exports_are_read_by_one_process_unless_more_are_asked_for() -> None:
    assert hired(None, "", 1_000_000) is None
    assert hired(1, "", 1 << 40) is None
    several = hired(2, "", 1)
    assert several is not None
    assert several.count == 2
