"""Framing: records as spans with exact positions, bad ones as faults, many at once and one by one."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammig.errors import BrokenExport
from streammig.model import START, Place
from streammig.sources import FileSource, Input, open_source
from streammig.sources.frame import Framer
from streammig.sources.valid import check_record
from tests.judges import JUDGES, OF_CUSTOMERS
from tests.spans import Slice, slices


@pytest.fixture(params=["many at once", "one by one", *JUDGES[1:]])
def framing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to take elements: what is true of one is true of the others."""
    if request.param == "compiled":
        monkeypatch.setattr(FileSource, "_judge", OF_CUSTOMERS)
    if request.param == "one by one":
        monkeypatch.setattr(Framer, "_take_many", lambda self: False)
    return str(request.param)


def source_of(folder: Path, data: bytes, path: Any = None, **settings: Any) -> FileSource:
    file = folder / "export"
    file.write_bytes(data)
    return open_source([Input(str(file), path)], **settings)


def read(source: FileSource, start: Place = START) -> tuple[list[Slice], BrokenExport | None]:
    found: list[Slice] = []
    try:
        for span in source.spans(start):
            assert span
            found += slices(span)
    except BrokenExport as error:
        return found, error
    return found, None


def codes(found: list[Slice]) -> list[str]:
    return [it.code for it in found]


def test_a_fault_is_placed_by_its_line_or_where_there_is_none_by_its_byte() -> None:
    assert check_record(b'{"a":1,}')[1] == "no valid JSON at byte 8 of the record: trailing comma in object"


# -- records that are none ------------------------------------------------------------------------------------------


def test_elements_that_are_no_objects_are_records_too(framing: str, tmp_path: Path) -> None:
    elements = [b"1", b'"x]"', b"null", b"true", b"[[1],2]", b"-1.5e3", b'{"id":1}', b'"\\""', b"{}", b"[]"]
    data = b"[" + b" ,\n".join(elements) + b"]"
    found, broken = read(source_of(tmp_path, data, read_bytes=1))
    assert broken is None
    assert [it.data for it in found] == elements


@pytest.mark.parametrize("ndjson", [False, True])
def test_bad_text_in_one_record_is_its_fault_and_the_rest_goes_on(ndjson: bool, framing: str, tmp_path: Path) -> None:
    records = [b'{"id":%d}' % index for index in range(3000)]
    records[1000] = b'{"id":"Jos\xe9"}'
    records[2000] = rb'{"id":"\ud800"}'
    records[2001] = rb'{"id":"\ude00x"}'
    records[2002] = rb'{"id":"\\ud800"}'
    records[2003] = rb'{"id":"\ud83d\ude00"}'
    records[2500] = b'{"id":"\xed\xa0\x80"}'
    data = b"\n".join(records) if ndjson else b"[" + b",".join(records) + b"]"
    found, broken = read(source_of(tmp_path, data))
    assert broken is None
    assert [it.data for it in found] == records
    bad = {it.ordinal - 1: it.code for it in found if it.code}
    assert bad == {1000: "invalid-utf8", 2000: "lone-surrogate", 2001: "lone-surrogate", 2500: "invalid-utf8"}
    assert found[1000].fault == "byte 11 of the record belongs to no valid UTF-8 sequence"
    assert "Jos" not in "".join(it.fault for it in found)


@pytest.mark.parametrize("ndjson", [False, True])
@pytest.mark.parametrize("read_bytes", [1, 64, 1 << 20])
def test_a_record_over_the_limit_is_named_with_its_length(
    ndjson: bool, read_bytes: int, framing: str, tmp_path: Path
) -> None:
    big = b'{"id":"' + b"]}," * 200 + rb'\ud800",  "more":[{"a":"\"}"},' + b"12345" * 100 + b"]}"
    records = [b'{"id":1}', big, b'{"id":3}', b'"' + b"y" * 600 + b'"', b"1" * 700, b"[" * 300 + b"]" * 300]
    data = b"\n".join(records) + b"\n" if ndjson else b"[" + b", ".join(records) + b" ]"
    found, broken = read(source_of(tmp_path, data, max_record_bytes=500, read_bytes=read_bytes))
    assert broken is None
    assert codes(found) == ["", "too-large", "", "too-large", "too-large", "too-large"]
    assert [it.length for it in found] == [len(record) for record in records]
    assert [it.offset for it in found] == [data.index(record) for record in records]
    assert found[1].data == b""
    assert found[1].fault == f"the record has {len(big)} bytes, the limit is 500"


