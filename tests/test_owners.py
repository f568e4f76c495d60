"""Claims about the owner table: who is a duplicate, who is absent, whatever the hashes and the order of records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streammig.errors import MachineFault
from streammig.owners import gathering as sorting
from streammig.owners.gathering import Changed, Gathering
from streammig.owners.layout import About, Hashing, Policy, binding, write_about
from streammig.owners.space import BYTES_A_CUSTOMER, check_space, most_customers, space_needed
from streammig.owners.table import Duplicate, OwnerTable, forget, open_table
from streammig.records import START, Place

KEY = b"k" * 32
Said = tuple[str, str, str]  # owner, twin, and "" for a record or the reason why there is none


def place(nth: int) -> Place:
    """Two units a source record and seven source records a file."""
    return Place(nth // 14, nth // 2 % 7 * 100, nth % 2, nth // 2 % 7 + 1)


def make(folder: Path, said: Sequence[Said], bits: int = 64, policy: Policy = "first") -> OwnerTable:
    """The finished table, made in this process."""
    gathering = Gathering(folder, KEY, bits, 64 << 20, 1, policy == "first")
    if said:
        gathering.add([(*place(nth), *it) for nth, it in enumerate(said)])
    wanted = gathering.find_candidates()
    nth = {place(index): index for index in range(len(said))}
    while places := gathering.page():
        wanted -= len(places)
        gathering.keys([said[nth[it]][:2] for it in places])
    assert wanted == 0
    write_about(folder, gathering.conclude(About(binding("", policy, bits), KEY.hex(), 0, 0, (), "", "")))
    table = open_table(folder, "", policy=policy, bits=bits)
    assert table is not None
    return table


class Model:
    """What is right, by reading the claim literally, in memory."""

    def __init__(self, said: Sequence[Said]) -> None:
        ids: dict[str, Place] = {}
        twins: dict[str, Place] = {}
        self.duplicates: list[Duplicate] = []
        self.absent: dict[str, str] = {}
        for nth, (owner, twin, reason) in enumerate(said):
            at = place(nth)
            if reason:
                self.absent.setdefault(owner, reason)
            elif owner in ids:
                self.duplicates.append(Duplicate(at, "duplicate-customer", ids[owner]))
            elif twin and twin in twins:
                self.duplicates.append(Duplicate(at, "duplicate-email", twins[twin]))
                self.absent.setdefault(owner, "duplicate-email")
            else:
                ids[owner] = at
                if twin:
                    twins[twin] = at
        self.absent = {owner: reason for owner, reason in self.absent.items() if owner not in ids}


KEYS = st.sampled_from("abcdefgh")
RECORD = st.tuples(KEYS, st.one_of(st.just(""), KEYS), st.just(""))
ABSENT = st.tuples(KEYS, st.just(""), st.sampled_from(["deleted", "inactive"]))
SAID = st.lists(st.one_of(RECORD, RECORD, RECORD, ABSENT), max_size=30)


def check(said: list[Said], bits: int) -> None:
    model = Model(said)
    with TemporaryDirectory() as top, make(Path(top) / "owners", said, bits) as table:
        assert list(table.duplicates()) == model.duplicates
        assert table.duplicate_count == len(model.duplicates)
        if bits == 64:
            everybody = {owner for owner, _, _ in said}
            assert table.owners == len(everybody)
            assert table.absent([*everybody, "stranger"]) == model.absent | {"stranger": "unknown-customer"}


RELAXED = [HealthCheck.too_slow, HealthCheck.differing_executors]


@settings(max_examples=8, deadline=None, suppress_health_check=RELAXED)
@given(SAID, st.sampled_from([64, 2]))
@example([("a", "x", ""), ("b", "x", ""), ("b", "y", ""), ("c", "y", ""), ("a", "z", ""), ("d", "z", "")], 1)
def test_the_table_says_what_reading_in_order_says(said: list[Said], bits: int) -> None:
    check(said, bits)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=RELAXED)
@given(SAID, st.sampled_from([64, 8, 2, 1]))
def test_the_table_says_what_reading_in_order_says_200_times(said: list[Said], bits: int) -> None:
    check(said, bits)


def test_a_chain_longer_than_any_page_comes_out_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "PAGE", 7)
    monkeypatch.setattr(sorting, "ROWS", 11)
    # Each shares its e-mail with the one before and its id with the one behind: every second pair is kept.
    said = [(f"id{(nth + 1) // 2}", f"mail{nth // 2}", "") for nth in range(200)]
    with make(tmp_path / "owners", said) as table:
        assert list(table.duplicates()) == Model(said).duplicates
        assert table.duplicate_count == 100


def test_a_record_that_is_itself_dropped_blocks_nobody(tmp_path: Path) -> None:
    with make(tmp_path / "owners", [("a", "x", ""), ("b", "x", ""), ("b", "y", "")]) as table:
        assert list(table.duplicates()) == [Duplicate(place(1), "duplicate-email", place(0))]
        assert table.absent(["b"]) == {}


def test_who_repeats_both_keys_is_a_duplicate_customer_of_the_one_with_its_id(tmp_path: Path) -> None:
    with make(tmp_path / "owners", [("a", "x", ""), ("b", "y", ""), ("b", "x", "")]) as table:
        assert list(table.duplicates()) == [Duplicate(place(2), "duplicate-customer", place(1))]


def test_no_collision_of_hashes_makes_a_good_customer_a_duplicate(tmp_path: Path) -> None:
    said = [(f"id{nth}", f"mail{nth}", "") for nth in range(300)]
    with make(tmp_path / "owners", said, bits=1) as table:
        assert list(table.duplicates()) == []
        assert table.absent(owner for owner, _, _ in said) == {}


def test_without_a_policy_nobody_is_a_duplicate_and_absence_is_known_all_the_same(tmp_path: Path) -> None:
    said = [("a", "x", ""), ("a", "x", ""), ("b", "x", ""), ("c", "", "deleted")]
    with make(tmp_path / "owners", said, policy="none") as table:
        assert list(table.duplicates()) == []
        assert table.absent("abcd") == {"c": "deleted", "d": "unknown-customer"}


def test_the_first_reason_said_of_an_owner_counts(tmp_path: Path) -> None:
    said = [("x", "e", ""), ("a", "", "deleted"), ("a", "e", ""), ("b", "e", ""), ("b", "", "deleted")]
    with make(tmp_path / "owners", said) as table:
        assert table.absent("ab") == {"a": "deleted", "b": "duplicate-email"}


def test_more_reasons_than_there_are_codes_share_the_last(tmp_path: Path) -> None:
    said = [(f"o{nth}", "", f"reason {nth}") for nth in range(300)]
    with make(tmp_path / "owners", said) as table:
        absent = table.absent(["o0", "o251", "o252", "o299", "o300"])
        assert list(absent.values()) == ["reason 0", "reason 251", "left-out", "left-out", "unknown-customer"]


def test_an_export_without_customers_makes_a_table_that_knows_nobody(tmp_path: Path) -> None:
    with make(tmp_path / "owners", []) as table:
        assert (table.owners, table.duplicate_count) == (0, 0)
        assert list(table.duplicates()) == []
        assert table.absent(["a"]) == {"a": "unknown-customer"}


def test_every_owner_of_a_roster_of_many_blocks_is_found(tmp_path: Path) -> None:
    said = [(f"o{nth}", "", "" if nth % 3 else "gone") for nth in range(1000)]
    with make(tmp_path / "owners", said) as table:
        assert table.absent(owner for owner, _, _ in said) == {f"o{nth}": "gone" for nth in range(0, 1000, 3)}
        assert len(table.absent(f"p{nth}" for nth in range(1000))) == 1000


def test_duplicates_are_found_from_any_place_up_to_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammig.owners.table.AHEAD", 3)
    said = [(f"id{nth % 5}", "", "") for nth in range(40)]
    with make(tmp_path / "owners", said) as table:
        every = list(table.duplicates())
        assert [it.place for it in every] == [place(nth) for nth in range(5, 40)]
        for begin in (0, 4, 5, 6, 20, 39):
            for end in (0, 5, 6, 21, 39):
                found = list(table.duplicates(place(begin), place(end)))
                assert found == [it for it in every if place(begin) <= it.place < place(end)]
        assert list(table.duplicates(place(40))) == []
        assert list(table.duplicates(START, place(6))) == every[:1]


def test_keys_that_changed_since_the_pass_are_refused(tmp_path: Path) -> None:
    changed = ([("a", "x"), ("b", "x")], [("a", "x"), ("a", "")], [("a", "x"), ("a", "y")], [("a", "x")] * 3)
    for nth, keys in enumerate(changed):
        gathering = Gathering(tmp_path / str(nth), KEY, 64, 64 << 20, 1, True)
        gathering.add([(*place(0), "a", "x", ""), (*place(1), "a", "x", "")])
        assert gathering.find_candidates() == 2
        assert gathering.page() == [place(0), place(1)]
        with pytest.raises(Changed):
            gathering.keys(keys)


def test_a_table_is_not_concluded_without_all_keys(tmp_path: Path) -> None:
    gathering = Gathering(tmp_path / "owners", KEY, 64, 64 << 20, 1, True)
    gathering.add([(*place(0), "a", "", ""), (*place(1), "a", "", "")])
    gathering.find_candidates()
    about = About("", "", 0, 0, (), "", "")
    with pytest.raises(Changed):
        gathering.conclude(about)
    gathering.page()
    with pytest.raises(Changed):
        gathering.conclude(about)


# -- files -----------------------------------------------------------------------------------------------------------


def test_i9_the_files_hold_no_key_and_are_their_owners_alone(tmp_path: Path) -> None:
    said = [("secret-owner", "secret@mail", ""), ("secret-owner", "other@mail", ""), ("gone-owner", "", "deleted")]
    folder = tmp_path / "owners"
    folder.mkdir(mode=0o755)
    make(folder, said).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {"about", "roster", "duplicates"}
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        data = path.read_bytes()
        for word in (b"secret", b"gone", b"@mail"):
            assert word not in data


def test_the_same_owner_has_another_hash_in_another_table() -> None:
    assert Hashing(b"a" * 32).short(["x"]) != Hashing(b"b" * 32).short(["x"])
    assert Hashing(b"a" * 32).long("x") != Hashing(b"b" * 32).long("x")


def test_i6_a_table_of_many_owners_keeps_one_hash_in_128_in_memory(tmp_path: Path) -> None:
    said = [(f"o{nth}", "", "") for nth in range(1000)]
    with make(tmp_path / "owners", said) as table:
        assert len(table._firsts) == 8


@pytest.mark.parametrize("name", ["about", "roster", "duplicates"])
def test_a_table_that_was_cut_or_changed_by_one_bit_anywhere_is_not_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "owners"
    make(folder, [("a", "", ""), ("a", "", ""), ("b", "", "deleted")]).close()
    path = folder / name
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at])
        assert open_table(folder, "") is None
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert open_table(folder, "") is None
    path.unlink()
    assert open_table(folder, "") is None
    path.write_bytes(whole)
    again = open_table(folder, "")
    assert again is not None
    again.close()


def test_a_table_of_another_token_policy_or_hash_is_not_opened(tmp_path: Path) -> None:
    make(tmp_path / "owners", [("a", "", "")]).close()
    assert open_table(tmp_path / "owners", "other") is None
    assert open_table(tmp_path / "owners", "", policy="none") is None
    assert open_table(tmp_path / "owners", "", bits=8) is None
    assert open_table(tmp_path / "nowhere", "") is None


def test_a_whole_about_of_another_shape_is_no_table(tmp_path: Path) -> None:
    body = b'{"binding":1}'
    digest = hashlib.blake2b(body, digest_size=16).hexdigest().encode()
    (tmp_path / "about").write_bytes(body + b"\n" + digest)
    assert open_table(tmp_path, "") is None


def test_a_new_pass_begins_with_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "owners"
    make(folder, [("a", "", "")]).close()
    (folder / "gathered.duckdb").write_bytes(b"torn")
    (folder / "gathered.duckdb.wal").write_bytes(b"torn")
    (folder / "spill").mkdir()
    (folder / "spill" / "duckdb_temp_storage-0.tmp").write_bytes(b"left")
    with make(folder, [("b", "", "")]) as table:
        assert table.absent("ab") == {"a": "unknown-customer"}


def test_forget_deletes_the_table_and_what_a_pass_left_but_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "owners"
    make(folder, [("a", "", "")]).close()
    (folder / "inbox.csv").write_bytes(b"left")
    (folder / "spill").mkdir()
    (folder / "mine").write_bytes(b"mine")
    forget(folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]
    (folder / "mine").unlink()
    forget(folder)
    assert not folder.exists()
    forget(folder)


def test_a_table_that_can_not_be_read_any_more_says_so(tmp_path: Path) -> None:
    table = make(tmp_path / "owners", [("a", "", "")])
    table.close()
    table.close()
    table._roster = table._repeated = -1
    with pytest.raises(MachineFault, match="can't be read: Bad file descriptor"):
        table.absent(["a"])


# -- space -----------------------------------------------------------------------------------------------------------


def test_too_little_disk_is_said_before_the_pass_with_need_and_free(tmp_path: Path) -> None:
    folder = tmp_path / "to" / "be" / "made"
    asked: list[Path] = []

    def free(path: Path) -> int:
        asked.append(path)
        return space_needed(1_000_000) - 1

    with pytest.raises(MachineFault, match=r"up to 1,000,000 customers needs \d+ MB there, but \d+ MB are free"):
        check_space(folder, 1_000_000, free)
    check_space(folder, 999_999, free)
    check_space(folder, 1)
    assert asked == [tmp_path, tmp_path]
    assert space_needed(2) - space_needed(1) == BYTES_A_CUSTOMER


def test_a_compressed_file_may_hold_more_customers_than_its_size_says() -> None:
    assert most_customers(1_500, compressed=False) == 10
    assert most_customers(1_500, compressed=True) == 100
