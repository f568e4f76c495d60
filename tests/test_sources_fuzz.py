"""Framing, both ways, against ijson in pure Python, `json`, and documents that were built of known records."""

from __future__ import annotations

import gzip
import io
import json
import math
import random
from pathlib import Path
from typing import Any, NoReturn

import ijson.backends.python as ijson_python
import pytest
from backports import zstd

from streammig.errors import Unusable
from streammig.model import START, Place
from streammig.sources import FileSource, Form, Input, frame, open_source
from tests.judges import OF_CUSTOMERS
from tests.shares import share
from tests.spans import Slice, slices

BLANKS = [b"", b"", b"", b" ", b"\n", b"\r\n  ", b"\t \n"]
STRINGS = [
    "", "id", "]}],[{", '"', "\\", '\\"}', '{"id":1},{"id":', "é", "€", "😀", "\u2028", "x" * 300, "/", "\x7f", "\n\t",
]  # fmt: skip
NUMBERS = [b"0", b"-0", b"1", b"-12", b"1.50", b"1e5", b"1E+400", b"0.1e-7", b"9223372036854775808", b"1" * 400]

TRIES = [(16 * 1024, 4096), (64, 16), (1000, 100)]  # the first text tried at once, and the least


class Built:
    """A random document, and where its records stand: in an array, or each under a key (`keyed`)."""

    def __init__(self, rng: random.Random, records: int, *, keyed: bool = False) -> None:
        self._rng = rng
        self._style = rng.choice(["compact", "pretty", "odd"])
        self.texts = [self._element() for _ in range(records)]
        self.offsets: list[int] = []
        self.path = rng.choice(["", "data", "a.b", '"a.b"'])
        head, tail = {
            "": (b"", b""),
            "data": (b'{"x":[1,"["],"data":', b',"y":{"data":[{"id":1},{"id":2}]}}'),
            "a.b": (b'{"b":[{}],"a":{"b":', b'},"c":null}'),
            '"a.b"': (b'{"a":{"b":[1]},"a.b":', b"}"),
        }[self.path]
        opening, closing = (b"{", b"}") if keyed else (b"[", b"]")
        self.keys = [self._string() + self._blank() + b":" + self._blank() if keyed else b"" for _ in self.texts]
        parts = [rng.choice([b"", b"\xef\xbb\xbf"]), head, opening, self._blank()]
        gap = self._blank() + b"," + self._blank()
        for index, text in enumerate(self.texts):
            if index:
                parts.append(self._blank() + b"," + self._blank() if self._style == "odd" else gap)
            self.offsets.append(sum(map(len, parts)))
            parts.append(self.keys[index] + text)
        parts += [self._blank(), closing, tail, self._blank()]
        self.bytes = b"".join(parts)

    def _blank(self) -> bytes:
        return b"" if self._style == "compact" else self._rng.choice(BLANKS)

    def _element(self) -> bytes:
        kind = self._rng.random()
        if kind < 0.85:
            return self._object(3)
        return self._value(3)

    def _object(self, depth: int) -> bytes:
        # The same first key at every level is what makes a framer guess wrong.
        keys = [b'"id"', *(self._string() for _ in range(self._rng.randrange(4)))]
        if self._rng.random() < 0.05:
            keys = []
        members = [key + self._blank() + b":" + self._blank() + self._value(depth - 1) for key in keys]
        return b"{" + self._blank() + self._joined(members) + self._blank() + b"}"

    def _value(self, depth: int) -> bytes:
        kind = self._rng.random()
        if depth > 0 and kind < 0.25:
            return self._object(depth)
        if depth > 0 and kind < 0.4:
            members = [self._object(depth - 1) for _ in range(self._rng.randrange(4))]
            return b"[" + self._blank() + self._joined(members) + self._blank() + b"]"
        if kind < 0.7:
            return self._string()
        return self._rng.choice([b"true", b"false", b"null", *NUMBERS])

    def _string(self) -> bytes:
        return json.dumps(self._rng.choice(STRINGS), ensure_ascii=self._rng.random() < 0.5).encode()

    def _joined(self, members: list[bytes]) -> bytes:
        return (self._blank() + b"," + self._blank()).join(members)


