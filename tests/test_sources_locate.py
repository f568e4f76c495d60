"""What an export is found to be: which array of a document, or NDJSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from streammig.errors import BrokenExport, Unusable
from streammig.sources import FileSource, Input, locate, open_source, parse_input
from tests.problems import raises
from tests.spans import records_of

ONE, TWO = b'{"id":1}', b'{"id":2}'


def source_of(folder: Path, data: bytes, path: str = "", name: str = "export.json") -> FileSource:
    file = folder / name
    file.write_bytes(data)
    return open_source([parse_input(f"{file}{path}")])


def texts(source: FileSource) -> list[bytes]:
    return [it.data for it in records_of(source)]


def mark(source: FileSource) -> tuple[str, str | None]:
    print_ = source.fingerprints()[0]
    return print_["format"], print_["path"]


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'[{"id":1},{"id":2}]', ""),
        (b"[\n" + ONE + b",\n" + TWO + b"\n]", ""),
        (b'{"customers":[{"id":1},{"id":2}]}', "customers"),
        (b'{"customers":[\n{"id":1}\n,{"id":2}]}', "customers"),
        (b'{"meta":{"tags":["a"],"n":[],"m":[[1]],"e":[{"id":3}]},"list":[{"id":1},{"id":2}],"z":[1]}', "list"),
        (b'{"a.b\\"":[{"id":1},{"id":2}]}', '"a.b\\""'),
        ('{"données":[{"id":1},{"id":2}]}'.encode(), "données"),
        (b'{"x":"]}[{","c":[{"id":1},{"id":2}]}', "c"),
        (b'{"12345678901234567890":[{"id":1},{"id":2}]}', "12345678901234567890"),
    ],
)
def test_the_one_obvious_array_is_found_and_its_path_can_be_typed(data: bytes, path: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, data)
    assert mark(source) == ("json", path)
    assert texts(source) == [ONE, TWO]
    assert texts(source_of(tmp_path, data, f"#{path}")) == [ONE, TWO]


def test_arrays_inside_the_records_are_no_candidates(tmp_path: Path) -> None:
    record = b'{"id":1,"events":[{"id":2}]}'
    assert texts(source_of(tmp_path, b'{"c":[' + record + b"]}")) == [record]


def test_an_array_in_an_array_is_reached_by_its_index(tmp_path: Path) -> None:
    data = b'[[{"a":[{"id":0}]}],[{"id":1},{"id":2}]]'
    source = source_of(tmp_path, data, "#1")
    assert texts(source) == [ONE, TWO]
    assert mark(source) == ("json", "1")
    assert texts(source_of(tmp_path, data, "#0.0.a")) == [b'{"id":0}']


@pytest.mark.parametrize(
    ("data", "listed", "example"),
    [
        (
            b'{"c":[{"id":1}],"d":[{"id":2}],"x":[1],"e":[],"n":["a"]}',
            "c: objects, d: objects, x: values, e: empty, n: strings",
            "c",
        ),
        (b'{"x":[1],"data":{"a.b":[{"id":1,"sub":[{"id":2}]}]}}', 'x: values, data."a.b": objects', 'data."a.b"'),
        (b'{"meta":{"total":0},"data":{"customers":[]}}', "data.customers: empty", "path.to.array"),
        (b'{\n"a":[],\n"b":[]}', "a: empty, b: empty", "path.to.array"),
        (b'{"a":[[{"id":1}]]}', "a: arrays, a.0: objects", "a.0"),
    ],
)
def test_where_no_array_is_obvious_those_there_are_named_and_how_to_type_one(
    data: bytes, listed: str, example: str, tmp_path: Path
) -> None:
    with pytest.raises(Unusable) as caught:
        source_of(tmp_path, data)
    assert caught.value.code == "array-not-named"
    assert caught.value.what.split(":\n", 1)[1] == "\n".join(f"  {line}" for line in listed.split(", "))
    assert f"FILE#{example}." in caught.value.hint
    if example != "path.to.array":
        assert texts(source_of(tmp_path, data, f"#{example}"))


@pytest.mark.parametrize(
    ("data", "path", "listed"), [(b'{"a":["x"],"b":{"c":{}}}', "#b.c", "  a: strings"), (b"{}", "#", "  none")]
)
def test_a_path_that_is_not_there_names_the_arrays_that_are(
    data: bytes, path: str, listed: str, tmp_path: Path
) -> None:
    with pytest.raises(Unusable) as caught:
        source_of(tmp_path, data, path)
    assert caught.value.code == "array-not-found"
    assert caught.value.what.endswith(f"arrays seen:\n{listed}")


def test_the_choice_is_made_in_the_first_mebibytes(tmp_path: Path) -> None:
    filler = b'"' + b"x" * (locate.LOOK_BYTES + 100_000) + b'"'
    # A second array behind them is not looked for, a first one is.
    near = b'{"c":[{"id":1},{"id":2}],"x":' + filler + b',"d":[{"id":3}]}'
    assert texts(source_of(tmp_path, near)) == [ONE, TWO]
    far = b'{"x":' + filler + b',"d":[{"id":1},{"id":2}]}'
    assert texts(source_of(tmp_path, far)) == [ONE, TWO]


def test_a_file_without_an_array_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "LOOK_AT_MOST", 1 << 20)
    monkeypatch.setattr(locate, "LOOK_BYTES", 1 << 16)
    with pytest.raises(Unusable, match=r"seen up to byte 1\d{6}:"):
        source_of(tmp_path, b'{"x":[' + b"1," * (1 << 20) + b'1],"c":[{"id":1}]}')


@pytest.mark.parametrize(
    "data",
    [
        ONE + b"\n" + TWO,
        b"\n\r\n" + ONE + b"\r\n" + TWO + b"\r\n",
        b'{"id":1,}\n' + ONE + b"\n" + TWO,
        b"id,name\n" + ONE + b"\n" + TWO,
        b'{"id":"\\ud800"}\n' + ONE + b"\n" + TWO,
        b'{"id":"cut\n' + ONE + b"\n" + TWO,
        b"123\n" + ONE + b"\n" + TWO,
        ONE + b"\nbad\n" + TWO,
    ],
)
def test_one_object_a_line_is_ndjson_whichever_line_is_bad(data: bytes, tmp_path: Path) -> None:
    source = source_of(tmp_path, data)
    assert mark(source) == ("ndjson", None)
    good = [it.data for it in records_of(source) if not it.code and it.data != b"123"]
    assert good == [ONE, TWO]


def test_a_single_object_is_a_document_if_it_holds_an_array_of_objects(tmp_path: Path) -> None:
    line = b'{"id":9,"x":[{"id":1},{"id":2}]}\n'
    assert texts(source_of(tmp_path, line)) == [ONE, TWO]
    assert texts(source_of(tmp_path, b'{"id":9,"x":[1]}\n')) == [b'{"id":9,"x":[1]}']
    # The name decides where the content can't.
    for name in ("export.ndjson", "export.JSONL", "export.jsonl.gz"):
        assert texts(source_of(tmp_path, line, name=name)) == [line.strip()]


def test_a_shard_of_one_line_is_what_the_others_of_its_stage_are(tmp_path: Path) -> None:
    lines = [b'{"id":9,"x":[{"id":1}]}', b'{"id":8,"x":[{"id":2}]}', b'{"id":7,"x":[{"id":3}]}']
    names = [str(tmp_path / name) for name in ("a.json", "b.json")]
    Path(names[0]).write_bytes(lines[0] + b"\n")
    Path(names[1]).write_bytes(lines[1] + b"\n" + lines[2] + b"\n")
    assert texts(open_source(list(map(Input, names)))) == lines


def test_a_line_longer_than_the_look_is_one_by_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "LOOK_BYTES", 1 << 16)
    line = b'{"id":9,"x":[%b]}' % b",".join([b'{"id":1}'] * 200_000)
    source = source_of(tmp_path, line + b"\n" + ONE, name="export.ndjson")
    assert texts(source) == [line, ONE]


def test_an_empty_array_has_no_records_if_it_is_named_or_the_whole_document(tmp_path: Path) -> None:
    assert list(source_of(tmp_path, b" [ ] ").spans()) == []
    assert list(source_of(tmp_path, b'{"c":[]}', "#c").spans()) == []


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'{"customers":[]}', "customers"),
        (b'{"customers": [ ]}\n', "customers"),
        (b'{\n  "customers": []\n}\n', "customers"),
        (b'{\n"total":0,"tags":["a"],\n"customers":[]}', "customers"),
    ],
)
def test_the_only_empty_array_of_a_document_is_an_export_of_no_records(data: bytes, path: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, data)
    assert mark(source) == ("json", path)
    assert texts(source) == []


def test_an_empty_array_in_a_record_makes_no_document_of_it(tmp_path: Path) -> None:
    record = b'{"id":"c1","balance":[]}'
    assert texts(source_of(tmp_path, record)) == [record]
    assert texts(source_of(tmp_path, b'{"customers":[]}', name="export.ndjson")) == [b'{"customers":[]}']


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (ONE + b"\n\xef\xbb\xbf" + TWO, ["", "invalid-json"]),
        (b"\xef\xbb\xbf" + ONE + b"\n\xef\xbb\xbf" + TWO + b"\n", ["", "invalid-json"]),
        (b"[]\n" + ONE + b"\n" + TWO, ["", "", ""]),
        (b"[ ]\n" + ONE, ["", ""]),
    ],
)
def test_a_strange_line_among_records_is_one_line_s_fault(data: bytes, codes: list[str], tmp_path: Path) -> None:
    source = source_of(tmp_path, data)
    assert mark(source) == ("ndjson", None)
    found = list(records_of(source))
    assert [it.code for it in found] == codes
    assert found[0].data.strip(b"[ ]") in (b"", ONE)


@pytest.mark.parametrize("data", [b"id,name\n1,2\n", b"<html></html>", b'"text"', b"42"])
def test_what_is_no_json_is_refused_with_what_was_looked_for(data: bytes, tmp_path: Path) -> None:
    with raises(Unusable, "export-not-json"):
        source_of(tmp_path, data)


@pytest.mark.parametrize("path", ["", "#c"])
@pytest.mark.parametrize("data", [b'{"a":{', b'{"a":tru}\n', b'{"a":[1,2', b'{\n"a":"\xc3', b'{"a":1,\n"b":[1]]'])
def test_a_document_that_breaks_off_before_an_array_names_the_byte(data: bytes, path: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenExport) as caught:
        source_of(tmp_path, data, path)
    assert 0 <= caught.value.offset <= len(data)


def test_arrays_beyond_those_listed_are_still_candidates(tmp_path: Path) -> None:
    many = b",".join(b'"a%d":[1]' % index for index in range(50))
    assert texts(source_of(tmp_path, b"{" + many + b',"c":[{"id":1},{"id":2}]}')) == [ONE, TWO]


def test_files_are_chained_and_each_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"c":[{"id":1}]}')
    (tmp_path / "b").write_bytes(ONE + b"\n" + TWO)
    source = open_source([Input(str(tmp_path / "a")), Input(str(tmp_path / "b"))])
    found = [(it.source, it.ordinal, it.data) for it in records_of(source)]
    assert found == [(0, 1, ONE), (1, 1, ONE), (1, 2, TWO)]
    assert [it["format"] for it in source.fingerprints()] == ["json", "ndjson"]
