"""`streammig verify` against a sandbox that was tampered with: what is wrong is found, and nothing else named."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from streammig.checkpoint import locked
from streammig.sandbox.local import LocalTarget
from streammig.verify.sample import at_most, chosen
from tests.commands import Called, Shell, quickly, sandbox, write
from tests.manual import GUIDE
from tests.sandbox_caller import OTHER_REWARD, REWARD, customer, event, lot, transaction

FILES = ("--customers", "c.ndjson", "--events", "e.ndjson", "--transactions", "t.ndjson")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalTarget]:
    with sandbox(store=tmp_path / "target.sqlite") as found:
        yield found


def export(folder: Path, owners: int) -> None:
    """Customers with two lots, and events and transactions of most of them, in another order."""
    names = [f"c{number}" for number in range(owners)]
    lots = [lot("2.50"), lot(4, reward_id=OTHER_REWARD, brand_id="b1")]
    for it in lots:
        it["amount"] = float(it["amount"])
    write(folder / "c.ndjson", [customer(name, balance=lots) for name in names], lines=True)
    backwards = names[::-1]
    events = [{"id": name, "events": [event(f"{name}-{k}") for k in range(3)]} for name in backwards]
    write(folder / "e.ndjson", events, lines=True)
    entries = [transaction(2.5), transaction(5, reward_id=OTHER_REWARD, brand_id="b1")]
    entries.append(transaction(-1, reward_id=OTHER_REWARD, brand_id="b1", type="REDEMPTION"))
    write(folder / "t.ndjson", [{"id": name, "transactions": entries} for name in backwards], lines=True)


def migrated(shell: Shell, target: LocalTarget, owners: int = 40) -> None:
    export(shell.folder, owners)
    ended = shell.run(target.url, *FILES, "--max-bytes", 10_000)
    assert ended.code == 0, ended.err


def verify(shell: Shell, *arguments: object) -> Called:
    return shell("verify", "migration.checkpoint", *arguments)


def tampered(folder: Path, *changes: str) -> None:
    """Change what the target holds behind its back; `{n}` names are customer numbers in the store."""
    with closing(sqlite3.connect(folder / "target.sqlite")) as store, store:
        for change in changes:
            assert store.execute(change).rowcount == 1, change


def of(name: str) -> str:
    return f"num = (SELECT num FROM customers WHERE id = '{name}')"


def without(name: str) -> list[str]:
    return [f"DELETE FROM customers WHERE id = '{name}'"]


def one(table: str, name: str, more: str = "1") -> str:
    return f"DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table} WHERE {of(name)} AND {more})"


CHANGES = {
    "an event is gone": ([one("events", "c7")], {("customers", 8, "purchases", "less")}),
    "a lot is gone": (
        [one("lots", "c7", f"reward_id = '{REWARD}'")], {("customers", 8, f"balance {REWARD}", "less")}
    ),
    "a transaction is gone": ([one("transactions", "c7")], {("transactions", 33, "transactions of 2024", "less")}),
    "an e-mail is another": (
        [f"UPDATE documents SET sent = replace(CAST(sent AS TEXT), 'c7@', 'x7@') WHERE {of('c7')}"],
        {("customers", 8, "email", "differs")},
    ),
    "a lot is there twice": (
        [f"INSERT INTO lots SELECT * FROM lots WHERE {of('c7')} AND brand_id = 'b1'"],
        {("customers", 8, f"balance {OTHER_REWARD} b1", "more")},
    ),
    "a transaction is there twice": (
        ["INSERT INTO transactions SELECT NULL, num, batch, reward_id, brand_id, type, amount, cost, details, issued,"
         " created, channel_id, store_id, funded_by, event_type FROM transactions WHERE type = 'REDEMPTION' AND "
         + of("c7")],
        {("transactions", 33, "transactions of 2024", "more")},
    ),
    "a customer is gone": (without("c7"), {("customers", 8, "", "missing"), ("transactions", 33, "", "missing")}),
    "nothing is changed": ([], set()),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_what_the_target_lost_or_changed_is_found_and_nothing_else(
    shell: Shell, target: LocalTarget, name: str
) -> None:
    migrated(shell, target)
    changes, expected = CHANGES[name]
    tampered(shell.folder, *changes)
    ended = verify(shell, "--all", "--json")
    found = ended.document["findings"]
    assert {(it["stage"], it["record"], it["field"], it["reason"]) for it in found} == expected, ended.err
    assert ended.code == (3 if expected else 0)
    assert ended.document["same"] is not bool(expected)


@pytest.mark.slow
def test_what_is_missing_counts_as_unknown_until_a_verify_finds_it(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target)
    tampered(shell.folder, "UPDATE customers SET id = 'hidden' WHERE id = 'c7'")
    said = verify(shell, "--all", "--out", "found.ndjson")
    assert said.code == 3
    document = shell("status", "migration.checkpoint", "--json").document
    stages = document["stages"]
    counts = [(it["unknown"], it["missing"], it["accepted"]) for it in stages.values()]
    assert counts == [(1, 1, 39), (0, 0, 40), (1, 1, 39)]
    assert (document["balanced"], document["verified"]) == (True, False)
    told = [json.loads(line) for line in (shell.folder / "found.ndjson").read_text().splitlines()]
    assert {it["owner"] for it in told} == {"c7"}
    assert stat.S_IMODE((shell.folder / "found.ndjson").stat().st_mode) == 0o600
    assert verify(shell, "--sample", 1, "--json").document["stages"]["transactions"]["missing"] == 1
    tampered(shell.folder, "UPDATE customers SET id = 'c7' WHERE id = 'hidden'")
    assert verify(shell, "--sample", 1).code == 0, "what was found before is in every sample"
    assert verify(shell, "--all").code == 0
    document = shell("status", "migration.checkpoint", "--json").document
    assert document["verified"]
    assert [(it["unknown"], it["accepted"]) for it in document["stages"].values()] == [(0, 40)] * 3


@pytest.mark.slow
def test_what_belongs_to_a_customer_that_was_filtered_is_not_looked_for(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 8)
    people = [json.loads(line) for line in (shell.folder / "c.ndjson").read_text().splitlines()]
    people[5]["gone"] = "yes"
    write(shell.folder / "c.ndjson", people, lines=True)
    (shell.folder / "move.toml").write_text('[customers]\ndeleted = ["gone=yes"]\n')
    assert shell("run", "move.toml", *FILES, *quickly(target.url)).code == 0
    ended = shell("verify", "move.checkpoint", "--all", "--json")
    assert (ended.code, ended.document["findings"]) == (0, [])
    assert ended.document["stages"]["transactions"]["looked"] == 7


@pytest.mark.slow
def test_a_sample_says_how_much_may_be_missing_and_holds_no_personal_data(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target)
    tampered(shell.folder, *CHANGES["an e-mail is another"][0])
    document = verify(shell, "--sample", 30, "--json").document
    assert document["stages"]["customers"]["looked"] == document["stages"]["transactions"]["looked"] == 30
    assert document["at_most"]["customers"]["missing"] == pytest.approx(0.095, abs=0.001)
    assert shell("report", "migration.checkpoint", "--out", "r.html").code == 0
    told = (shell.folder / "r.html").read_text()
    assert "(sample). " in told
    assert "At most 9.50% of customers are missing" in told
    everything = b"".join(content for name, content in shell.files().items() if "checkpoint" in name)
    assert b"c7@" not in everything
    assert b"x7@" not in everything
    text = (GUIDE / "json.md").read_text().split("## The document of verify")[1].split("\n## ")[0]
    assert re.findall(r"(?m)^\| `(\w+)`", text) == list(document)


@pytest.mark.slow
def test_what_is_missing_is_sent_again_once_and_never_an_event(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target)
    lost = [f"c{number}" for number in (1, 2, 30)]
    for name in lost:
        tampered(shell.folder, f"DELETE FROM claims WHERE id = '{name}'", *without(name))
    tampered(shell.folder, one("events", "c7"), "DELETE FROM claims WHERE id = 'c9'")
    with closing(sqlite3.connect(shell.folder / "target.sqlite")) as store, store:
        store.execute(f"DELETE FROM transactions WHERE {of('c9')}")
    assert verify(shell, "--all", "--json").document["stages"]["transactions"]["missing"] == 4
    arrived = target.ledger()["requests"]["events"]
    ended = shell("retry", "migration.checkpoint", "--missing", "--json")
    assert (ended.code, ended.document["balanced"]) == (0, True), ended.err
    stages = ended.document["stages"].values()
    assert [(it["missing"], it["accepted"], it["unknown"]) for it in stages] == [(0, 40, 0)] * 3
    ledger = target.ledger()
    assert ledger["requests"]["events"] == arrived
    assert (ledger["holds"]["customers"]["count"], ledger["twice"]["customers"]["count"]) == (40, 0)
    assert ledger["twice"]["transactions"]["count"] == 0
    found = {(it["record"], it["field"]) for it in verify(shell, "--all", "--json").document["findings"]}
    assert found == {(number, "purchases") for number in (2, 3, 8, 31)}, "their events went with the customers"
    assert shell("retry", "migration.checkpoint", "--missing").code == 3, "the events are still missing"
    assert target.ledger()["requests"]["customers"] == ledger["requests"]["customers"]
    assert shell("retry", "migration.checkpoint", "--missing", "--stage", "events").code == 2


@pytest.mark.slow
def test_a_run_reads_back_a_sample_at_its_end_where_the_settings_ask_for_one(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 12)
    (shell.folder / "move.toml").write_text("verify_sample = 5\n")
    quick = quickly(target.url)
    quick[quick.index("--verify-sample") :] = []  # the flag would be on top of the setting
    arguments = ("run", "move.toml", *quick, *FILES, "--checkpoint", "migration.checkpoint")
    ended = shell(*arguments)
    assert (ended.code, "verified (sample)" in ended.err) == (0, True), ended.err
    tampered(shell.folder, *CHANGES["an e-mail is another"][0])
    assert shell(*arguments).code == 0, "nothing was sent since: it does not look again"
    assert verify(shell, "--all").code == 3
    assert shell(*arguments).code == 3


@pytest.mark.parametrize(
    ("failed", "looked", "share"), [(0, 1000, 0.00299), (0, 300, 0.00994), (3, 1000, 0.00773), (5, 5, 1.0)]
)
def test_the_bound_of_a_sample_is_the_exact_one(failed: int, looked: int, share: float) -> None:
    assert at_most(failed, looked) == pytest.approx(share, rel=0.002)


def test_a_sample_is_spread_over_all_batches_by_their_size() -> None:
    sizes = [100, 0, 900, 5, 1000]
    for seed in range(20):
        found = chosen(sizes, 20, Random(seed))
        counts = [len(found.get(at, ())) for at in range(len(sizes))]
        assert sum(counts) == 20
        assert all(abs(count - size / 100.25) < 2 for count, size in zip(counts, sizes, strict=True))
        assert all(0 <= unit < sizes[at] for at, units in found.items() for unit in units)
    assert chosen([2, 1], 9, Random(1)) == {0: {0, 1}, 1: {0}}


@pytest.mark.slow
def test_each_read_takes_a_permit_of_the_general_limit(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 5)
    assert shell.run(target.url, *FILES, "--limits", "1000/1s;general=1000/1h").code == 0
    before = permits(shell.folder), reads(target)
    assert verify(shell, "--all").code == 0
    assert reads(target) - before[1] > 10
    assert permits(shell.folder) - before[0] == reads(target) - before[1]


def permits(folder: Path) -> int:
    """How many of the general limit alone were taken."""
    (path,) = folder.glob("state/*/accounts/*.sqlite")
    with closing(sqlite3.connect(path)) as file:
        found: int = file.execute("SELECT count(*) FROM start WHERE NOT migration").fetchone()[0]
        return found


def reads(target: LocalTarget) -> int:
    requests = target.ledger()["requests"]
    return sum(sum(requests[name].values()) for name in ("auth", "read"))


@pytest.mark.slow
def test_nothing_to_verify_and_a_wrong_call_are_refused(shell: Shell, target: LocalTarget) -> None:
    export(shell.folder, 1)
    (shell.folder / "c.ndjson").write_text('{"id": "c0"}\n')
    assert shell.run(target.url, "--customers", "c.ndjson").code == 3
    assert verify(shell).problem == "nothing-accepted"
    assert verify(shell, "--all", "--sample", 3).code == 2
    with locked(shell.checkpoint, "another"):
        assert verify(shell).code == 11


@pytest.mark.slow
def test_samples_that_a_run_missed_are_a_warning_until_all_was_verified(shell: Shell, target: LocalTarget) -> None:
    migrated(shell, target, 3)
    with closing(sqlite3.connect(shell.checkpoint)) as file, file:
        file.execute("UPDATE stage SET code = 'samples-missing', message = '1 is not visible' WHERE ordinal = 0")
    said = "status", "migration.checkpoint", "--exit-code"
    assert shell(*said).code == 3
    assert "accepted, not verified" in shell(*said).out
    assert verify(shell, "--all").code == 0
    assert shell(*said).code == 0
    assert "verified (all)" in shell(*said).out
    assert "not visible" not in shell(*said).out


@pytest.mark.slow
@pytest.mark.parametrize("command", ["verify", "retry --missing", "revert --yes-revert 3"])
def test_an_export_or_a_target_that_does_not_fit_is_refused_and_nothing_is_sent(
    shell: Shell, target: LocalTarget, command: str
) -> None:
    migrated(shell, target, 3)
    tampered(shell.folder, "DELETE FROM claims WHERE id = 'c1'", *without("c1"))
    assert verify(shell, "--all").code == 3
    before, (name, *more) = target.ledger(), command.split()
    with sandbox() as other:
        (shell.folder / "other.toml").write_text(f'base_url = "{other.url}"\n')
        ended = shell(name, "migration.checkpoint", *more, "--settings", "other.toml")
        assert ended.problem == "checkpoint-of-another-migration", ended.err
        assert other.ledger()["requests"] == {}
    export(shell.folder, 4)
    assert shell(name, "migration.checkpoint", *more).problem == "checkpoint-of-another-migration"
    (shell.folder / "c.ndjson").unlink()
    assert shell(name, "migration.checkpoint", *more).problem == "export-unreadable"
    assert target.ledger() == before
