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
from streammig.sources import Form, Input, open_source
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


def read(path: Path, start: Place = START) -> list[Any]:
    return [
        json.loads(data) for span in open_source([Input(str(path))]).spans(start) for data in span.cut(0, len(span))
    ]


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
    assert read(path) == RECORDS


@pytest.mark.parametrize("name", ["lines.ndjson.xz", "lines.ndjson.bz2", "pretty.json", "side-by-side.json"])
def test_a_form_is_read_from_the_place_of_each_record(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(READ[name]())
    spans = open_source([Input(str(path))], read_bytes=16).spans()
    places = [span.position(index).begin for span in spans for index in range(len(span))]
    assert len(places) == len(RECORDS)
    for index, place in enumerate(places):
        found = [
            json.loads(data) for span in open_source([Input(str(path))]).spans(place) for data in span.cut(0, len(span))
        ]
        assert found == RECORDS[index:] or found[-len(RECORDS[index:]) :] == RECORDS[index:]


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "three.tar": (lambda: tar(LINES, "w"), "export-packed", "tar -x -f"),
    "three.tar.gz": (lambda: tar(LINES, "w:gz"), "export-packed", "tar -xz -f"),
    "three.tar.xz": (lambda: tar(LINES, "w:xz"), "export-packed", "tar -xJ -f"),
    "three.tar.bz2": (lambda: tar(LINES, "w:bz2"), "export-packed", "tar -xj -f"),
    "three.zip": (lambda: zipped(LINES), "export-packed", "unzip "),
    "twice.ndjson.gz": (lambda: gzip.compress(gzip.compress(LINES)), "export-packed", "gunzip -c "),
    "zstd.ndjson.gz": (lambda: gzip.compress(bytes(zstd.compress(LINES))), "export-packed", "gunzip -c "),
    "long.ndjson.zst": (lambda: long_window(LINES), "export-packed", "--long=28"),
    "dictionary.ndjson.zst": (lambda: with_dictionary(LINES), "export-packed", "zstd -D "),
    "utf16.ndjson.gz": (lambda: gzip.compress(LINES.decode().encode("utf-16")), "export-not-utf8", "iconv"),
    "one.json": (lambda: json.dumps(RECORDS[1], indent=2).encode(), "array-not-named", "jq -c . "),
    "keyed.json": (lambda: b'{"1": {"name": "Ana"}, "2": {"name": "Luis"}}', "array-not-named", "to_entries"),
    "keyed-balances.json": (lambda: KEYED, "array-not-named", "to_entries"),
    "keyed-large.json": (lambda: KEYED[:-1] + b" " * 5_000_000 + b"}", "array-not-named", "to_entries"),
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
        read(path)
    assert caught.value.exit_code == 2


def test_a_form_named_by_a_setting_is_read_whatever_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "rows.export").write_text("id|name\n1|Ana\n")
    source = open_source([Input(str(tmp_path / "rows.export"))], form=Form("|"))
    assert [json.loads(data) for span in source.spans() for data in span.cut(0, len(span))] == [
        {"id": "1", "name": "Ana"}
    ]
