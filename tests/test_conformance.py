"""The ports, held by the real thing and by the fakes that stand for it in other tests."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint, CheckpointWriter, Store
from streammig.delivery.folder import FolderClient, FolderTarget, NoReadBack, Unlimited
from streammig.masivo.client import MasivoClient
from streammig.masivo.readback import MasivoReadBack
from streammig.model import Place, Position, Range, Record, Tally
from streammig.settings import Settings
from streammig.sources import open_source, parse_input
from streammig.stages import STAGES
from streammig.target import Client
from streammig.targets import Masivo
from tests import conformance
from tests.drafts import made
from tests.masivo_session import KEY, WallClock, session_on
from tests.memory_target import MemoryTarget, Weather
from tests.sandbox_caller import customer, event, running, transaction
from tests.test_dedup import Export
from tests.virtual import VirtualClock, virtual
from tests.wire import closed_port

ENTRIES: dict[str, dict[str, Any]] = {
    "customers": customer("a"),
    "events": {"id": "a", "events": [event("p1")]},
    "transactions": {"id": "a", "transactions": [transaction(4)]},
}
RECORDS = {
    stage: Record(Position(0, 0, 9, 1), 0, "a", json.dumps(entry).encode(), 1) for stage, entry in ENTRIES.items()
}


def body(record: Record) -> bytes:
    return b'{"customers":[%b]}' % record.body


def masivo() -> Masivo:
    return Masivo(
        settings=Settings(base_url="http://127.0.0.1:1", request_timeout=1.0),
        key="k",
        started=0.0,
        mappings=dict.fromkeys(STAGES),
        clock=WallClock(),
        rng=Random(1),
        account=Unlimited(),
        waiting=lambda why, seconds: None,
    )


# -- the export and the rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["array", "lines", "two files"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_source_and_the_rules_over_it(tmp_path: Path, stage: str, layout: str) -> None:
    entries = [ENTRIES[stage] | {"id": f"c{number}"} for number in range(7)]
    if stage == "customers":
        entries = [customer(f"c{number}") for number in range(7)]
    name = "x.ndjson" if layout == "lines" else "x.json"
    text = "\n".join(map(json.dumps, entries)) if layout == "lines" else json.dumps(entries)
    (tmp_path / name).write_text(text)
    inputs = [parse_input(str(tmp_path / name))]
    if layout != "two files":
        conformance.source(open_source(inputs), 7)
    conformance.rules(masivo().rules(stage), open_source(inputs))


def test_the_source_and_the_rules_of_a_scan() -> None:
    export = Export([(f"c{nth}", f"m{nth}", "" if nth % 5 else "deleted") for nth in range(14)])
    conformance.source(export, 7)
    conformance.rules(export, export)


@pytest.mark.parametrize("dry", [False, True])
def test_a_target_names_its_stages(tmp_path: Path, dry: bool) -> None:
    conformance.target(FolderTarget(masivo(), tmp_path) if dry else masivo(), STAGES)


# -- the client and what is read back --------------------------------------------------------------------------------


async def test_the_client_of_masivo() -> None:
    async with running(token=False, api_key=KEY) as caller, session_on(caller.sandbox.url) as session:
        await conformance.client(MasivoClient(session, WallClock()), "customers", body(RECORDS["customers"]))
    async with session_on(f"http://127.0.0.1:{closed_port()}") as session:
        subject = MasivoClient(session, WallClock())
        await conformance.client_without_target(subject, "customers", body(RECORDS["customers"]))


@virtual()
async def test_the_client_in_memory() -> None:
    subject: Client = MemoryTarget(VirtualClock(), Random(1))
    await conformance.client(subject, "customers", body(RECORDS["customers"]))
    subject = MemoryTarget(VirtualClock(), Random(1), Weather({"not-sent": 1.0}))
    await conformance.client_without_target(subject, "customers", body(RECORDS["customers"]))


async def test_the_client_of_a_folder(tmp_path: Path) -> None:
    subject = FolderClient(tmp_path)
    began: list[int] = []
    await subject.send("customers", b"{}", lambda: began.append(1))
    assert began == [1]
    assert await NoReadBack().reachable()


async def test_the_read_back_of_masivo() -> None:
    async with (
        running(token=False, api_key=KEY, balance_match=False) as caller,
        session_on(caller.sandbox.url) as session,
    ):
        sending = MasivoClient(session, WallClock())

        async def sent(stage: str, record: Record) -> None:
            await sending.send(stage, body(record))
            assert await caller.sandbox.drain(5)

        await conformance.readback(MasivoReadBack(session), sent, RECORDS)


@virtual()
async def test_the_read_back_in_memory() -> None:
    subject = MemoryTarget(VirtualClock(), Random(1))

    async def sent(stage: str, record: Record) -> None:
        await subject.send(stage, body(record))
        subject.settle()

    await conformance.readback(subject, sent, RECORDS)


# -- the checkpoint --------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with ExitStack() as stack:
        file = Checkpoint.create(tmp_path / "run.checkpoint", binding={}, version="0", started=0.0)
        stack.callback(file.close)
        file.add_stage("customers", 0, {}, [])
        reader = Checkpoint.open(file.path, read_only=True)
        stack.callback(reader.close)
        writing, reading = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
        yield Store(CheckpointWriter(file, writing), reader, reading)


async def test_the_checkpoint_is_read_as_it_was_written(store: Store) -> None:
    ranges = [Range(Place(0, at * 100, 0, at + 1), Place(0, at * 100 + 100, 0, at + 2)) for at in range(3)]
    drafts = [made([it], Tally(1, 1), b'{"customers":[{"id":"c"}]}') for it in ranges]
    await conformance.checkpoint(store, "customers", drafts)


async def test_questions_to_the_checkpoint_do_not_wait_for_its_writer(store: Store) -> None:
    await conformance.reads_beside_a_write(store)
