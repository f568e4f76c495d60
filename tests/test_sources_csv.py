"""CSV as a source: what a row is, where it stands, what is at fault alone, and where the export breaks off."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammig.errors import BrokenExport, Unusable
from streammig.model import START, Place
from streammig.sources import FileSource, Form, Input, check_form, open_source
from tests.problems import raises

Row = dict[str, str]


def source_of(folder: Path, data: bytes, name: str = "export.csv", form: Form | None = None, **more: Any) -> FileSource:
    (folder / name).write_bytes(data)
    return open_source([Input(str(folder / name))], form=form or Form(), **more)


def read(source: FileSource, start: Place = START) -> tuple[list[Any], list[Place], dict[int, str]]:
    """The records, the place of each, and the code of each that is at fault, by its index."""
    records: list[Any] = []
    places: list[Place] = []
    faults: dict[int, str] = {}
    for span in source.spans(start):
        for index, data in enumerate(span.cut(0, len(span))):
            if span.position(index).begin[:2] < start[:2]:
                continue
            if index in span.faults:
                faults[len(records)] = span.faults[index][1]
            records.append(json.loads(data))
            places.append(span.position(index).begin)
    return records, places, faults


READ = [
    (b"id,name\n1,Ana\n2,Luis\n", [{"id": "1", "name": "Ana"}, {"id": "2", "name": "Luis"}]),
    (b"id,name\r\n1,Ana\r\n", [{"id": "1", "name": "Ana"}]),
    (b"\xef\xbb\xbfid,name\n1,Ana", [{"id": "1", "name": "Ana"}]),
    (b'id,name\n1,"Ana, ""the\nfirst"""\n2,\n', [{"id": "1", "name": 'Ana, "the\nfirst"'}, {"id": "2"}]),
    (b"id,name\n\n1,\n\n", [{"id": "1"}]),
    (b'"id","full name"\n1,5" pipe\n', [{"id": "1", "full name": '5" pipe'}]),
    (b"id,name,\n1,Ana,\n", [{"id": "1", "name": "Ana"}]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "wanted"), READ)
def test_a_row_is_an_object_of_texts_without_its_empty_fields(tmp_path: Path, data: bytes, wanted: list[Row]) -> None:
    assert read(source_of(tmp_path, data))[0] == wanted


FORMS = [
    ("export.tsv", Form(), b"id\tname\n1\tAna\n", "Ana"),
    ("export.csv", Form(";"), b"id;name\n1;Ana\n", "Ana"),
    ("export.txt", Form("tab"), b"id\tname\n1\tAna\n", "Ana"),
    ("export.csv", Form("", "cp1252"), b"id,name\n1,P\xe9rez\n", "P\u00e9rez"),
    ("export.csv.gz", Form(), gzip.compress(b"id,name\n1,Ana\n", mtime=0), "Ana"),
]


@pytest.mark.parametrize(("name", "form", "data", "wanted"), FORMS)
def test_delimiter_and_encoding_are_by_setting_or_name(
    tmp_path: Path, name: str, form: Form, data: bytes, wanted: str
) -> None:
    assert read(source_of(tmp_path, data, name, form))[0] == [{"id": "1", "name": wanted}]


FAULTS = [
    (b"id,name\n1,Ana,x\n2,Luis\n", "invalid-csv"),
    (b"id,name\n1\n2,Luis\n", "invalid-csv"),
    (b'id,name\n1,"Ana"x\n2,Luis\n', "invalid-csv"),
    (b"id,name\n1,\xff\n2,Luis\n", "invalid-utf8"),
    (b"id,\n1,x\n2,\n", "invalid-csv"),
    (b"id,name\n1," + b"x" * 2000 + b"\n2,Luis\n", "too-large"),
]


@pytest.mark.parametrize(("data", "code"), FAULTS)
def test_a_row_at_fault_is_its_own_fault_and_keeps_its_text(tmp_path: Path, data: bytes, code: str) -> None:
    records, _, faults = read(source_of(tmp_path, data, max_record_bytes=1000))
    assert faults == {0: code}
    assert records[0].startswith("1")
    assert records[1]["id"] == "2"


BROKEN = [
    (b"id,name\n1,Ana\n2", 14),
    (b'id,name\n1,Ana\n2,"Lu\n3,Eva\n', 14),
    (b'id,name\n1,Ana\n2,"Lu"is"\n3,Eva\n4,x\n', 14),
    (b'id,name\n1,Ana\n2,"' + b"x\n" * 5000, 14),
]


@pytest.mark.parametrize(("data", "offset"), BROKEN)
def test_where_the_end_of_a_row_cant_be_told_the_export_breaks_off_at_its_beginning(
    tmp_path: Path, data: bytes, offset: int
) -> None:
    got: list[bytes] = []
    source = source_of(tmp_path, data, max_record_bytes=1000, read_bytes=512)
    with pytest.raises(BrokenExport) as caught:
        got.extend(record for span in source.spans() for record in span.cut(0, len(span)))
    assert [json.loads(each)["id"] for each in got] == ["1"]
    assert caught.value.offset == offset


HEADERS = [
    (b"id,name,id\n1,2,3\n", "csv-header"),
    (b"id;name\n1;2\n", "csv-delimiter"),
    (b"id,name\r1,Ana\r", "csv-header"),
    (b'"id,name\n1,Ana\n', "csv-header"),
    (b"id,n\xff\n1,Ana\n", "csv-header"),
    ("id,name\n1,Ana\n".encode("utf-16"), "export-not-utf8"),
]


@pytest.mark.parametrize(("data", "code"), HEADERS)
def test_what_is_no_header_is_refused_before_a_row_is_read(tmp_path: Path, data: bytes, code: str) -> None:
    with raises(Unusable, code):
        source_of(tmp_path, data)


@pytest.mark.parametrize("form", [Form(";;"), Form('"'), Form("", "utf-16"), Form("", "klingon")])
def test_a_form_that_no_row_can_have_is_refused(form: Form) -> None:
    with raises(Unusable, "settings-invalid"):
        check_form("[customers]", form)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT), max_size=12),
    ended=st.sampled_from(["\n", "\r\n", "\n\n"]),
    size=st.integers(8, 64),
)
def test_any_rows_are_read_as_written_and_from_the_place_of_each(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ended: str, size: int
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=ended, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    data = text.getvalue().encode()
    source = source_of(tmp_path_factory.mktemp("rows"), data, read_bytes=size)
    wanted = [{name: value for name, value in zip("ab", row, strict=True) if value} for row in rows]
    records, places, faults = read(source)
    assert records == wanted
    assert not faults
    for index, place in enumerate(places):
        assert place.ordinal == 1 + data.count(b"\n", 0, place.offset)
        assert read(source, place)[:2] == (wanted[index:], places[index:])
    for end in [span.position(at).end for span in source.spans() for at in range(len(span))]:
        assert read(source, end)[1] == [place for place in places if place.offset >= end.offset]
