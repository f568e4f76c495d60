"""Claims about the dedup index: who is a duplicate, who will be missing, where a key is kept, whatever the order."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streammig.columns import Columns
from streammig.dedup import Build, Duplicate, KeyIndex, Policy, forget, open_index, scan
from streammig.errors import BrokenExport, MachineFault
from streammig.model import START, Examined, Place, Record, Span
from streammig.scan.stage import StageScan, read_through
from streammig.scan.tasks import Tasks
from streammig.sources.source import Source, Told
from streammig.telemetry import ignore

Said = tuple[str, str, str]  # owner, e-mail, and "" for a record or the reason why there is none


@pytest.fixture(autouse=True, scope="module")
def _many_parts() -> Iterator[None]:
    """Sorts part what they would else sort at once, and read it back in pieces."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LOADED": 5, "PART": 2, "READ": 24}.items():
            patch.setattr(f"streammig.dedup.sort.{name}", value)
        yield


class Export(Source):
    """A `Source` and `Rules` over what is said: two units a source record, seven source records a file."""

    head, tail, once = b'{"customers":[', b"]}", False

    def __init__(self, said: Sequence[Said], breaks_at: int | None = None) -> None:
        self.said, self.breaks_at, self.closed = said, breaks_at, 0

    def spans(self, start: Place = START, told: Told | None = None) -> Iterator[Span]:
        try:
            for nth in range(0, len(self.said), 2):
                at = place(nth)
                if self.breaks_at is not None and nth >= self.breaks_at:
                    assert told is not None
                    return told(BrokenExport("x.json", at.offset, "it is cut"))
                if at[:2] >= start[:2]:
                    yield Span(at.source, at.offset, b"%d" % nth, [0], [9], [at.ordinal])
        finally:
            self.closed += 1

    def fingerprints(self) -> list[dict[str, Any]]:
        return [{"file": "x.json", "size": 700, "length": 700}] * (len(self.said) // 14 + 1)

    def unchanged(self) -> None:
        pass

    def columns(self, span: Span) -> Columns:
        found, position = Columns(), span.position(0)
        said = self.said[int(span.data) : int(span.data) + 2]
        records = [
            Record(position, unit, owner, b'{"id":"%b"}' % owner.encode(), 1, (), None, mail)
            for unit, (owner, mail, why) in enumerate(said)
            if not why
        ]
        gone = tuple((owner, why) for owner, _, why in said if why)
        found.add(0, Examined(position, tuple(records), absent=gone))
        return found


def place(nth: int) -> Place:
    return Place(nth // 14, nth // 2 % 7 * 100, nth % 2, nth // 2 % 7 + 1)


def fill(making: Build, export: Export, tell: Callable[[Place], None] = lambda place: None) -> KeyIndex:
    """The index of an export, made as a run does."""
    read_through(StageScan("customers", export, export, {}, Path()), making, tell, Tasks(None, Event(), ignore))
    return making.finish()


def build(folder: Path, said: Sequence[Said], policy: Policy = "first", kind: type[Build] = Build) -> KeyIndex:
    with kind(folder, "", policy=policy) as making:
        return fill(making, Export(said))


class Model:
    """What is right, by reading the claim literally, in memory."""

    def __init__(self, said: Sequence[Said]) -> None:
        self.owners: dict[str, Place] = {}
        self.mails: dict[str, Place] = {}
        self.duplicates: list[Duplicate] = []
        self.missing: dict[str, str] = {}
        # Within a source record, owners that will not be there come behind its records.
        for _, (nth, (owner, mail, why)) in sorted(
            enumerate(enumerate(said)), key=lambda it: (it[0] // 2, it[1][1][2] != "")
        ):
            if why:
                self.missing.setdefault(owner, why)
            elif owner in self.owners:
                self.duplicates.append(Duplicate(place(nth), "duplicate-customer", self.owners[owner]))
            elif mail and mail in self.mails:
                self.duplicates.append(Duplicate(place(nth), "duplicate-email", self.mails[mail]))
                self.missing.setdefault(owner, "duplicate-email")
            else:
                self.owners[owner] = place(nth)
                if mail:
                    self.mails[mail] = place(nth)
        self.missing = {owner: why for owner, why in self.missing.items() if owner not in self.owners}


def check(index: KeyIndex, said: Sequence[Said]) -> None:
    model = Model(said)
    assert list(index.duplicates()) == model.duplicates
    everybody = {owner for owner, _, _ in said}
    assert index.about.owners == len(everybody)
    assert index.missing([*everybody, "stranger"]) == model.missing | {"stranger": "unknown-customer"}
    for owner in [*everybody, "stranger"]:
        assert index.places(owner) == ((model.owners[owner],) if owner in model.owners else ())
    for mail in {mail for _, mail, _ in said if mail} | {"stranger"}:
        assert index.places("stranger", mail) == ((model.mails[mail],) if mail in model.mails else ())


KEYS = st.sampled_from("abcdefgh")
RECORD = st.tuples(KEYS, st.one_of(st.just(""), KEYS), st.just(""))
MISSING = st.tuples(KEYS, st.just(""), st.sampled_from(["deleted", "inactive"]))
SAID = st.lists(st.one_of(RECORD, RECORD, RECORD, MISSING), max_size=40)
CHAIN = [("a", "x", ""), ("b", "x", ""), ("b", "y", ""), ("c", "y", ""), ("a", "z", ""), ("d", "z", "")]
RELAXED = [HealthCheck.too_slow, HealthCheck.differing_executors]


@settings(max_examples=8, deadline=None, suppress_health_check=RELAXED)
@given(SAID, SAID, st.integers(0, 40))
@example(CHAIN, CHAIN[::-1], 3)
def test_the_index_says_what_reading_in_order_says(said: list[Said], mended: list[Said], sealed: int) -> None:
    _both(said, mended, sealed)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=RELAXED)
@given(SAID, SAID, st.integers(0, 40))
def test_the_index_says_what_reading_in_order_says_150_times(said: list[Said], mended: list[Said], sealed: int) -> None:
    _both(said, mended, sealed)


def _both(said: list[Said], mended: list[Said], sealed: int) -> None:
    """An index, and one that is built from it where the rules changed behind what is sealed (I8)."""
    with TemporaryDirectory() as top, build(Path(top) / "x", said) as index:
        check(index, said)
        sealed = min(sealed, len(said), len(mended)) // 2 * 2
        now = said[:sealed] + mended[sealed:]
        with Build(Path(top) / "x", "", earlier=index, frontier=place(sealed)) as making:
            again = fill(making, Export(now))
        with again:
            check(again, now)


def test_a_long_chain_of_shared_keys_is_decided_in_reading_order(tmp_path: Path) -> None:
    # Each shares its e-mail with the one before and its id with the one behind: every second pair is kept.
    said = [(f"id{(nth + 1) // 2}", f"mail{nth // 2}", "") for nth in range(200)]
    with build(tmp_path / "x", said) as index:
        check(index, said)
        assert index.about.duplicates == 100


def test_i8_a_frontier_within_a_source_record_keeps_its_sealed_units_only(tmp_path: Path) -> None:
    before, now = [("a", "", ""), ("b", "", "")], [("c", "", ""), ("a", "", "")]
    with build(tmp_path / "x", before) as index:
        making = Build(tmp_path / "x", "", earlier=index, frontier=place(1))
        with making, fill(making, Export(now)) as again:
            assert [(it.place, it.first) for it in again.duplicates()] == [(place(1), place(0))]
            assert again.missing("abc") == {"b": "unknown-customer", "c": "unknown-customer"}


def test_without_a_policy_nobody_is_a_duplicate_and_who_is_missing_is_known(tmp_path: Path) -> None:
    said = [("a", "x", ""), ("a", "x", ""), ("b", "x", ""), ("c", "", "deleted")]
    with build(tmp_path / "x", said, "none") as index:
        assert list(index.duplicates()) == []
        assert index.missing("abcd") == {"c": "deleted", "d": "unknown-customer"}


def test_more_reasons_than_a_byte_can_tell_share_the_last(tmp_path: Path) -> None:
    said = [(f"o{nth}", "", f"reason {nth}") for nth in range(300)]
    with build(tmp_path / "x", said) as index:
        found = index.missing(["o0", "o250", "o299", "o300"])
        assert list(found.values()) == ["reason 0", "reason 250", "left-out", "unknown-customer"]


def test_every_key_of_a_roster_of_many_blocks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammig.dedup.roster.IN_BLOCK", 7)
    said = [(f"o{nth}", f"m{nth}", "" if nth % 3 else "gone") for nth in range(1000)]
    with build(tmp_path / "x", said) as index:
        check(index, said)
        assert len(index.missing(f"p{nth}" for nth in range(1000))) == 1000


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no Linux")
def test_i6_a_large_roster_that_is_asked_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammig.dedup.sort.PART", 1 << 14)
    with build(tmp_path / "x", [(f"o{nth}", "", "") for nth in range(3000)]) as index:
        for held, most in ((0, 0), (1 << 20, 120)):
            monkeypatch.setattr("streammig.dedup.roster.HELD", held)
            for _ in range(3):
                assert not index.missing(f"o{nth}" for nth in range(0, 3000, 2))
                assert len(list(index._roster.owners())) == 256
            assert _resident(index.folder / "roster") <= most
        assert _resident(index.folder / "roster") > 0


def _resident(path: Path) -> int:
    """How many kB of a file are in this process's memory."""
    maps = Path("/proc/self/smaps").read_text().split(str(path))
    return sum(int(re.findall(r"Rss: +(\d+) kB", it)[0]) for it in maps[1:])


def test_duplicates_are_found_from_any_place_up_to_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammig.dedup.lookup.AHEAD", 3)
    with build(tmp_path / "x", [(f"id{nth % 5}", "", "") for nth in range(40)]) as index:
        every = list(index.duplicates())
        assert [it.place for it in every] == [place(nth) for nth in range(5, 40)]
        for begin in (0, 4, 5, 6, 20, 39, 40):
            for end in (0, 5, 6, 21, 39):
                found = list(index.duplicates(place(begin), place(end)))
                assert found == [it for it in every if place(begin) <= it.place < place(end)]


def test_an_export_that_breaks_off_is_indexed_up_to_there(tmp_path: Path) -> None:
    export = Export([("a", "", ""), ("b", "", ""), ("b", "", ""), ("c", "", ""), ("d", "", "")], breaks_at=4)
    with Build(tmp_path / "x", "") as making, fill(making, export) as index:
        assert (index.about.owners, index.about.duplicates) == (3, 1)
        assert export.closed == 1


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, pytest.param(ProcessPoolExecutor, marks=pytest.mark.slow)])
def test_any_executor_may_scan(tmp_path: Path, pool: type[Executor]) -> None:
    said = [*CHAIN, ("e", "", "deleted"), ("f", "", "inactive")] * 3
    export = Export(said)
    with Build(tmp_path / "x", "") as making, pool() as executor:
        for scanned in executor.map(partial(scan, export, making.key), export.spans()):
            making.add(scanned)
        with making.finish() as index:
            check(index, said)