def test_a_record_at_the_limit_is_one(framing: str, tmp_path: Path) -> None:
    record = b'{"id":"%s"}' % (b"x" * 490)
    found, _ = read(source_of(tmp_path, b"[" + record + b"," + record[:-2] + b'x"}]', max_record_bytes=499))
    assert codes(found) == ["", "too-large"]


def test_a_record_whose_end_is_out_of_sight_ends_the_stage(framing: str, tmp_path: Path) -> None:
    data = b'[{"id":1},{"id":"' + b"x" * 100_000 + b'"}]'
    found, broken = read(source_of(tmp_path, data, max_record_bytes=1000, read_bytes=1000))
    assert [it.ordinal for it in found] == [1]
    assert broken is not None
    assert broken.offset == 10
    assert "element 2 of the array has no end within" in str(broken)


@pytest.mark.parametrize("ndjson", [False, True])
def test_deep_nesting_is_a_fault_and_no_crash(ndjson: bool, framing: str, tmp_path: Path) -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    records = [b'{"id":1}', deep, b'{"id":2}']
    data = b"\n".join(records) if ndjson else b"[" + b",".join(records) + b"]"
    found, broken = read(source_of(tmp_path, data))
    assert broken is None
    assert codes(found) == ["", "too-deep", ""]


@pytest.mark.parametrize("number", [b"9" * 10_000, b"1e" + b"9" * 30, b"-0." + b"1" * 10_000, b"1" * 5000 + b".5"])
def test_a_number_of_any_size_is_left_to_the_rules(number: bytes, framing: str, tmp_path: Path) -> None:
    data = b'{"n":' + number + b',"c":[{"id":' + number + b"}," + number + b'],"m":' + number + b"}"
    found, broken = read(source_of(tmp_path, data, ("c",)))
    assert broken is None
    assert [it.data for it in found] == [b'{"id":' + number + b"}", number]
    assert codes(found) == ["", ""]


# -- documents that break off ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "good", "at"),
    [
        (b'[{"a":1},{"b":2}', 2, 16),
        (b'[{"a":1},{"b":2', 1, 15),
        (b'[{"a":1},', 1, 9),
        (b'[{"a":1},]', 1, 9),
        (b'[{"a":1},,{"b":2}]', 1, 9),
        (b'[{"a":1} {"b":2}]', 1, 9),
        (b'[{"a":1}}', 1, 8),
        (b'[,{"a":1}]', 0, 1),
        (b'[{"a":1},{"b":2,}]', 1, 16),
        (b'[{"a":1},{"b":01}]', 1, 15),
        (b'[{"a":1},{"b":NaN}]', 1, 14),
        (b'[{"a":1},{"b":"\x01"}]', 1, 15),
        (b'[{"a":1},{"b":"\\x"}]', 1, 16),
        (b'[{"a":1},{"b":\x0c1}]', 1, 14),
        (b'[{"a":1},{"b":[1}]', 1, 16),
        (b'[{"a":1},nul]', 1, 12),
        (b'[{"a":1},01]', 1, 10),
        (b'[{"a":1},tru', 1, 12),
        (b'[{"a":1}]{"b":[', 1, 9),
    ],
)
def test_all_before_the_break_is_delivered_and_the_byte_is_named(
    text: bytes, good: int, at: int, framing: str, tmp_path: Path
) -> None:
    for read_bytes in (1, 1 << 20):
        source = source_of(tmp_path, text, (), read_bytes=read_bytes)
        found, broken = read(source)
        assert len(found) == good
        assert broken is not None
        assert broken.offset == at, broken
        assert broken.exit_code == 2


@pytest.mark.parametrize(("rest", "at"), [(b"", 0), (b',"x":[1,2}}', 9), (b',"x":1', 6), (b',"x"', 4)])
def test_a_document_is_read_to_its_end_behind_the_array(rest: bytes, at: int, framing: str, tmp_path: Path) -> None:
    array = b'{"c":[{"a":1},{"a":2}]'
    found, broken = read(source_of(tmp_path, array + rest, ("c",), read_bytes=3))
    assert len(found) == 2
    assert broken is not None
    assert broken.offset == len(array) + at


