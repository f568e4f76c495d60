"""Grouping: single rows become whole customers, on the disk, whatever ends the work in between, and are sent once."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from streammig import disk
from streammig.errors import BrokenExport, MachineFault
from streammig.grouping import GroupedSource, OfRows
from streammig.grouping.build import Job, Stopped, group
from streammig.model import START, Place
from streammig.sandbox.local import LocalTarget
from streammig.sources import open_source, parse_input
from tests.commands import Shell, listing, process, quickly, sandbox, until
from tests.problems import raises
from tests.sandbox_caller import REWARD, customer, lot, transaction
from tests.spans import records_of

OWNER = "member"


def rows_of(folder: Path, rows: list[Any], parts: int = 2) -> list[str]:
    """Files of lines; a row that is bytes stands there as it is."""
    names = []
    for part in range(parts):
        own = rows[part * len(rows) // parts : (part + 1) * len(rows) // parts]
        path = folder / f"rows-{part}.ndjson"
        path.write_bytes(b"".join((it if isinstance(it, bytes) else json.dumps(it).encode()) + b"\n" for it in own))
        names.append(str(path))
    return names


def made(folder: Path, names: list[str], mapping: Callable[[Any], Any] | None = None, **more: Any) -> GroupedSource:
    inner = open_source([parse_input(name) for name in names], read_bytes=4_000)
    asked: dict[str, Any] = {"limit": 100_000, "mark": "", "accept_broken": False} | more
    return GroupedSource(inner, OfRows("transactions", OWNER, mapping), "transactions", folder / "g" / "t", **asked)


def job(source: GroupedSource, memory: int) -> Job:
    return source._job(source.folder)._replace(memory=memory)


def quietly(_: object) -> None:
    """Hears how far the work is."""


def sample(seed: int, count: int = 1_500) -> list[Any]:
    """Rows in any order: of many customers and of one with very many, some of nobody, some that are none."""
    dice = random.Random(seed)
    rows: list[Any] = []
    for at in range(count):
        owner = dice.choice([f"c{dice.randrange(200)}", "often", 1 + dice.randrange(5)])
        rows.append({OWNER: owner, "amount": at, "text": "x" * dice.randrange(60)})
        if dice.random() < 0.02:
            rows.append(dice.choice([{"amount": at}, {OWNER: None, "amount": at}, b"{broken", {OWNER: "", "a": 1}]))
    return rows


def expected(rows: list[Any]) -> list[tuple[Any, list[Any]]]:
    """Each customer with its rows, in the order of the first ones; others by themselves."""
    found: dict[Any, tuple[Any, list[Any]]] = {}
    for at, row in enumerate(rows):
        owner = row.get(OWNER) if isinstance(row, dict) else None
        key = ("of", owner) if owner not in (None, "") else at
        found.setdefault(key, (owner or None, []))[1].append(row)
    return list(found.values())


def told(source: GroupedSource, start: Place = START) -> Iterator[tuple[Any, list[Any]]]:
    for it in records_of(source, start):
        if it.code:
            yield None, [it.data if it.code != "too-large" else it.code]
        else:
            record = json.loads(it.data)
            yield record.get("id"), record["transactions"]


@pytest.mark.parametrize("memory", [3_000, 20_000, 1 << 20])
@pytest.mark.parametrize("seed", range(4))
def test_rows_become_customers_in_the_order_of_their_first_rows_whatever_memory_there_is(
    tmp_path: Path, seed: int, memory: int
) -> None:
    rows = sample(seed)
    source = made(tmp_path, rows_of(tmp_path, rows), limit=1_000_000)
    group(job(source, memory), quietly, lambda: False)
    assert list(told(source)) == expected(rows)
    assert sorted(path.name for path in source.folder.iterdir()) == ["about", "marks", "records"]
    assert {path.stat().st_mode & 0o777 for path in source.folder.iterdir()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (source.folder, source.folder.parent)} == {0o700}


def test_a_record_stands_where_its_first_row_stands_and_is_read_from_any_place(tmp_path: Path) -> None:
    rows = sample(7)
    names = rows_of(tmp_path, rows, parts=3)
    source = made(tmp_path, names, limit=1_000_000)
    whole = list(records_of(source))
    for it in whole:
        line = Path(names[it.source]).read_bytes()[it.offset : it.offset + it.length]
        assert it.code or line == json.dumps(json.loads(it.data)["transactions"][0]).encode()
        assert Path(names[it.source]).read_bytes()[: it.offset].count(b"\n") + 1 == it.ordinal
    for at in range(0, len(whole), 17):
        begin, end = whole[at].position.begin, whole[at].position.end
        assert list(records_of(source, begin)) == whole[at:]
        assert list(records_of(source, end)) == whole[at + 1 :]
        assert list(records_of(source, begin._replace(unit=1))) == whole[at:]


def test_the_share_before_a_place_counts_each_record_also_between_two_marks_of_the_index(tmp_path: Path) -> None:
    rows = [{OWNER: f"c{at:03}", "text": "x" * 100} for at in range(100)]
    source = made(tmp_path, rows_of(tmp_path, rows), limit=1_000_000)
    group(job(source, 1 << 20), quietly, lambda: False)
    shares = [source.share_before(it.position.end) for it in records_of(source)]
    assert shares == pytest.approx([(at + 1) / 100 for at in range(100)], abs=0.001)


def test_a_customer_whose_record_is_too_large_is_at_fault_alone_and_held_in_no_memory(tmp_path: Path) -> None:
    rows = [{OWNER: "huge" if at % 2 else f"c{at}", "text": "x" * 100} for at in range(4_000)]
    source = made(tmp_path, rows_of(tmp_path, rows), limit=10_000)
    group(job(source, 30_000), quietly, lambda: False)
    found = list(told(source))
    assert [it for it in found if it[0] is None] == [(None, ["too-large"])]
    assert len(found) == 2_001


class Killed:
    """Ends the process at its nth call, as a kill does: nothing is flushed or cleaned up."""

    def __init__(self, left: int) -> None:
        self._left = left

    def tell(self, _: object) -> None:
        self()

    def __call__(self) -> bool:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def lived(work: Callable[[Killed], object], calls: int) -> bool:
    """Whether the work ends in a process of its own before it is killed."""
    child = os.fork()
    if not child:
        try:
            work(Killed(calls))
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_grouping_that_is_killed_anywhere_goes_on_and_makes_the_same_bytes(tmp_path: Path) -> None:
    rows = sample(3, 4_000)
    names = rows_of(tmp_path, rows)
    (tmp_path / "one").mkdir()
    once = made(tmp_path / "one", names, limit=1_000_000)
    group(job(once, 9_000), quietly, lambda: False)
    source, kills = made(tmp_path, names, limit=1_000_000), 0
    for calls in (1, 2, 3, 5, 8, 1, 4, 2, 13, 21, 34, 1, 55, 6, 89, 144, 10_000):
        if lived(lambda killed: group(job(source, 9_000), killed.tell, killed), calls):
            break
        kills += 1
    assert kills >= 8
    for name in ("records", "marks", "about"):
        assert (source.folder / name).read_bytes() == (once.folder / name).read_bytes()
    assert not [path for path in source.folder.iterdir() if path.name not in ("records", "marks", "about")]


def test_grouping_that_is_stopped_goes_on_from_there(tmp_path: Path) -> None:
    source, heard = made(tmp_path, rows_of(tmp_path, sample(5))), list[Place]()
    answers = iter([False, False, True])
    with pytest.raises(Stopped):
        group(job(source, 9_000), lambda span: heard.append(span.end), lambda: next(answers))
    assert len(heard) == 2
    again = list[Place]()
    group(job(source, 9_000), lambda span: again.append(span.position(0).begin), lambda: False)
    assert again[0].ordinal == heard[-1].ordinal


def test_another_export_or_another_mapping_is_grouped_again_but_not_once_it_has_begun(tmp_path: Path) -> None:
    names = rows_of(tmp_path, sample(1))
    made(tmp_path, names, mark="one").make(quietly, lambda: False)
    assert made(tmp_path, names, mark="one").is_made(begun=False)
    assert not made(tmp_path, names, mark="two").is_made(begun=False)
    assert made(tmp_path, names, mark="two").is_made(begun=True)
    Path(names[0]).write_bytes(Path(names[0]).read_bytes() + b'{"member": "new"}\n')
    assert not made(tmp_path, names, mark="one").is_made(begun=True)


def test_a_changed_byte_of_the_work_file_ends_the_reading(tmp_path: Path) -> None:
    names = rows_of(tmp_path, sample(1))
    source = made(tmp_path, names)
    source.make(quietly, lambda: False)
    data = bytearray((source.folder / "records").read_bytes())
    data[len(data) // 2] ^= 1
    (source.folder / "records").write_bytes(data)
    with raises(MachineFault, "grouping-damaged"):
        list(records_of(source))
    (source.folder / "records").write_bytes(data[:-1])
    with raises(MachineFault, "grouping-damaged"):
        made(tmp_path, names).is_made(begun=False)


def test_an_export_that_breaks_off_is_grouped_up_to_there_and_told_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"t": [{OWNER: f"c{at % 3}", "n": at} for at in range(10)]})[:-20])
    source, breaks = made(tmp_path, [str(path)]), list[BrokenExport]()
    assert [owner for span in source.spans(START, breaks.append) for owner in span.ordinals] == [1, 2, 3]
    assert [it.path for it in breaks] == [str(path)]
    with raises(BrokenExport, "export-broken"):
        list(records_of(source))
    assert len(list(records_of(made(tmp_path, [str(path)], accept_broken=True)))) == 3


def test_a_command_beside_a_run_groups_in_a_folder_that_goes_with_it(tmp_path: Path) -> None:
    source = made(tmp_path, rows_of(tmp_path, sample(1)))
    assert next(iter(records_of(source)))
    assert len([*tmp_path.glob(".grouping-*")]) == 1
    assert not source.folder.exists()
    del source
    assert not [*tmp_path.glob(".grouping-*")]


def test_a_folder_that_can_t_be_made_is_named(tmp_path: Path) -> None:
    source = made(tmp_path / "gone", rows_of(tmp_path, sample(1)))
    with raises(MachineFault, "grouping-io"):
        source.make(quietly, lambda: False)


# -- the mapping of rows -----------------------------------------------------------------------------------------------


def split_in_two(row: Any) -> Any:
    if row["n"] < 0:
        raise LookupError("no such number")
    if row["n"] == 0:
        return None
    return [{OWNER: row["from"], "amount": -row["n"]}, {OWNER: row["to"], "amount": row["n"]}]


def test_a_row_that_a_mapping_makes_two_customers_of_is_in_both_and_one_it_drops_is_filtered(tmp_path: Path) -> None:
    rows = [{"from": "a", "to": "b", "n": 3}, {"n": 0}, {"from": "b", "to": "a", "n": 5}, {"n": -1}]
    source = made(tmp_path, rows_of(tmp_path, rows, parts=1), split_in_two)
    mapped = OfRows("transactions", OWNER, split_in_two)
    records = [json.loads(it.data) for it in records_of(source)]
    assert mapped(records[0]) == {"id": "a", "transactions": [{"amount": -3}, {"amount": 5}]}
    assert mapped(records[1]) == {"id": "b", "transactions": [{"amount": 3}, {"amount": -5}]}
    assert mapped(records[2]) is None
    with pytest.raises(LookupError):
        mapped(records[3])


# -- end to end --------------------------------------------------------------------------------------------------------

MEMBERS = """
[customers]
files = ["members.ndjson"]

