"""Finding spans in JSON, and editing where it stands."""

from __future__ import annotations

import pytest

from streammig.masivo.edit import (
    NOT_JSON,
    Duplicate,
    Edit,
    additions,
    apply,
    cuts,
    duplicated,
    elements,
    faithful,
    members,
    shifted,
)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a":12,"a":1}',
        b'{"a":1,"a":12}',
        b'{"a":12,"b":1,"a":1}',
        b'{"a":1,"b":2,"a":1 }',
        b'{"a":"x\\",\\"b\\":","a":"x"}',
        b'{"a":"x","\\u0061":"x"}',
        b'{"a":1, "b":1, "c":1, "b":1}',
        b'{"a":{},"a":{"b":1}}',
        b'{"a":"","a":""}',
    ],
)
def test_a_field_that_stands_twice_is_found_however_alike_the_values_are(data: bytes) -> None:
    with pytest.raises(Duplicate):
        members(data, 0, len(data))
    assert duplicated(b"[[7," + data + b"]]", 0, len(data) + 6)


def test_an_escaped_comma_proves_nothing() -> None:
    assert not faithful(b'"\\u002C"', ",")


@pytest.mark.parametrize("data", [b"", b"[", b'{"a"}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_raises_one_of_the_kinds_named(data: bytes) -> None:
    for look in (members, elements, duplicated):
        with pytest.raises((*NOT_JSON, IndexError)):
            look(data, 0, len(data))


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ([True, True, True], b'{ "a":1 , "b":2 , "c":3 }'),
        ([False, True, True], b'{ "b":2 , "c":3 }'),
        ([True, False, True], b'{ "a":1 , "c":3 }'),
        ([True, True, False], b'{ "a":1 , "b":2 }'),
        ([False, False, True], b'{ "c":3 }'),
        ([True, False, False], b'{ "a":1 }'),
        ([False, True, False], b'{ "b":2 }'),
        ([False, False, False], b"{  }"),
    ],
)
def test_fields_are_cut_and_added_with_their_commas(keep: list[bool], left: bytes) -> None:
    data = b'{ "a":1 , "b":2 , "c":3 }'
    spans = [member.part for member in members(data, 0, len(data)).values()]
    edits = list(cuts(spans, keep))
    assert apply(data, edits) == left
    edits += additions(0, spans, keep, [b'"d":4', b'"e":5'])
    comma = b"," if any(keep) else b""
    assert apply(data, edits) == left[:-2] + comma + b'"d":4,"e":5 }'
    assert shifted(len(data), edits) == len(apply(data, edits))


def test_fields_are_added_to_an_empty_object() -> None:
    assert apply(b"{ }", additions(0, [], [], [b'"d":4'])) == b'{"d":4 }'
    assert list(additions(0, [], [], [])) == []


def test_a_part_can_be_edited_by_itself() -> None:
    assert apply(b"0123456789", [Edit(6, 7, b""), Edit(4, 5, b"xyz")], 3, 8) == b"3xyz57"