@pytest.mark.parametrize("rest", [b"]", b" x", b"\x00", b' "x', b"}", b","])
def test_text_behind_a_whole_document_is_passed_over_and_told_with_its_byte(
    rest: bytes, framing: str, tmp_path: Path
) -> None:
    array = b'[{"a":1}]'
    source = source_of(tmp_path, array + rest, ())
    told: list[BrokenExport] = []
    assert read(source)[1] is None
    assert [len(span) for span in source.spans(told=told.append)] == [1]
    assert [(it.whole, it.offset) for it in told] == [(True, len(array) + rest.startswith(b" "))]


def test_text_behind_the_array_is_judged_by_its_grammar_alone(framing: str, tmp_path: Path) -> None:
    data = b'{"c":[{"a":1}],"events":[{"id":"\xff\\ud800"}]}\n'
    assert read(source_of(tmp_path, data, ("c",), read_bytes=1))[1] is None


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 5, 8])
def test_other_arrays_are_passed_over_wherever_reads_end(read_bytes: int, framing: str, tmp_path: Path) -> None:
    others = b'"x":[ \n "id" ,1],"y":[ \n {"id":1}\n ,\n{"id":[ {"c":[ ]} ]} \n ] ,"z":[ ]'
    data = b"{" + others + b',"c": [ {"id":9} ] ,' + others + b"}"
    found, broken = read(source_of(tmp_path, data, ("c",), read_bytes=read_bytes))
    assert [it.data for it in found] == [b'{"id":9}']
    assert broken is None


def test_a_long_rest_is_checked_to_its_last_byte(framing: str, tmp_path: Path) -> None:
    data = b'{"c":[{"a":1}],"x":[' + b'{"a":"\\\\"},' * 30_000 + b'{"a":2}]}'
    assert read(source_of(tmp_path, data, ("c",)))[1] is None
    found, broken = read(source_of(tmp_path, data[:-2] + b"}}", ("c",)))
    assert len(found) == 1
    assert broken is not None
    assert len(data) - 70_000 < broken.offset < len(data)


# -- NDJSON ---------------------------------------------------------------------------------------------------------


def test_a_bad_line_is_a_fault_with_line_and_column_and_no_content(tmp_path: Path) -> None:
    lines = [b'{"id":1}', b'{"id":"secret",}', b"", b'{"id":"sec', b"secret", b'{"a":1} {"b":2}', b'{"id":2}  \r']
    found, broken = read(source_of(tmp_path, b"\n".join(lines), read_bytes=5))
    assert broken is None
    assert [(it.ordinal, it.code) for it in found] == [
        (1, ""), (2, "invalid-json"), (4, "invalid-json"), (5, "invalid-json"), (6, "invalid-json"), (7, ""),
    ]  # fmt: skip
    assert found[1].fault == "no valid JSON at byte 16 of the record: trailing comma in object"
    assert "byte 11 of the record: it ends too early" in found[2].fault
    assert not any("sec" in it.fault for it in found)
    assert found[5].data == b'{"id":2}'


@pytest.mark.parametrize("last", [b'{"id":3,"name":"Mar', b'{"id":3', b'  {"id":[1,', b'{"id":tr', b'"\\u00'])
def test_a_file_of_lines_that_was_cut_inside_its_last_one_breaks_off_there(last: bytes, tmp_path: Path) -> None:
    whole = b'{"id":1}\n{"id":2}\n'
    found, broken = read(source_of(tmp_path, whole + last, read_bytes=7))
    assert [it.data for it in found] == [b'{"id":1}', b'{"id":2}']
    assert broken is not None
    assert broken.offset == len(whole)
    assert "line 3 has neither its end nor a newline" in broken.what
    assert "Mar" not in str(broken)
    # With a newline behind it somebody meant it as a line: a dead letter.
    found, broken = read(source_of(tmp_path, whole + last + b"\n"))
    assert (len(found), found[-1].code, broken) == (3, "invalid-json", None)


@pytest.mark.parametrize("last", [b'{"id":3}', b'{"id":3,}', b'{"id":3}}', b"   ", b""])
def test_the_last_line_needs_no_newline(last: bytes, tmp_path: Path) -> None:
    found, broken = read(source_of(tmp_path, b'{"id":1}\n' + last))
    assert broken is None
    assert len(found) == 1 + bool(last.strip())