[transactions]
files = ["points.csv"]
owner = "member"

[transactions.fields]
member = {field = "Member No", prefix = "m-"}
reward_id = {constant = "REWARD"}
amount = {field = "Points", number = ","}
issued_at = {field = "At", date = "%Y-%m-%d", zone = "America/Bogota"}
resolved_at = {field = "At", date = "%Y-%m-%d", zone = "America/Bogota"}
type = {constant = "ACCUMULATION"}
details = "Receipt"
brand_id = {null = true}
cost = {null = true}
store_id = {null = true}
channel_id = {null = true}
event = {null = true}
""".replace("REWARD", REWARD)


def table(folder: Path, count: int, more: tuple[str, ...] = (), seed: int = 1) -> dict[str, list[Decimal]]:
    """Members with balances, and a row of the table for each of their transactions, in any order. Returns the points of
    each member, of which none are alike."""
    dice, owners = random.Random(seed), dict[str, list[Decimal]]()
    rows, points = list[str](), dict[int, int]()
    for at in range(count):
        member, cents = dice.randrange(count // 3), at + 1
        rows.append(f'{member},"{cents // 100},{cents % 100:02d}",2024-0{at % 9 + 1}-11,r-{at}')
        points[member] = points.get(member, 0) + cents
        owners.setdefault(f"m-{member}", []).append(Decimal(cents) / 100)
    people = [customer(f"m-{at}", balance=[lot(points.get(at, 0) / 100)]) for at in range(count // 3)]
    (folder / "members.ndjson").write_text("".join(json.dumps(each) + "\n" for each in people))
    (folder / "points.csv").write_text("\n".join(["Member No,Points,At,Receipt", *rows, *more]) + "\n")
    (folder / "m.toml").write_text(MEMBERS)
    return owners


def held(target: LocalTarget) -> dict[str, list[Decimal]]:
    """The points that the target has of each customer."""
    found: dict[str, list[Decimal]] = {}
    for it in listing(target, "transactions"):
        found.setdefault(it["owner"], []).append(Decimal(it["amount"]))
    return found


def work_files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.glob("*.grouped/**/*")]


def test_i4_a_table_of_transactions_is_checked_and_then_sent_as_whole_customers_once(shell: Shell) -> None:
    owners = table(shell.folder, 3_000)
    ended = shell("check", "m.toml", "--offline", "--json")
    assert (ended.code, ended.document["stages"]["transactions"]["units"]) == (0, 3_000)
    assert "m.checkpoint.grouped" in ended.err
    with sandbox() as target:
        run = shell.run(target.url, "m.toml", "--json")
        assert (run.code, held(target)) == (0, owners)
    assert "grouping" not in run.err
    planned = ended.document["stages"]["transactions"]["requests"]
    assert run.document["stages"]["transactions"]["requests"] == planned
    assert work_files(shell.folder) == []


def test_a_bad_row_leaves_out_its_whole_customer_and_a_correction_sends_all_of_it(shell: Shell) -> None:
    owners = table(shell.folder, 30, more=("3,nothing,2024-01-01,bad", ',"1,00",2024-01-01,nobody', "too,few"))
    with sandbox() as target:
        run = shell.run(target.url, "m.toml", "--json")
        assert (run.code, run.document["stages"]["transactions"]["dead"]) == (3, 3)
        assert held(target) == {owner: its for owner, its in owners.items() if owner != "m-3"}
        assert work_files(shell.folder) == []
        letters = [json.loads(line) for line in shell("dead-letters", "m.checkpoint").out.splitlines()]
        first = 2 + int(owners["m-3"][0] * 100) - 1
        assert [(it["code"], it["line"]) for it in letters] == [
            ("mapping-failed", first),
            ("missing-field", 33),
            ("invalid-csv", 34),
        ]
        (mine,) = [it for it in letters if it["code"] == "mapping-failed"]
        assert mine["record"]["rows"][-1] == "points.csv:32"
        assert "(row points.csv:32)" in mine["message"]
        mine["record"]["transactions"] = [it for it in mine["record"]["transactions"] if it["Receipt"] != "bad"]
        (shell.folder / "corrected.ndjson").write_text(json.dumps(mine) + "\n")
        again = shell("retry", "m.checkpoint", "--input", "corrected.ndjson")
        assert (again.code, held(target)) == (3, owners), again.err
    assert work_files(shell.folder) == []


@pytest.mark.slow
def test_a_run_that_a_kill_ends_while_it_groups_or_sends_sends_every_row_once(shell: Shell) -> None:
    owners = table(shell.folder, 20_000)
    with sandbox() as target:
        call = "run", "m.toml", *quickly(target.url)
        with process(shell.folder, *call) as running:
            until(lambda: work_files(shell.folder), "a work file")
            running.kill()
        with process(shell.folder, *call) as running:
            until(lambda: listing(target, "transactions"), "a transaction at the target")
            running.kill()
        assert work_files(shell.folder) != []
        last = shell(*call)
        assert (last.code, held(target)) == (0, owners)
    assert work_files(shell.folder) == []


def test_a_mapping_that_is_mended_on_the_way_reads_the_rest_of_the_same_work_file(shell: Shell) -> None:
    owners = table(shell.folder, 300)
    with sandbox() as target:
        assert shell.run(target.url, "m.toml", "--first", "20").code == 10
        (shell.folder / "m.toml").write_text(MEMBERS.replace("ACCUMULATION", "TRANSFER"))
        ended = shell.run(target.url, "m.toml")
        assert (ended.code, held(target)) == (0, owners)
        kinds = {it["type"] for it in listing(target, "transactions")}
    assert kinds == {"ACCUMULATION", "TRANSFER"}


def test_too_little_disk_is_said_before_any_row_is_grouped(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    table(shell.folder, 3_000)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 100_000)
    ended = shell("check", "m.toml", "--offline", "--json")
    assert ended.code == 3
    assert "disk-space" in [it["code"] for it in ended.document["problems"]]
    assert [*ended.document["stages"]] == ["customers"]
    assert ended.document["stages"]["customers"]["units"] == 1_000
    assert work_files(shell.folder) in ([], ["m.checkpoint.grouped/transactions"])


def test_rows_of_json_need_no_mapping(shell: Shell) -> None:
    rows = [{"customer": f"c{at % 5}", **transaction(at)} for at in range(1, 21)]
    (shell.folder / "t.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (shell.folder / "m.toml").write_text('[transactions]\nfiles = ["t.ndjson"]\nowner = "customer"\n')
    found = shell("check", "m.toml", "--offline", "--json").document["stages"]["transactions"]
    assert (found["records"], found["units"], found["dead"], found["dropped"]) == (5, 20, 0, {})
    assert list(found["sums"].values()) == ["210"]
