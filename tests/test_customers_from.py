"""A run without customers takes from another checkpoint who was delivered, and what belongs to others waits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint
from streammig.cli.rehearsal import LocalTarget
from streammig.migration.elsewhere import kept_path
from streammig.records import BatchState
from streammig.settings import load
from tests.commands import Called, Shell, sandbox, states, write
from tests.sandbox_caller import customer, event, lot, transaction
from tests.test_system import run_world
from tests.world import SETTLE_TIME, World

PEOPLE = [
    *[customer(f"c{number}", balance=[lot(1)]) for number in range(6)],
    customer("gone", deleted_at="2021-01-01T00:00:00Z"),
    customer("bad", name=5, balance=[lot(1)]),
    customer("twin", email="C1@example.org"),
]
EVERYBODY = [each["id"] for each in PEOPLE] + ["nobody"]
WAITING = {"owner-deleted": 1, "owner-unknown-customer": 1, "owner-duplicate-email": 1, "owner-wrong-type": 1}


@pytest.fixture
def target() -> Iterator[LocalTarget]:
    with sandbox() as found:
        yield found


def exports(shell: Shell) -> None:
    write(shell.folder / "c.json", PEOPLE)
    write(shell.folder / "e.json", [{"id": owner, "events": [event(f"p-{owner}")]} for owner in EVERYBODY])
    write(shell.folder / "t.json", [{"id": owner, "transactions": [transaction(1)]} for owner in EVERYBODY])


def customers(shell: Shell, target: LocalTarget, *more: object) -> Called:
    return shell.run(target.url, "--customers", "c.json", "--checkpoint", "c.checkpoint", "--json", *more)


def others(shell: Shell, target: LocalTarget, *more: object) -> Called:
    stages = ["--events", "e.json", "--transactions", "t.json"]
    return shell.run(target.url, *stages, "--customers-from", "c.checkpoint", "--json", *more)


def test_what_belongs_to_customers_that_another_run_did_not_deliver_waits_with_the_reason(
    shell: Shell, target: LocalTarget
) -> None:
    exports(shell)
    assert customers(shell, target).code == 3
    ended = others(shell, target)
    assert ended.code == 3, ended.err
    stages = ended.document["stages"]
    for name in ("events", "transactions"):
        assert stages[name]["accepted"] == 6
        assert stages[name]["dead_by"] == WAITING
        assert target.ledger()["holds"][name]["count"] == 6
        assert target.ledger()["dropped"][name] == {}
    assert not (shell.folder / "migration.checkpoint.dedup").exists()


def test_the_setting_does_what_the_flag_does_and_lies_beside_the_file(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert customers(shell, target).code == 3
    (shell.folder / "in").mkdir()
    toml = shell.folder / "in" / "move.toml"
    toml.write_text('customers_from = "../c.checkpoint"\n[events]\nfiles = ["../e.json"]\n')
    assert Path(load(toml, {}).customers_from).resolve() == (shell.folder / "c.checkpoint").resolve()
    ended = shell("run", toml, "--base-url", target.url, "--limits", "off", "--settle-time", "0", "--json")
    assert ended.code == 3, ended.err
    assert ended.document["stages"]["events"]["dead_by"] == WAITING


def test_a_resume_judges_as_its_run_began_and_a_retry_by_what_is_known_since(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert customers(shell, target).code == 3
    assert others(shell, target, "--first", 3).code == 130
    assert os.stat(kept_path(shell.checkpoint)).st_mode & 0o777 == 0o600
    # Meanwhile the bad one is mended and delivered.
    assert shell("dead-letters", "c.checkpoint", "--out", "dead.ndjson").code == 0
    lines = [json.loads(line) for line in (shell.folder / "dead.ndjson").read_text().splitlines()]
    fixed = [{**line, "record": {**line["record"], "name": "Good"}} for line in lines if line["record"]["id"] == "bad"]
    (shell.folder / "fixed.ndjson").write_text("".join(json.dumps(line) + "\n" for line in fixed))
    assert shell("retry", "c.checkpoint", "--input", "fixed.ndjson").code == 3
    ended = others(shell, target)
    assert ended.code == 3, ended.err
    assert ended.document["stages"]["events"]["dead_by"] == WAITING
    shell("retry", shell.checkpoint)
    ended = shell("status", shell.checkpoint, "--json")
    for name in ("events", "transactions"):
        assert ended.document["stages"][name]["accepted"] == 7
        assert "owner-wrong-type" not in ended.document["stages"][name]["dead_by"]
    assert target.ledger()["twice"]["events"]["count"] == 0


def refused(shell: Shell, target: LocalTarget, said: str, then: str, *more: object) -> None:
    before = target.ledger()["requests"]
    ended = others(shell, target, *more)
    assert ended.code == 2, ended.err
    assert said in ended.err
    assert then in ended.err
    after = target.ledger()["requests"]
    assert [after.get(name) for name in ("events", "transactions")] == [
        before.get("events"),
        before.get("transactions"),
    ]


def test_customers_that_are_not_all_delivered_are_refused_with_what_to_do(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert customers(shell, target, "--first", 2).code == 130
    refused(shell, target, "customers of c.checkpoint are not all delivered", "Finish that run first: streammig run")
    assert not shell.checkpoint.exists()
    assert not kept_path(shell.checkpoint).exists()


def test_customers_of_unknown_outcome_are_refused_with_what_to_do(shell: Shell) -> None:
    exports(shell)
    with sandbox({"on": "customers", "nth": 1, "do": "reset"}) as target:
        toml = shell.folder / "move.toml"
        toml.write_text('[customers]\nunknown = "park"\n')
        ended = shell.run(target.url, toml, "--customers", "c.json", "--checkpoint", "c.checkpoint")
        assert ended.code == 4, ended.err
        assert states(shell.folder / "c.checkpoint")["customers"] == ["parked"]
        refused(shell, target, "whether the customers of batch 1 of c.checkpoint landed", "streammig resolve c.checkp")


def test_customers_that_are_still_to_be_sent_again_are_refused_with_what_to_do(
    shell: Shell, target: LocalTarget
) -> None:
    exports(shell)
    assert customers(shell, target).code == 3
    file = Checkpoint.open(shell.folder / "c.checkpoint")
    (batch,) = file.batches("customers", BatchState.ACCEPTED)
    assert file.move(batch, BatchState.ACCEPTED, BatchState.SEALED)
    file.close()
    refused(shell, target, "some customers of c.checkpoint were to be sent again", "streammig retry c.checkpoint")


def test_customers_that_were_delivered_just_now_are_given_time_to_settle(tmp_path: Path) -> None:
    async def story(world: World, keys: dict[str, set[str]]) -> None:
        nothing: dict[str, list[str]] = {"files": []}
        first = str(tmp_path / "first.checkpoint")
        world.settings = {"events": nothing, "transactions": nothing, "checkpoint": first, "settle_time": 0.0}
        assert await world.live() is True
        at, requests = world.clock.time(), len(world.target.arrivals)
        world.settings = {"customers": nothing, "customers_from": first, "checkpoint": str(tmp_path / "second")}
        assert await world.live() is True
        assert world.target.arrivals[requests] >= at + SETTLE_TIME - 5
        world.target.settle()
        assert set(world.target.events) == keys["events"]
        assert set(world.target.transactions) == keys["transactions"]
        assert not world.target.dropped

    run_world(tmp_path, 5, story)


def test_a_checkpoint_that_can_not_tell_whose_customers_there_are_is_refused(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert "no checkpoint there" in others(shell, target).err
    assert customers(shell, target).code == 3
    refused(shell, target, "customers of its own", "Leave out the customers' files", "--customers", "c.json")
    with sandbox() as other:
        refused(shell, other, f"delivered its customers to {target.url}", "to the same target")
    assert shell("run", "--customers", "c.json", "--dry-run", "dry").code in (0, 3)
    ended = others(shell, target, "--customers-from", "dry/dry-run.checkpoint")
    assert "nowhere: it is that of a dry run" in ended.err
    assert shell.run(target.url, "--events", "e.json", "--checkpoint", "e.checkpoint").code in (0, 3)
    ended = others(shell, target, "--customers-from", "e.checkpoint")
    assert "e.checkpoint is the checkpoint of a run without customers" in ended.err


def test_the_customers_export_must_be_there_and_be_what_was_delivered(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert customers(shell, target).code == 3
    path = shell.folder / "c.json"
    content = path.read_text()
    path.write_text(content.replace("c5@", "x5@"))
    refused(shell, target, "customers' export of c.checkpoint is not what it was", "Put it back in its place")
    path.unlink()
    refused(shell, target, "export of c.checkpoint is needed", "Put it back in its place")
    path.write_text(content)
    assert others(shell, target).code == 3


def reworked(record: dict[str, Any]) -> Any:
    return current(record)


def current(record: dict[str, Any]) -> Any:
    return record


def test_customers_of_a_mapping_that_makes_others_of_them_now_are_refused(
    shell: Shell, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports(shell)
    assert customers(shell, target, "--map", "customers=tests.test_customers_from:reworked").code == 3
    with monkeypatch.context() as patch:
        patch.setattr("tests.test_customers_from.current", lambda record: {**record, "id": "n" + record["id"]})
        refused(
            shell, target, "test_customers_from:reworked of c.checkpoint makes other customers now than it delivered",
            "Put the mapping back as it was",
        )  # fmt: skip
        assert not shell.checkpoint.with_name("migration.checkpoint.dedup").exists()
    ended = others(shell, target)
    assert ended.code == 3, ended.err
    assert ended.document["stages"]["events"]["dead_by"] == WAITING


def test_a_resume_takes_the_customers_from_the_same_checkpoint_or_is_refused(shell: Shell, target: LocalTarget) -> None:
    exports(shell)
    assert customers(shell, target).code == 3
    assert others(shell, target, "--first", 3).code == 130
    ended = shell.run(target.url, "--events", "e.json", "--transactions", "t.json")
    assert ended.code == 2
    assert "customers_from was" in ended.err
    kept_path(shell.checkpoint).unlink()
    ended = others(shell, target)
    assert ended.code == 2
    assert "migration.checkpoint.customers" in ended.err


def test_customers_that_were_sent_unchecked_are_there_also_where_an_email_stands_twice(
    shell: Shell, target: LocalTarget
) -> None:
    exports(shell)
    assert customers(shell, target, "--unchecked").code in (0, 3)
    ended = others(shell, target)
    found: dict[str, Any] = ended.document["stages"]["events"]["dead_by"]
    assert "owner-duplicate-email" not in found
    assert found["owner-unknown-customer"] == 1