def read(source: FileSource, start: Place = START) -> tuple[list[Slice], str]:
    """The records from a place on, and what broke the export off."""
    found: list[Slice] = []
    try:
        for span in source.spans(start):
            assert span
            found += slices(span)
    except Unusable as error:
        return found, str(error)
    return found, ""


def both(path: Path, array: tuple[str, ...] | None, tries: tuple[int, int], **settings: Any) -> tuple[list[Slice], str]:
    """What is found in a file with texts of some size tried at once, one by one, and by a judge; that must be the
    same."""
    answers = []
    for way in ("singly", "judged", "together"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frame, "FIRST_TRY", tries[0])
            patch.setattr(frame, "LEAST_TRY", tries[1])
            patch.setattr(FileSource, "_judge", OF_CUSTOMERS if way == "judged" else None)
            if way == "singly":
                patch.setattr(frame.Framer, "_take_many", lambda self: False)
            try:
                answers.append(read(open_source([Input(str(path), array)], **settings)))
            except Unusable as error:
                answers.append(([], f"not opened: {error}"))
    assert answers[0] == answers[1] == answers[2]
    return answers[2]


def packed(rng: random.Random, data: bytes) -> bytes:
    """The data plain, or as members or frames cut anywhere."""
    kind = rng.choice(["plain", "plain", "gzip", "zstd"])
    if kind == "plain":
        return data
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(3)))
    parts = [data[low:high] for low, high in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    compress = gzip.compress if kind == "gzip" else zstd.compress
    return b"".join(compress(part) for part in parts)


def array_of(text: str) -> tuple[str, ...]:
    return {"": (), "data": ("data",), "a.b": ("a", "b"), '"a.b"': ("a.b",)}[text]


def plain(value: Any) -> Any:
    """A value with every number as its text would compare: exact for integers, by float for others."""
    if isinstance(value, dict):
        return [(key, plain(it)) for key, it in value.items()]
    if isinstance(value, list):
        return [plain(it) for it in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def check_agreement(seed: int, folder: Path, records: int, *, keyed: bool = False) -> int:
    rng = random.Random(seed)
    built, form = Built(rng, records, keyed=keyed), Form(keyed=keyed)
    path = folder / "export"
    path.write_bytes(packed(rng, built.bytes))
    read_bytes = rng.choice([1, 7, 100, 4096, 65536, 4 << 20])
    found, broken = both(path, array_of(built.path), rng.choice(TRIES), read_bytes=read_bytes, form=form)
    assert not broken
    assert [it.data for it in found] == built.texts
    assert [it.offset for it in found] == built.offsets
    assert [it.length for it in found] == [len(key + text) for key, text in zip(built.keys, built.texts, strict=True)]
    assert [it.ordinal for it in found] == [*range(1, len(found) + 1)]
    assert not any(it.code for it in found)
    # Both others read the same records out of the whole document.
    text = built.bytes.removeprefix(b"\xef\xbb\xbf")
    whole = json.loads(text)
    for step in array_of(built.path):
        whole = whole[step]
    ours = [plain(json.loads(it.data)) for it in found]
    assert keyed or ours == [plain(it) for it in whole]
    if built.path in ("", "data") and not keyed:
        prefix = ".".join([*array_of(built.path), "item"])
        assert ours == [plain(it) for it in ijson_python.items(io.BytesIO(text), prefix)]
    # From any record on, the rest is the same.
    if found:
        at = rng.randrange(len(found))
        before = found[at]
        source = open_source([Input(str(path), array_of(built.path))], read_bytes=read_bytes, form=form)
        assert read(source, Place(0, before.offset, 0, before.ordinal))[0] == found[at:]
        behind = Place(0, before.offset + before.length, 0, before.ordinal + 1)
        assert read(source, behind) == (found[at + 1 :], "")
    return len(found)


def refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def is_valid(text: bytes) -> bool:
    """RFC 8259 in UTF-8 without lone surrogates, by `json`."""
    try:
        value = json.loads(text.decode(), parse_constant=refuse, object_pairs_hook=list)  # a list: keys may repeat
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, UnicodeError):
        return False
    return True


def has_valid_grammar(text: bytes) -> bool:
    """Whether the text is a whole document by grammar; text without a bracket may stand behind it: it has no record."""
    known = text.decode(errors="replace").lstrip()
    try:
        _, end = json.JSONDecoder(parse_constant=refuse).raw_decode(known)
    except ValueError:
        return False
    return not set("[{") & set(known[end:])


def check_damage(seed: int, folder: Path, *, keyed: bool = False) -> None:
    """A document with a byte or two changed is refused exactly when it isn't valid, alike both ways."""
    rng = random.Random(seed)
    built, form = Built(rng, rng.randrange(1, 12), keyed=keyed), Form(keyed=keyed)
    text = bytearray(built.bytes.removeprefix(b"\xef\xbb\xbf"))
    for _ in range(rng.randrange(1, 3)):
        if not text:
            return
        at = rng.randrange(len(text))
        how = rng.random()
        if how < 0.4:
            text[at] = rng.choice(b'"\\{}[],:u0019etn \x00\x01\x0c\x80\xc3\xff')
        elif how < 0.7:
            del text[at]
        elif how < 0.9:
            text[at:at] = rng.choice([b",", b"]", b"}", b'"', b"\\ud800", b"\xff", b"x", b"0", b"\x0b"])
        else:
            del text[at:]
    if not text:
        return
    path = folder / "export"
    path.write_bytes(text)
    read_bytes = rng.choice([1, 9, 4096])
    found, broken = both(path, array_of(built.path), rng.choice(TRIES), read_bytes=read_bytes, form=form)
    refused = bool(broken) or any(it.code for it in found)
    if is_valid(bytes(text)):
        # Valid still, but maybe the array has gone to another name.
        assert not refused or "there is no " in broken or "neither an object nor an array" in broken
    else:
        # Strings outside the array are judged by grammar alone; the records are judged below.
        assert refused or has_valid_grammar(bytes(text))
    for it in found:
        assert bytes(text[it.offset : it.offset + it.length]).endswith(it.data)
        assert bool(it.code) or is_valid(it.data)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_framing_finds_the_records_that_a_document_was_built_of(seed: int, keyed: bool, tmp_path: Path) -> None:
    check_agreement(seed, tmp_path, random.Random(seed).choice([0, 1, 3, 40, 200]), keyed=keyed)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("block", range(10))
def test_a_damaged_document_is_refused_just_when_json_refuses_it(block: int, keyed: bool, tmp_path: Path) -> None:
    for seed in range(block * 40, block * 40 + 40):
        check_damage(seed, tmp_path, keyed=keyed)


def test_a_key_that_is_not_utf_8_stops_no_reading_whatever_fitted_behind_the_cut_before(tmp_path: Path) -> None:
    check_damage(28_291, tmp_path, keyed=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_framing_agrees_with_the_others_on_100_000_records(tmp_path: Path) -> None:
    records, seed = 0, 10_000
    while records < share(100_000):
        records += check_agreement(seed, tmp_path, random.Random(seed).choice([10, 300, 2000]), keyed=seed % 4 == 3)
        seed += 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_20_000_damaged_documents_are_refused_just_when_json_refuses_them(tmp_path: Path) -> None:
    for seed in range(20_000, 20_000 + share(20_000)):
        check_damage(seed, tmp_path, keyed=seed % 4 == 3)