def test_long_blank_stretches_in_lines_are_no_records(tmp_path: Path) -> None:
    blank = b" " * 5000
    data = b'{"id":1}\n' + blank + b"\n" + blank + b'{"id":2}' + blank + b"\r\n" + blank + b'{"id":3,}' + blank
    found, broken = read(source_of(tmp_path, data, max_record_bytes=100, read_bytes=64))
    assert broken is None
    assert [(it.ordinal, it.length, it.code) for it in found] == [(1, 8, ""), (3, 8, ""), (4, 9, "invalid-json")]
    assert all(data[it.offset : it.offset + it.length] == it.data for it in found)


# -- positions ------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "a", "]}"]), inner, max_size=3),
    max_leaves=8,
)
BLANKS = st.text(" \t\r\n", max_size=3).map(str.encode)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), values=st.lists(VALUES, min_size=1, max_size=30), ndjson=st.booleans())
def test_from_any_place_on_the_rest_is_the_same(
    data: st.DataObject, values: list[Any], ndjson: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode() for value in values]
    if ndjson:
        texts[0] = b'{"id":1}'  # so that it is told from a document
        blanks = st.sampled_from([b"\n", b"\r\n", b" \n", b"\n\n", b"\n \r\n"])
        whole = b"".join(text + data.draw(blanks) for text in [*texts, b'{"id":2}'])
        texts.append(b'{"id":2}')
    else:
        gaps = [data.draw(BLANKS) + b"," + data.draw(BLANKS) for _ in texts[1:]]
        parts = [texts[0], *(gap + text for gap, text in zip(gaps, texts[1:], strict=True))]
        whole = b'{"c":[' + data.draw(BLANKS) + b"".join(parts) + data.draw(BLANKS) + b"]}"
    folder = tmp_path_factory.mktemp("places")
    size = data.draw(st.sampled_from([1, 5, 1 << 20]))
    source = source_of(folder, whole, None if ndjson else ("c",), read_bytes=size)
    found, broken = read(source)
    assert broken is None
    assert [it.data for it in found] == texts
    assert [whole[it.offset : it.offset + it.length] for it in found] == texts
    at = data.draw(st.integers(0, len(found) - 1))
    it = found[at]
    assert read(source, Place(0, it.offset, 3, it.ordinal)) == (found[at:], None)
    behind = it.offset + it.length
    assert read(source, Place(0, behind, 0, it.ordinal + 1)) == (found[at + 1 :], None)


def test_a_place_in_a_later_file_passes_over_the_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b'[{"id":1}]')
    second.write_bytes(b'[{"id":2},{"id":3}]')
    source = open_source([Input(str(first)), Input(str(second))])
    first.unlink()
    assert [it.data for it in read(source, Place(1))[0]] == [b'{"id":2}', b'{"id":3}']
    assert [it.position.ordinal for it in read(source, Place(1, 9, 0, 2))[0]] == [2]


def test_iterators_do_not_disturb_each_other(framing: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, b"[" + b",".join([b'{"id":1}'] * 5000) + b"]")
    spans = source.spans()
    first = next(spans)
    assert len(read(source)[0]) == 5000
    assert len(first) + sum(map(len, spans)) == 5000


# -- work and memory ------------------------------------------------------------------------------------------------


def nested(index: int) -> bytes:
    """A record whose lists begin as it does."""
    events = ",".join(f'{{"id":{event},"x":{{"id":1}}}}' for event in range(index % 7))
    return f'{{"id":{index},"events":[{events}],"tail":{{"id":[{{"id":2}}]}}}}'.encode()


HARD = {
    "nested": [nested(index) for index in range(10_000)],
    "brackets in strings": [b'{"id":"}]},{\\"id\\":","x":"{[{[\\\\"}'] * 15_000,
    "another first key each": [b'{"k%d":1,"v":[{"k%d":2}]}' % (index, index) for index in range(20_000)],
    "numbers": [b"%d" % index for index in range(50_000)],
    "arrays": [b'[[%d],[{"id":1}]]' % index for index in range(25_000)],
    "strings": [b'"}],[{%d,"' % index for index in range(25_000)],
    "small then large": [b'{"id":1}', b'{"id":[%s]}' % b",".join([b'{"id":1}'] * 30_000)] * 5,
    "large": [b'{"id":[%s]}' % b",".join([b'{"id":1}'] * 100_000)] * 2,
    "a bad one now and then": ([b'{"id":1,"x":"%s"}' % (b"x" * 60)] * 200 + [rb'{"id":"\udc00"}']) * 50,
    "bad ones only": [rb'{"id":"\udc00"}'] * 10_000,
    "deep": [b'{"a":' * 30 + b"1" + b"}" * 30] * 5000,
    "empty": [b"{}"] * 25_000,
    "open strings that look like records": [b'{"id":"' + b'},{\\"id\\":1' * 3000 + b'"}'] * 30,
}