# -- files -----------------------------------------------------------------------------------------------------------


def test_i9_the_files_hold_no_key_and_are_their_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir(mode=0o755)
    said = [("secret-owner", "secret@mail", ""), ("secret-owner", "other@mail", ""), ("gone-owner", "", "deleted")]
    build(folder, said).close()
    found = [folder, *folder.rglob("*")]
    assert len(found) == 6
    for path in found:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
        data = b"" if path.is_dir() else path.read_bytes()
        assert not [word for word in (b"secret", b"gone", b"@mail") if word in data]


def test_the_same_key_has_another_hash_in_another_index_and_as_an_e_mail(tmp_path: Path) -> None:
    export = Export([("a", "a", "")])
    (one,) = [scan(export, b"1" * 32, it).rows for it in export.spans()]
    (two,) = [scan(export, b"2" * 32, it).rows for it in export.spans()]
    assert len({one[24:36], one[36:48], two[24:36], two[36:48]}) == 4


def test_an_index_is_asked_by_another_process(tmp_path: Path) -> None:
    with build(tmp_path / "x", CHAIN) as index, pickle.loads(pickle.dumps(index)) as other:
        check(other, CHAIN)


@pytest.mark.parametrize("name", ["about", "roster", "duplicates", "rows"])
def test_an_index_that_was_cut_or_changed_by_one_bit_anywhere_is_not_opened(tmp_path: Path, name: str) -> None:
    build(tmp_path, [("a", "", ""), ("a", "", ""), ("b", "", "deleted")]).close()
    path = tmp_path / "1" / name
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        for changed in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            path.write_bytes(changed)
            assert open_index(tmp_path, "") is None
    path.unlink()
    assert open_index(tmp_path, "") is None
    path.write_bytes(whole)
    again = open_index(tmp_path, "")
    assert again is not None
    again.close()


