"""Forms of a file, in a table: what is read, and what is named for what it is with the command that helps."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streammig.errors import BrokenExport, Unusable
from streammig.model import START, Place
from streammig.sources import FileSource, Form, Input, open_source, parse_input
from tests.input_forms import tar, zipped
from tests.problems import raises

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDS = [{"id": "1", "name": "Ana } {"}, {"id": "2", "balance": [{"x": 1}, {"x": 2}]}, {"id": "3"}]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
KEYED = b'{"1": {"balance": [{"x": 1}]}, "2": {"balance": []}}'
PRETTY = "\n".join(json.dumps(record, indent=2) for record in RECORDS).encode()


def long_window(data: bytes) -> bytes:
    options: dict[Any, int] = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    return bytes(packer.compress(data) + packer.flush())


def with_dictionary(data: bytes) -> bytes:
    dictionary = zstd.train_dict([LINES[at:] for at in range(len(LINES))] * 20, 512)
    return bytes(zstd.compress(data, zstd_dict=dictionary))


def read(source: FileSource, start: Place = START) -> list[Any]:
    return [json.loads(data) for span in source.spans(start) for data in span.cut(0, len(span))]


READ = {
    "lines.ndjson.xz": lambda: lzma.compress(LINES),
    "lines.ndjson.bz2": lambda: bz2.compress(LINES),
    "two.ndjson.xz": lambda: lzma.compress(LINES[:20]) + b"\0" * 8 + lzma.compress(LINES[20:]),
    "two.ndjson.bz2": lambda: bz2.compress(LINES[:20]) + bz2.compress(LINES[20:]),
    "pretty.json": lambda: PRETTY,
    "pretty-with-blanks.json": lambda: b"\xef\xbb\xbf\n " + PRETTY + b"\n\n",
    "pretty.json.xz": lambda: lzma.compress(PRETTY),
    "side-by-side.json": lambda: b"".join(json.dumps(record).encode() for record in RECORDS),
}


@pytest.mark.parametrize("name", READ)
def test_a_form_is_read_as_its_records(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(READ[name]())
    assert read(open_source([Input(str(path))])) == RECORDS


@pytest.mark.parametrize("name", ["lines.ndjson.xz", "lines.ndjson.bz2", "pretty.json", "side-by-side.json"])
def test_a_form_is_read_from_the_place_of_each_record(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(READ[name]())
    spans = open_source([Input(str(path))], read_bytes=16).spans()
    places = [span.position(index).begin for span in spans for index in range(len(span))]
    assert len(places) == len(RECORDS)
    for index, place in enumerate(places):
        assert read(open_source([Input(str(path))]), place) == RECORDS[index:]


VALUES = [{"name": "Ana } {", "n": 1.50}, {"b": [{"x": 1}, {"id": "2", "x": {}}]}, {}, {"id": "d", "e": "x" * 300}]
NAMES = ["a", 'b"},"c":{', "c\u00e9\n", "d"]
OBJECT = dict(zip(NAMES, VALUES, strict=True))
KEYED_READ: dict[str, tuple[str, Any]] = {
    "the whole document": ("", json.dumps(OBJECT)),
    "without blanks": ("", json.dumps(OBJECT, separators=(",", ":"), ensure_ascii=False)),
    "pretty": ("", "\ufeff" + json.dumps(OBJECT, indent=2) + "\n"),
    "under a path": (
        "#of.them",
        json.dumps({"a": [{"of": 1}], "of": {"n": {"x": 1}, "them": OBJECT, "m": [1]}, "z": {}}),
    ),
    "beside others": ("#them", json.dumps({"x": {"them": {"y": 1}}, "them": OBJECT, "rest": [{}, [1]]}, indent=1)),
    "many": ("", "{" + ",".join(f'"k{at}":' + json.dumps(VALUES[at % 4]) for at in range(3000)) + "}"),
    "a key twice": ("", '{"a": {"x": 1}, "b": {"x": 22}, "a": {"x": 333}, "c": {"x": 4}}'),
    "none": ("", " {} "),
}


class Pairs(list[Any]):
    """An object as its members in order."""


def _plain(more: dict[str, Any], value: Any) -> Any:
    """What `Pairs` holds, as objects, the outermost with more."""
    if isinstance(value, Pairs):
        return more | {key: _plain({}, each) for key, each in value}
    return [_plain({}, each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("field", [True, "no"])
@pytest.mark.parametrize("name", KEYED_READ)
def test_values_of_an_object_are_records_with_their_keys_where_asked(
    tmp_path: Path, name: str, field: bool | str
) -> None:
    path, text = KEYED_READ[name]
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    members = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=Pairs)
    for step in filter(None, path.removeprefix("#").split(".")):
        members = dict(members)[step]
    wanted = [_plain({field: key} if isinstance(field, str) else {}, value) for key, value in members]
    for size in (16, 1 << 20):
        source = open_source([parse_input(f"{tmp_path}/c.json{path}")], form=Form(keyed=field), read_bytes=size)
        positions = [span.position(at) for span in source.spans() for at in range(len(span))]
        assert read(source) == wanted
        assert [it.ordinal for it in positions] == list(range(1, len(wanted) + 1))
        for index, it in list(enumerate(positions))[:: max(len(wanted) // 20, 1)]:
            assert read(source, it.begin) == wanted[index:]
            assert read(source, it.end) == wanted[index + 1 :]


ODD_KEYED = [
    (b'{"a": {"id": "a"}, "b": {"id": "x"}, "c": {"id": 1}}', [{"id": "a"}, "twice", "twice"], ""),
    (b'{"a": [1], "b": 7, "c": null, "d": "id"}', [[1], 7, None, "id"], ""),
    (b'{"a\xff": {}, "b": {}, "\\ud800": {}}', ["invalid-utf8", {"id": "b"}, "lone-surrogate"], ""),
    (b'{"a": {"x": "\xff"}, "b": {}}', ["invalid-utf8", {"id": "b"}], ""),
    (b'{"a\xff": {"x": {"y": 1}}}', ["invalid-utf8"], ""),  # a key that can't be read, and a guess inside its value
    (b'{"a": {}, "b": {"x": "' + b"x" * 2000 + b'"}, "c": {}}', [{"id": "a"}, "too-large", {"id": "c"}], ""),
    (b'{"a": {}, "b": {}', [{"id": "a"}, {"id": "b"}], "after 2 values of the object"),
    (b'{"a": {}, "b": {},}', [{"id": "a"}, {"id": "b"}], "a value was expected"),
    (b'{"a": {}, b: {}}', [{"id": "a"}], "a key was expected"),
    (b'{"a": {}, "b" {}}', [{"id": "a"}], "a colon was expected"),
    (b'{"a": {}, "b', [{"id": "a"}], "after 1 values of the object"),
    (b'{"a": {}, "b" : ', [{"id": "a"}], "after 1 values of the object"),
    (b'{"a": {}, "\\x": {}}', [{"id": "a"}], "in a key"),
    (b'{"a": {}, "b": {]}', [{"id": "a"}], "in value 2 of the object"),
]


@pytest.mark.parametrize("size", [8, 1 << 20])
@pytest.mark.parametrize(("data", "wanted", "broken"), ODD_KEYED)
def test_a_member_at_fault_is_its_own_fault_and_a_broken_object_ends_behind_the_last_whole_one(
    tmp_path: Path, data: bytes, wanted: list[Any], broken: str, size: int
) -> None:
    (tmp_path / "c.json").write_bytes(data)
    source = open_source(
        [Input(str(tmp_path / "c.json"))], form=Form(keyed="id"), read_bytes=size, max_record_bytes=1000
    )
    found, told = list[Any](), list[BrokenExport]()
    for span in source.spans(told=told.append):
        for at, record in enumerate(span.cut(0, len(span))):
            fault = span.faults[at][1] if at in span.faults else ""
            found.append(fault or ("twice" if record.count(b'"id":') > 1 else json.loads(record)))
    assert found == wanted
    assert ([it.why for it in told] or [""])[0].count(broken), told
    assert bool(told) == bool(broken)


def test_a_path_to_an_object_names_the_setting_for_records_by_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(b'{"a": [1], "of": {"them": ' + KEYED + b"}}")
    with raises(Unusable, "array-not-found") as caught:
        open_source([parse_input(f"{path}#of.them")])
    assert "keyed" in caught.value.hint


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "three.tar": (lambda: tar(LINES, "w"), "export-packed", "tar -x -f"),
    "three.tar.gz": (lambda: tar(LINES, "w:gz"), "export-packed", "tar -xz -f"),
    "three.tar.xz": (lambda: tar(LINES, "w:xz"), "export-packed", "tar -xJ -f"),
    "three.tar.bz2": (lambda: tar(LINES, "w:bz2"), "export-packed", "tar -xj -f"),
    "three.zip": (lambda: zipped(LINES), "export-packed", "unzip "),
    "book.xlsx": (lambda: zipped(LINES, "[Content_Types].xml"), "export-packed", "CSV"),
    "book.ods": (lambda: zipped(LINES, "mimetype"), "export-packed", "CSV"),
    "old.xls": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "export-packed", "CSV"),
    "table.parquet": (lambda: b"PAR1" + bytes(600), "export-packed", "DuckDB"),
    "three.7z": (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(600), "export-packed", "7z x "),
    "twice.ndjson.gz": (lambda: gzip.compress(gzip.compress(LINES)), "export-packed", "gunzip -c "),
    "zstd.ndjson.gz": (lambda: gzip.compress(bytes(zstd.compress(LINES))), "export-packed", "gunzip -c "),
    "long.ndjson.zst": (lambda: long_window(LINES), "export-packed", "--long=28"),
    "dictionary.ndjson.zst": (lambda: with_dictionary(LINES), "export-packed", "zstd -D "),
    "utf16.ndjson.gz": (lambda: gzip.compress(LINES.decode().encode("utf-16")), "export-not-utf8", "iconv"),
    "one.json": (lambda: json.dumps(RECORDS[1], indent=2).encode(), "array-not-named", "jq -c . "),
    "keyed.json": (lambda: b'{"1": {"name": "Ana"}, "2": {"name": "Luis"}}', "array-not-named", 'set keyed = "id"'),
    "keyed-balances.json": (lambda: KEYED, "array-not-named", 'set keyed = "id"'),
    "keyed-large.json": (lambda: KEYED[:-1] + b" " * 5_000_000 + b"}", "array-not-named", 'set keyed = "id"'),
    "commas.ndjson": (lambda: LINES.replace(b"}\n", b"},\n"), "export-not-json", "sed "),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_is_not_read_is_named_with_the_command_that_helps(tmp_path: Path, name: str) -> None:
    make, code, command = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(make())
    with raises(Unusable, code) as caught:
        open_source([Input(str(path))])
    assert command in caught.value.hint


CUT = {
    "lines.ndjson.xz": lambda: lzma.compress(LINES)[:-20],
    "lines.ndjson.bz2": lambda: bz2.compress(LINES)[:-10],
    "damaged.ndjson.bz2": lambda: bz2.compress(LINES)[:30] + b"x" * 20,
    "pretty.json": lambda: PRETTY[:-3],
    "behind.json": lambda: PRETTY + b"{]",
}


@pytest.mark.parametrize("name", CUT)
def test_a_cut_or_damaged_form_is_an_export_that_breaks_off(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CUT[name]())
    with pytest.raises((BrokenExport, Unusable)) as caught:
        read(open_source([Input(str(path))]))
    assert caught.value.exit_code == 2


def test_a_form_named_by_a_setting_is_read_whatever_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "rows.export").write_text("id|name\n1|Ana\n")
    source = open_source([Input(str(tmp_path / "rows.export"))], form=Form("|"))
    assert read(source) == [{"id": "1", "name": "Ana"}]
