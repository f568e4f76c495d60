"""What a program may import: a run and its report, and the errors that end one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

import streammig
from streammig.listening import MOST, Hub
from streammig.telemetry import Warned, ignore
from tests.commands import KEY, sandbox
from tests.sandbox_caller import customer


def test_only_what_is_exported_is_public() -> None:
    for name in streammig.__all__:
        assert getattr(streammig, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = streammig.Checkpoint


def test_a_program_migrates_in_its_own_loop_and_reads_the_report(tmp_path: Path) -> None:
    export, checkpoint = tmp_path / "customers.json", tmp_path / "run.checkpoint"
    export.write_text(json.dumps([customer(f"c{number}") for number in range(20)]))
    with sandbox() as target:
        settings = streammig.Settings.load(
            base_url=target.url,
            checkpoint=str(checkpoint),
            state_dir=str(tmp_path / "state"),
            limits="off",
            settle_time=0.1,
            customers={"files": [str(export)]},
        )
        assert asyncio.run(streammig.Migration(settings, key=KEY).run()) is True
        assert target.ledger()["holds"]["customers"]["count"] == 20
    report = streammig.Report.read(checkpoint)
    assert (report.document["state"], report.document["balanced"]) == ("complete", True)
    assert "customers" in str(report)


def test_what_happens_is_an_async_iterator_that_ends_with_the_run_and_holds_nobody(tmp_path: Path) -> None:
    export = tmp_path / "customers.json"
    export.write_text(json.dumps([customer("c")]))

    async def main(url: str) -> list[str]:
        settings = streammig.Settings.load(
            base_url=url, checkpoint=str(tmp_path / "run.checkpoint"), state_dir=str(tmp_path / "state"), limits="off",
            settle_time=0.1, customers={"files": [str(export)]},
        )  # fmt: skip
        migration = streammig.Migration(settings, key=KEY)
        never_read = migration.telemetry()

        async def names() -> list[str]:
            return [type(notice).__name__ async for notice in migration.telemetry()]

        heard = asyncio.create_task(names())
        await asyncio.sleep(0)
        assert await migration.run()
        del never_read
        return await heard

    with sandbox() as target:
        heard = asyncio.run(main(target.url))
    assert [it for it in heard if it in ("RunBegan", "Sending", "StageEnded")] == ["RunBegan", "Sending", "StageEnded"]


def test_a_listener_that_is_slow_loses_the_oldest_notices() -> None:
    async def main() -> list[str]:
        hub = Hub(ignore)
        listening = hub.listen()
        first = asyncio.ensure_future(anext(listening))
        await asyncio.sleep(0)
        for number in range(MOST + 5):
            hub(Warned("n", str(number)))
        hub.close()
        await asyncio.sleep(0)
        return [(await first).text(), *[notice.text() async for notice in listening]]

    heard = asyncio.run(main())
    assert (len(heard), heard[-1]) == (MOST, f"warning: {MOST + 4}")


def test_a_problem_has_a_code_and_says_what_to_do(tmp_path: Path) -> None:
    settings = streammig.Settings.load(checkpoint=str(tmp_path / "run.checkpoint"), base_url="http://127.0.0.1:1")
    with pytest.raises(streammig.Unusable) as raised:
        asyncio.run(streammig.Migration(settings, key=KEY).run())
    assert raised.value.code == "no-input"
    assert "--customers" in raised.value.hint
