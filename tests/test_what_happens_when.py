"""The target misbehaves, over real sockets: nothing twice, nothing lost in silence, and what the guide says of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from streammig.checkpoint import Checkpoint
from streammig.cli.exit import Ended, exit_code
from streammig.errors import Problem
from streammig.migration import Ask, Migration
from streammig.report.document import document
from streammig.settings import load
from streammig.telemetry import Answered, Notice
from tests.manual import GUIDE, table
from tests.misbehaving import CASES, THEN, Case, Rig
from tests.sandbox_caller import customer
from tests.virtual import Inline, VirtualClock, VirtualLoop

COUNT = 80
IDS = [f"c{number}" for number in range(COUNT)]


class SocketLoop(VirtualLoop):
    """Virtual time beside real sockets of this process: bytes get a moment to arrive before time jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.grace = 0.001


class Played:
    """A case, lived through as often as `live` is called."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder, self.case, self.rig = folder, case, Rig(case)
        self.notices: list[Notice] = []
        self.path = folder / "run.checkpoint"
        records = [customer(it, document_type="x" * 700) for it in IDS]
        (folder / "c.json").write_text(json.dumps({"data": records}))

    async def live(self, server: asyncio.Server) -> tuple[int, str]:
        """One run: its exit code, and the code of the problem that ended it."""
        flags = {
            "checkpoint": str(self.path), "customers": {"files": [str(self.folder / "c.json")]}, "max_bytes": 10_000,
            "base_url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "limits": self.case.limits,
            "account": "acme", "settle_time": 30.0, "visible_time": 300.0, "concurrency": 1,
            "breaker": 5, "verify_sample": 0,
        }  # fmt: skip
        ask = Ask("streammig run", unchecked=True)
        migration = Migration(
            load(None, flags), ask, "key", self.folder / "state", VirtualClock(), Random(1), self.notices.append,
            executor=Inline,
        )  # fmt: skip
        problem = None
        try:
            await migration.run()
        except Problem as found:
            problem = found
        if not self.path.exists():
            assert problem is not None
            return problem.exit_code, problem.code
        return exit_code(self.document(), Ended(problem is None, problem)), problem.code if problem else ""

    def document(self) -> dict[str, object]:
        with closing(Checkpoint.open(self.path, read_only=True)) as file:
            return document(file, running=False, now=0.0)


@pytest.mark.parametrize("case", CASES, ids=[it.words for it in CASES])
def test_i1_i3_i4_a_target_that_misbehaves_doubles_nothing_and_loses_nothing_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")  # spares each case the machine's certificates
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    played = Played(tmp_path, case)

    async def main() -> None:
        server = await asyncio.start_server(played.rig.serve, "127.0.0.1", 0)
        code, problem = await played.live(server)
        assert code == THEN[case.then].exit, (code, problem, [it.text() for it in played.notices])
        assert asyncio.get_running_loop().time() < case.longest
        assert played.rig.reads < 400
        if case.then == "stops":
            assert problem == played.case.code
            code, problem = await played.live(server)
            assert code in (0, 4), problem  # what nothing later can prove is parked
        server.close()
        await asyncio.sleep(1)  # for connections to close

    with asyncio.Runner(loop_factory=SocketLoop) as runner:
        runner.run(main())
    stages = played.document()["stages"]
    assert isinstance(stages, dict)
    found, held = stages["customers"], played.rig.customers
    assert not [owner for owner, count in held.items() if count > 1]
    assert found["read"] == COUNT == found["accepted"] + found["dead"] + found["unknown"]
    assert found["accepted"] <= len(held) <= found["accepted"] + found["unknown"]
    assert bool(found["dead"]) == (THEN[case.then].exit == 3)
    assert bool(found["unknown"]) <= (case.then in ("parked", "stops"))
    followed(case.then, played)


def followed(then: str, played: Played) -> None:
    """What became of the batch, beyond the exit code."""
    rig, waits = played.rig, [it.json() for it in played.notices if it.json()["notice"] == "waiting"]
    sent = [it.batch.seq for it in played.notices if isinstance(it, Answered)]
    if then in ("accepted", "landed"):
        assert len(sent) == len(set(sent)) == rig.posts
    if then in ("proven", "again") and not played.case.auth:
        assert sent.count(2) == 2
    if then == "waits" and played.case.longest != 400.0:
        assert any(it["seconds"] >= 1 for it in waits if it["code"] in ("throttled", "asked-to-wait", "quota"))
    if "Retry-After: 100" in played.case.words:
        assert any(it["code"] == "asked-to-wait" and it["seconds"] > 90 for it in waits)
    if then == "isolated":
        file = Checkpoint.open(played.path, read_only=True)
        dead = {IDS[letter.position.ordinal - 1] for _, letter in file.dead_letters("customers")}
        file.close()
        assert dead == played.case.bad


def test_the_guide_tells_each_case_as_it_is_played() -> None:
    rows = table(GUIDE / "what-happens-when.md", "the target answers", "streammig", "exit")
    assert rows == [[case.words.strip("`"), THEN[case.then].words, str(THEN[case.then].exit)] for case in CASES]
    assert len({case.words for case in CASES}) == len(CASES) >= 90