@pytest.mark.parametrize("name", HARD)
def test_no_document_makes_framing_parse_much_more_than_it_holds(name: str, framing: str, tmp_path: Path) -> None:
    records = HARD[name]
    data = b"[" + b",".join(records) + b"]"
    source = source_of(tmp_path, data, ())
    before = source.meter.parsed
    found, broken = read(source)
    assert broken is None
    assert [it.data for it in found] == records
    assert source.meter.parsed - before <= (8 if framing == "many at once" else 4) * len(data)


def test_a_wrong_guess_never_makes_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammig.sources.frame.FIRST_TRY", 64)
    monkeypatch.setattr("streammig.sources.frame.LEAST_TRY", 16)
    for name in ("nested", "brackets in strings", "arrays", "strings", "numbers"):
        records = HARD[name][:400]
        found, broken = read(source_of(tmp_path, b"[" + b" ,".join(records) + b"]", (), read_bytes=50))
        assert broken is None
        assert [it.data for it in found] == records


@pytest.mark.parametrize("gaps", [[b",", b", "], [b", ", b","], [b" , ", b"\n,"], [b",\n", b",\n "]])
@pytest.mark.parametrize("odd", [1, 2, 500, 998, 999])
def test_offsets_are_exact_where_one_gap_differs(gaps: list[bytes], odd: int, tmp_path: Path) -> None:
    records = [b'{"id":%d,"x":" , , ,"}' % index for index in range(1000)]
    parts = [records[0], *((gaps[1] if index == odd else gaps[0]) + it for index, it in enumerate(records[1:], 1))]
    data = b"[" + b"".join(parts) + b"]"
    found, broken = read(source_of(tmp_path, data))
    assert broken is None
    assert [data[it.offset : it.offset + it.length] for it in found] == records


@pytest.mark.parametrize("ndjson", [False, True])
@pytest.mark.parametrize(
    ("size", "most_records", "most_bytes"),
    [(8, 2500, 80_000), (300, 1000, 200_000), (3000, 128, 200_000), (400_000, 4, 1_700_000)],
)
def test_spans_are_neither_tiny_nor_huge(
    size: int, most_records: int, most_bytes: int, ndjson: bool, framing: str, tmp_path: Path
) -> None:
    count = 6_000_000 // max(size, 100)
    record = b'{"id":1}' if size == 8 else b'{"id":"%s"}' % (b"x" * size)
    data = b"\n".join([record] * count) if ndjson else b"[" + b",".join([record] * count) + b"]"
    spans = list(source_of(tmp_path, data).spans())
    assert sum(map(len, spans)) == count
    assert max(map(len, spans)) <= most_records
    assert max(len(span.data) for span in spans) <= most_bytes
    # But for the first ones, and where reads end, they hold what is worth a call.
    assert len(spans) <= 8 + len(data) // min(60_000, 900 * len(record)) + len(data) // (1 << 20)


def test_a_span_holds_its_bytes_as_they_stand_and_no_object_of_ours_for_a_clean_record(tmp_path: Path) -> None:
    records = [b'{"id":%d}' % index for index in range(2000)]
    for data in (b'{"c":[ ' + b" ,\n".join(records) + b" ]}", b"\n".join(records)):
        at = 0
        for span in source_of(tmp_path, data).spans():
            assert data[span.offset : span.offset + len(span.data)] == span.data
            assert span.cut(0, len(span)) == records[at : at + len(span)]
            assert [*span.ordinals] == [*range(at + 1, at + len(span) + 1)]
            assert not span.faults
            assert {type(it) for it in (*span.starts, *span.ends)} == {int}
            at += len(span)
        assert at == 2000


@pytest.mark.parametrize("ndjson", [False, True])
def test_memory_does_not_grow_with_the_export(ndjson: bool, framing: str, tmp_path: Path) -> None:
    record = b'{"id":"%s"}' % (b"x" * 1000)
    peaks = []
    for count in (3000, 12_000):
        data = b"\n".join([record] * count) if ndjson else b"[" + b",".join([record] * count) + b"]"
        source = source_of(tmp_path, data)
        del data
        tracemalloc.start()
        for _ in source.spans():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 12 << 20
    assert peaks[1] < peaks[0] + (2 << 20)