def test_an_index_of_another_export_or_policy_is_not_opened(tmp_path: Path) -> None:
    build(tmp_path, CHAIN).close()
    assert open_index(tmp_path, "other") is None
    assert open_index(tmp_path, "", "none") is None
    assert open_index(tmp_path / "nowhere", "") is None


def test_a_build_that_ends_early_leaves_the_earlier_index_whole(tmp_path: Path) -> None:
    build(tmp_path, CHAIN).close()
    export = Export(CHAIN)

    def stop(place: Place) -> None:
        raise KeyboardInterrupt

    with Build(tmp_path, "") as making, pytest.raises(KeyboardInterrupt):
        fill(making, export, stop)
    assert export.closed == 1
    with making, pytest.raises(MachineFault):
        making.add(scan(export, making.key, next(export.spans())))
    (tmp_path / "2").mkdir()  # a build that was killed
    again = open_index(tmp_path, "")
    assert again is not None
    with again:
        check(again, CHAIN)
    build(tmp_path, CHAIN[:2]).close()
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_forget_deletes_the_index_and_what_a_build_left_but_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    build(folder, CHAIN).close()
    (folder / "2").mkdir()
    (folder / "mine").write_bytes(b"mine")
    forget(folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]
    (folder / "mine").unlink()
    forget(folder)
    forget(folder)
    assert not folder.exists()


def test_an_index_that_can_not_be_read_any_more_says_so(tmp_path: Path) -> None:
    index = build(tmp_path / "x", CHAIN)
    index.close()
    index.close()
    with pytest.raises(MachineFault):
        index.missing(["a"])
