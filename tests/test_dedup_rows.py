"""Rows that compiled code makes are the ones that Python makes, with the hashes of the standard library."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.columns import Chunk, Columns
from streammig.dedup import compiled as code
from streammig.dedup.parts import partition
from streammig.dedup.scan import HASH, NONE, OWNER, REASON, ROW, Keys, hashes, packed, rows_of_units, shift_ordinals
from streammig.model import Span
from tests.test_dedup import build

_rows: Any = code.rows
pytestmark = pytest.mark.skipif(_rows is None, reason="no compiled rows in this installation")


def texts(dice: Random, count: int) -> list[str]:
    lengths = [0, 1, 127, 128, 129, 255, 256, 257, *(dice.randrange(600) for _ in range(count - 8))]
    return ["".join(dice.choices("aZ0\0é山\U0001f389", k=length)) for length in lengths]


def test_hashes_are_those_of_the_standard_library() -> None:
    dice = Random(1)
    for length in (1, 31, 32, 63, 64):
        key, person = dice.randbytes(length), dice.randbytes(dice.randrange(17))
        some = texts(dice, 100)
        found = _rows.hashes(key, person, some)
        for at, text in enumerate(some):
            expected = hashlib.blake2b(text.encode(), digest_size=HASH, key=key, person=person).digest()
            assert found[at * HASH : (at + 1) * HASH] == (expected if text else NONE)


def test_rows_are_those_that_python_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    dice, count = Random(2), 200
    offsets, units, ordinals = ([dice.getrandbits(bits) for _ in range(count)] for bits in (64, 32, 64))
    places = offsets, units, ordinals
    owners, uniques, sums = texts(dice, count), texts(dice, count), [dice.randbytes(12) for _ in range(count)]
    key = b"k" * 32
    for keys in (Keys(*places, owners, uniques, sums), Keys(*places, owners, [], []), Keys([], [], [], [], [], [])):
        compiled = packed(key, 7, keys), hashes(key, "owner", keys.owners)
        with monkeypatch.context() as patch:
            patch.setattr("streammig.dedup.compiled.rows", None)
            assert (packed(key, 7, keys), hashes(key, "owner", keys.owners)) == compiled


def test_rows_of_units_are_those_that_python_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    dice, columns = Random(3), Columns()
    columns.index, columns.unit, columns.owners = [0, 2, 2, 3], [0, 0, 5, 1 << 20], texts(dice, 12)[8:]
    keys = [(row, number, text) for row in range(4) for number, text in enumerate(texts(dice, 60))]
    for origins in (None, [(40 * at, 9) for at in range(4)]):
        span = Span(3, 1 << 40, b"", range(4), range(4), range(7, 11), origins=origins)
        compiled = rows_of_units(Chunk(span, columns), b"k" * 32, keys)
        assert len(compiled) == len(keys) * ROW
        with monkeypatch.context() as patch:
            patch.setattr("streammig.dedup.compiled.rows", None)
            assert rows_of_units(Chunk(span, columns), b"k" * 32, keys) == compiled
    for bad in ((4, 0, "a"), (-1, 0, "a"), (0, -1, "a"), (0, 0, b"a"), ("a", 0, "a"), (0, 0), 7):
        with pytest.raises((ValueError, TypeError)):
            _rows.units(b"k", b"unit", 1, ([1], [2], [3], ["a"]), [bad])
    with pytest.raises(ValueError, match="different lengths"):
        _rows.units(b"k", b"unit", 1, ([1], [2], [3], []), [])


@pytest.mark.parametrize("bits", [0, 1, 8])
def test_entries_and_ordinals_are_those_that_python_makes(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice, count = Random(3), 2_000
    rows = bytearray(dice.randbytes(count * ROW))
    for at in range(0, count, 3):  # without a second key
        rows[at * ROW + OWNER + HASH : at * ROW + REASON] = NONE
    for at in range(count):  # no export has so many records that one more byte would be needed
        rows[at * ROW + 16] = 0
    numbers = sorted(dice.sample(range(1 << 40), count))
    compiled = partition(bytes(rows), numbers, bits), shift_ordinals(bytes(rows), 1 << 33)
    assert sum(map(len, compiled[0].data)) == sum(map(sum, compiled[0].lengths))
    monkeypatch.setattr("streammig.dedup.compiled.rows", None)
    assert (partition(bytes(rows), numbers, bits), shift_ordinals(bytes(rows), 1 << 33)) == compiled


def test_rows_that_can_be_no_entries_are_refused() -> None:
    assert partition(b"", [], 0).lengths == ([0], [0])
    for rows, numbers, bits in (
        (bytes(ROW), [], 0),
        (bytes(ROW + 1), [1], 0),
        (bytes(ROW), [1], 9),
        (bytes(ROW), [-1], 0),
    ):
        with pytest.raises((ValueError, OverflowError)):
            _rows.parted(rows, numbers, bits)


def test_reasons_are_found_as_python_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [(f"o{nth}", "", "" if nth % 3 else "gone") for nth in range(1000)]
    asked = [f"o{nth}" for nth in range(-5, 1100, 7)]
    for few in (said, said[:1], []):
        with build(tmp_path / str(len(few)), few) as index:
            compiled = index.missing(asked)
            with monkeypatch.context() as patch:
                patch.setattr("streammig.dedup.compiled.rows", None)
                assert index.missing(asked) == compiled
            assert set(compiled.values()) <= {"gone", "unknown-customer"}
    for data, count, hashed in ((bytes(60), 3, b""), (bytes(60), -1, b""), (bytes(60), 2, b"short")):
        with pytest.raises(ValueError, match="no such"):
            _rows.reasons(data, count, hashed)


def test_columns_that_can_be_no_rows_are_refused() -> None:
    good = [1], [2], [3], ["a"], ["b"], [bytes(12)]
    assert len(_rows.rows(b"k", b"o", b"u", 1, good)) == ROW
    for at, other in enumerate(([-1], [], [1, 2], [b"a"], ["b", "c"], [b"short"])):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            _rows.rows(b"k", b"o", b"u", 1, (*good[:at], other, *good[at + 1 :]))
    for key, person in ((b"", b"o"), (bytes(65), b"o"), (b"k", bytes(17))):
        with pytest.raises(ValueError, match="another length"):
            _rows.hashes(key, person, [])
