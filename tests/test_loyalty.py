"""An export that nobody here wrote arrives whole: members as customers, a log of single lines as their events."""

from __future__ import annotations

import collections
import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.cli.rehearsal import LocalTarget
from tests import loyalty_maps
from tests.commands import Called, Shell, listing, sandbox

DATA = Path(__file__).parents[2] / "shared" / "data" / "loyalty"
MEMBERS, LOG = DATA / "profile.ndjson.gz", DATA / "transcript-part.ndjson.gz"
SETTINGS = """
zero_orders = true

[customers]
files = ["{members}"]
map = "tests.loyalty_maps:customer"

[events]
files = ["{log}"]
map = "tests.loyalty_maps:event"
owner = "person"
"""


@pytest.fixture
def target() -> Iterator[LocalTarget]:
    with sandbox() as found:
        yield found


def lines_of(path: Path) -> list[dict[str, Any]]:
    assert path.is_file(), f"{path} is missing: the published export belongs beside the project"
    with gzip.open(path, "rb") as file:
        return [json.loads(line) for line in file]


def migrated(shell: Shell, target: LocalTarget, members: Path, log: Path) -> Called:
    (shell.folder / "loyalty.toml").write_text(SETTINGS.format(members=members, log=log))
    return shell.run(target.url, "loyalty.toml", "--json")


Key = tuple[str, str, str, Decimal]


def expected(log: list[dict[str, Any]]) -> collections.Counter[Key]:
    """Owner, type, purchase and value of every line; the purchase is "none" where the target is sent none of ours."""
    found: collections.Counter[Key] = collections.Counter()
    for line in log:
        event = loyalty_maps.event(line)
        order = event.get("order", {"purchase_id": "none", "value": Decimal(0)})
        found[event["person"], event["type"], order["purchase_id"], order["value"]] += 1
    return found


def held(target: LocalTarget) -> collections.Counter[Key]:
    return collections.Counter(
        (it["owner"], it["type"], known(it["purchase_id"]), Decimal(it["value"])) for it in listing(target, "events")
    )


def test_the_published_members_and_their_log_arrive_each_exactly_once(shell: Shell, target: LocalTarget) -> None:
    members, log = lines_of(MEMBERS), lines_of(LOG)
    ended = migrated(shell, target, MEMBERS, LOG)
    assert ended.code == 0, ended.err
    stages = ended.document["stages"]
    assert (stages["customers"]["accepted"], stages["events"]["accepted"]) == (17_000, 12_000)
    # Nobody is at the end of a batch that is not full but the last.
    assert (stages["customers"]["batches"], stages["events"]["batches"]) == (17, 12)
    ledger = target.ledger()
    assert {each["id"] for each in listing(target, "customers")} == {member["id"] for member in members}
    assert ledger["holds"]["customers"]["landed"] == 17_000
    assert held(target) == expected(log)
    assert all(ledger["twice"][stage]["count"] == 0 for stage in ("customers", "events"))
    assert ledger["dropped"]["events"] == {}


def known(purchase: str) -> str:
    return "none" if purchase.startswith("none-") else purchase


def lines_of_every_kind(people: list[str], dice: Random) -> list[dict[str, Any]]:
    """A log in time order like the published one, several lines to a person and not grouped."""
    made: list[dict[str, Any]] = []
    value: dict[str, Any]
    for time in range(0, 714, 6):
        for person in dice.sample(people, 30):
            match dice.randrange(4):
                case 0:
                    kind, value = "offer received", {"offer id": "9b98b8c7a33c4b65b9aebfe6a799e6d9"}
                case 1:
                    kind, value = "offer viewed", {"offer id": "9b98b8c7a33c4b65b9aebfe6a799e6d9"}
                case 2:
                    offer = {"offer_id": "2906b810c7d4411798c6938adc9daaa5", "reward": dice.choice([2, 3, 5, 10])}
                    kind, value = "offer completed", offer
                case _:
                    kind, value = "transaction", {"amount": dice.choice([0.8300000000000001, 34.56, 19.89, 1062.28, 7])}
            made.append({"person": person, "event": kind, "value": value, "time": time})
    return made


def test_purchases_and_rewards_that_are_not_grouped_by_person_are_joined_and_arrive_once(
    shell: Shell, target: LocalTarget
) -> None:
    members = lines_of(MEMBERS)[:150]
    log = lines_of_every_kind([member["id"] for member in members], Random(7))
    files = shell.folder / "members.ndjson", shell.folder / "log.ndjson"
    for path, records in zip(files, (members, log), strict=True):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    ended = migrated(shell, target, *files)
    assert ended.code == 0, ended.err
    assert held(target) == expected(log)
    ledger = target.ledger()
    kinds = collections.Counter(line["event"].upper().replace(" ", "_") for line in log)
    kinds["PURCHASE"] = kinds.pop("TRANSACTION")
    assert ledger["holds"]["events"]["types"] == kinds
    paid = sum((key[3] * count for key, count in expected(log).items() if key[1] == "PURCHASE"), Decimal())
    assert Decimal(ledger["holds"]["events"]["purchase_value"]) == paid
    assert Decimal(ended.document["stages"]["events"]["sums"]["accepted"]["purchases"]) == paid
    assert ended.document["stages"]["events"]["batches"] == -(-len(log) // 1000)
    assert ledger["twice"]["events"]["count"] == 0


def test_the_same_shape_is_refused_for_transactions_with_the_reason(shell: Shell, target: LocalTarget) -> None:
    rows = [{"person": "p1", "reward_id": "x", "amount": 1}] * 3
    path = shell.folder / "rows.ndjson"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (shell.folder / "m.toml").write_text('[transactions]\nfiles = ["rows.ndjson"]\nowner = "person"\n')
    ended = shell.run(target.url, "m.toml")
    assert ended.code == 2
    assert "Group them by customer first" in ended.err
    assert "transactions" not in target.ledger()["requests"]
    assert not (shell.folder / "m.checkpoint").exists()
