"""Claims about the building of the dedup index: other processes that sort, the disk, stops, and later calls."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streammig.dedup import Build, KeyIndex, Policy, most_customers, open_index, room_of_index, scan
from streammig.dedup.build import BYTES_A_CUSTOMER, LEAST
from streammig.dedup.sort import Each, here
from streammig.disk import check_room
from streammig.errors import MachineFault
from streammig.model import START, Place
from streammig.scan import Halted, ScanProgress, StageScan, scan_stage
from streammig.scan.stage import Scanning
from streammig.sources.source import Told
from streammig.telemetry import Notice, ignore
from tests.problems import raises
from tests.test_dedup import CHAIN, Export, Said, build, check, place

MANY: list[Said] = [(f"o{nth % 900}", f"m{nth}", "") for nth in range(1_000)]


def filled(folder: Path, said: list[Said]) -> Build:
    made = Build(folder, "")
    export = Export(said)
    for span in export.spans():
        made.add(scan(export, made.key, span))
    return made


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond `size`, for this process and what it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_build_leaves_an_index_that_a_later_call_opens(tmp_path: Path) -> None:
    build(tmp_path, MANY).close()
    index = open_index(tmp_path, "")
    assert index is not None
    with index:
        check(index, MANY)
        assert {it.name for it in index.folder.iterdir()} == {"about", "roster", "duplicates", "rows"}


@pytest.mark.parametrize("size", [20_000, 60_000])  # of the rows, and of what is sorted
def test_a_full_disk_is_a_plain_fault_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    with files_up_to(size), pytest.raises(MachineFault) as raised:
        build(tmp_path, MANY)
    assert raised.value.code == "disk-full"
    assert raised.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [lambda rows: rows[:-1], lambda rows: rows[:-49], lambda rows: b"\1" + rows[1:]])
def test_rows_that_were_cut_or_changed_before_they_are_sorted_are_a_fault(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    class Damaged(Build):
        def _sorted(self, each: Each) -> Any:
            path = self._place / "rows"
            path.write_bytes(change(path.read_bytes()))
            return super()._sorted(each)

    with pytest.raises(MachineFault) as raised:
        build(tmp_path, CHAIN, kind=Damaged)
    assert raised.value.hint
    assert open_index(tmp_path, "") is None


@pytest.mark.parametrize("name", ["roster", "duplicates"])
def test_a_file_that_reads_back_as_something_else_is_a_fault(tmp_path: Path, name: str) -> None:
    class Damaged(Build):
        def _sorted(self, each: Each) -> Any:
            found = super()._sorted(each)
            (self._place / name).write_bytes(b"")
            return found

    with pytest.raises(MachineFault) as raised:
        build(tmp_path, CHAIN, kind=Damaged)
    assert raised.value.hint
    assert open_index(tmp_path, "") is None


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    with raises(MachineFault, "dedup-io") as raised:
        Build(tmp_path / "no" / "such", "")
    assert "no/such" in raised.value.what


# -- the whole, for a run --------------------------------------------------------------------------------------------


async def indexed(
    folder: Path, said: list[Said], frontier: Place | None = None, made_by: str = ""
) -> tuple[KeyIndex, list[Notice]]:
    told: list[Notice] = []
    export = Export(said)
    with ThreadPoolExecutor(1) as reader:
        job = StageScan(
            "customers", export, export, {"duplicates": "first"}, folder, frontier=frontier, made_by=made_by
        )
        index = (await scan_stage(job, reader, ScanProgress(told.append))).index
    assert index is not None
    return index, told


async def test_an_index_is_built_once_and_again_only_where_the_rules_may_have_changed(tmp_path: Path) -> None:
    index, told = await indexed(tmp_path / "x", CHAIN)
    with index:
        check(index, CHAIN)
    assert len(told) == 1
    mended = CHAIN[::-1]
    index, told = await indexed(tmp_path / "x", mended)
    with index:
        check(index, CHAIN)  # nothing was read
    assert told == []
    index, _ = await indexed(tmp_path / "x", mended, frontier=place(2))
    with index:
        check(index, CHAIN[:2] + mended[2:])
    index, _ = await indexed(tmp_path / "y", CHAIN, frontier=place(2))  # none is there to keep rows of
    with index:
        check(index, CHAIN)


@pytest.mark.parametrize(("before", "now", "again"), [("1 a", "1 a", 0), ("1 a", "1 b", 1), ("", "", 1)])
async def test_what_is_not_read_yet_is_scanned_again_only_for_another_version_or_mapping(
    tmp_path: Path, before: str, now: str, again: int
) -> None:
    index, _ = await indexed(tmp_path / "x", CHAIN, made_by=before)
    index.close()
    index, told = await indexed(tmp_path / "x", CHAIN, frontier=place(2), made_by=now)
    with index:
        check(index, CHAIN)
    assert len(told) == again


async def test_a_stop_ends_a_scan_and_a_sort_at_once(tmp_path: Path) -> None:
    reached, blocked = threading.Event(), threading.Event()

    class Slow(Export):
        def spans(self, start: Place = START, told: Told | None = None) -> Any:
            for nth, span in enumerate(super().spans(start, told)):
                if nth == 100:
                    reached.set()
                    blocked.wait(20)
                yield span

    slow = Slow(MANY)
    with ThreadPoolExecutor(1) as reader:
        job = StageScan("customers", slow, slow, {"duplicates": "first"}, tmp_path / "x")
        work = asyncio.ensure_future(scan_stage(job, reader, ScanProgress(ignore)))
        await asyncio.get_running_loop().run_in_executor(None, reached.wait)
        work.cancel()
        asyncio.get_running_loop().call_later(0.01, blocked.set)
        with pytest.raises(asyncio.CancelledError):
            await work
    assert slow.closed == 1


def test_a_sort_that_is_stopped_is_a_plain_fault_and_leaves_no_index(tmp_path: Path) -> None:
    with filled(tmp_path, MANY) as made:

        def stopped_at_once(work: Callable[..., Any], each: Iterable[Any]) -> Iterator[Any]:
            for it in here(work, each):
                made.close()
                yield it

        with pytest.raises(MachineFault):
            made.finish(stopped_at_once)
    assert open_index(tmp_path, "") is None
    assert list(tmp_path.iterdir()) == []


def test_any_process_may_sort(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool, filled(tmp_path, MANY) as made:

        def elsewhere(work: Callable[..., Any], each: Iterable[Any]) -> Iterator[Any]:
            return pool.map(work, *zip(*each, strict=True))

        with made.finish(elsewhere) as index:
            check(index, MANY)


@pytest.mark.parametrize("policy", ["first", None])
async def test_i3_a_scan_that_is_stopped_before_it_has_begun_leaves_nothing_to_go_on_with(
    tmp_path: Path, policy: Policy | None
) -> None:
    export = Export(MANY)
    scanning = Scanning(
        StageScan("customers", export, export, {}, tmp_path / "x", policy=policy), "", ScanProgress(ignore)
    )
    scanning.stop()
    with pytest.raises(Halted):
        scanning.work()
    assert not [path for path in (tmp_path / "x").rglob("*") if path.is_file()]
    assert open_index(tmp_path / "x" / "customers", "") is None


def test_too_little_disk_is_said_before_the_scan_with_need_and_free(tmp_path: Path) -> None:
    folder, free = tmp_path / "to" / "be" / "made", LEAST + 1_000_000 * BYTES_A_CUSTOMER + 10_000_000 - 1
    with raises(MachineFault, "disk-space") as refused:
        check_room(folder, room_of_index(1_000_000) | {"the outbox": 10_000_000}, free=free)
    assert f"{folder}: " in refused.value.what
    assert "the outbox: 10 MB" in refused.value.what
    check_room(folder, room_of_index(999_999) | {"the outbox": 10_000_000}, free=free)
    check_room(folder, room_of_index(1))
    with raises(MachineFault, "disk-space"):
        check_room(folder, room_of_index(1 << 60))


def test_a_compressed_file_may_hold_more_customers_than_its_size_says() -> None:
    assert most_customers({"size": 1_500, "compression": ""}) == 10
    assert most_customers({"size": 1_500, "compression": "gzip"}) == 100
    assert most_customers({"size": 1_500, "compression": "", "form": "',' utf-8"}) == 37
