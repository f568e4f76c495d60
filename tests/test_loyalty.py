"""An export in a foreign form arrives whole: members as customers, a log of single lines as their events.

The export is made here. Where STREAMMIG_LOYALTY_DATA names the folder of the published one, the same holds for that.
"""

from __future__ import annotations

import collections
import os
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.sandbox.local import LocalTarget
from tests import loyalty_data, loyalty_maps
from tests.commands import Called, Shell, listing
from tests.loyalty_data import Loyalty

PUBLISHED = os.environ.get("STREAMMIG_LOYALTY_DATA")
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


@pytest.fixture(params=["made", "published"] if PUBLISHED else ["made"])
def loyalty(request: pytest.FixtureRequest, tmp_path: Path) -> Loyalty:
    return loyalty_data.read(Path(PUBLISHED or "")) if request.param == "published" else made(tmp_path)


def made(folder: Path) -> Loyalty:
    return loyalty_data.make(folder, dice=Random(7))


def migrated(shell: Shell, target: LocalTarget, loyalty: Loyalty) -> Called:
    (shell.folder / "loyalty.toml").write_text(SETTINGS.format(members=loyalty.members_file, log=loyalty.log_file))
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


def known(purchase: str) -> str:
    return "none" if purchase.startswith("none-") else purchase


def test_members_and_a_log_that_is_not_grouped_by_person_arrive_each_exactly_once(
    shell: Shell, target: LocalTarget, loyalty: Loyalty
) -> None:
    ended = migrated(shell, target, loyalty)
    assert ended.code == 0, ended.err
    stages = ended.document["stages"]
    counts = {"customers": len(loyalty.members), "events": len(loyalty.log)}
    assert {stage: stages[stage]["accepted"] for stage in counts} == counts
    # Every batch is full but the last.
    assert {stage: stages[stage]["batches"] for stage in counts} == {s: -(-n // 1000) for s, n in counts.items()}
    ledger = target.ledger()
    assert {each["id"] for each in listing(target, "customers")} == {member["id"] for member in loyalty.members}
    assert ledger["holds"]["customers"]["landed"] == len(loyalty.members)
    assert held(target) == expected(loyalty.log)
    assert all(ledger["twice"][stage]["count"] == 0 for stage in counts)
    assert ledger["dropped"]["events"] == {}


def test_what_was_paid_adds_up_to_the_cent_in_the_totals_and_at_the_target(
    shell: Shell, target: LocalTarget, tmp_path: Path
) -> None:
    loyalty = made(tmp_path)
    ended = migrated(shell, target, loyalty)
    ledger = target.ledger()
    kinds = collections.Counter(line["event"].upper().replace(" ", "_") for line in loyalty.log)
    kinds["PURCHASE"] = kinds.pop("TRANSACTION")
    assert ledger["holds"]["events"]["types"] == kinds
    paid = sum((key[3] * count for key, count in expected(loyalty.log).items() if key[1] == "PURCHASE"), Decimal())
    assert Decimal(ledger["holds"]["events"]["purchase_value"]) == paid
    assert Decimal(ended.document["stages"]["events"]["sums"]["accepted"]["purchases"]) == paid


def test_the_made_export_has_the_oddities_of_a_foreign_one(tmp_path: Path) -> None:
    members, log = made(tmp_path)[2:]
    silent = [member for member in members if member["gender"] is None]
    assert 0 < len(silent) < len(members)
    assert all(member["age"] == 118 and member["income"] is None for member in silent)
    assert {member["gender"] for member in members} == {"M", "F", "O", None}
    assert {(line["event"], *line["value"]) for line in log} == {
        ("offer received", "offer id"), ("offer viewed", "offer id"), ("offer completed", "offer_id", "reward"),
        ("transaction", "amount"),
    }  # fmt: skip
    assert max(collections.Counter(line["person"] for line in log).values()) > 5
