"""A declared mapping: each conversion, what it leaves out, what it refuses, and that no value is in a message."""

from __future__ import annotations

import pickle
import tomllib
from decimal import Decimal
from typing import Any

import pytest

from streammig.errors import Unusable
from streammig.fields import FieldError, FieldMapping
from tests.problems import raises


def made(table: str, record: Any) -> Any:
    return FieldMapping("customers", tomllib.loads(table))(record)


CONVERSIONS = [
    ('x = "Name"', {"Name": "Ana"}, {"x": "Ana"}),
    ('x = "a.b"', {"a": {"b": 1}}, {"x": 1}),
    ('x = "a.b"', {"a.b": 2, "a": {"b": 1}}, {"x": 2}),
    ('x = "Name"', {"Name": ""}, {}),
    ('x = "Name"', {"Name": None}, {}),
    ('x = {constant = "MX"}', {}, {"x": "MX"}),
    ("x = {constant = 1.10}", {}, {"x": Decimal("1.1")}),
    ("x = {null = true}", {}, {"x": None}),
    ('x = {join = ["a", "b"]}', {"a": "Ana", "b": "Pérez"}, {"x": "Ana Pérez"}),
    ('x = {join = ["a", "b"], with = "-"}', {"a": "", "b": "Pérez"}, {"x": "Pérez"}),
    ('x = {join = ["a", "b"]}', {}, {}),
    ('x = {field = "a", trim = true, lower = true}', {"a": " Ab@C "}, {"x": "ab@c"}),
    ('x = {field = "a", strip = "\'"}', {"a": "'0012"}, {"x": "0012"}),
    ('x = {field = "a", strip = "\'", prefix = "C-"}', {"a": "'0012"}, {"x": "C-0012"}),
    ('x = {field = "a", text = true}', {"a": 12}, {"x": "12"}),
    ('x = {field = "a", split = ","}', {"a": "gold, , vip"}, {"x": ["gold", "vip"]}),
    ('x = {field = "a", number = "."}', {"a": "1,234.50"}, {"x": Decimal("1234.50")}),
    ('x = {field = "a", number = ","}', {"a": "1.234,50"}, {"x": Decimal("1234.50")}),
    ('x = {field = "a", number = ","}', {"a": Decimal("2.5")}, {"x": Decimal("2.5")}),
    ('x = {field = "a", yes_no = true}', {"a": "Yes"}, {"x": True}),
    ('x = {field = "a", yes_no = true}', {"a": "0"}, {"x": False}),
    ('x = {field = "a", map = {f = "FEMALE", m = "MALE"}}', {"a": "f"}, {"x": "FEMALE"}),
    ('x = {field = "a", map = {f = "FEMALE", "*" = ""}}', {"a": "?"}, {}),
    ('x = {field = "a", map = {true = "on"}}', {"a": True}, {"x": "on"}),
    ('x = {field = "a", date = "%d/%m/%Y", zone = "UTC"}', {"a": "04/05/2019"}, {"x": "2019-05-04T00:00:00+00:00"}),
    ('x = {field = "a", date = "%y%m%d %z"}', {"a": "240102 +0200"}, {"x": "2024-01-02T00:00:00+02:00"}),
    ('x = {field = "a", date = "%y%m%d", zone = "Europe/Madrid"}', {"a": "240701"}, {"x": "2024-07-01T00:00:00+02:00"}),
    ('x = {field = "a", number = "."}', {"a": "-1 234 567"}, {"x": Decimal(-1234567)}),
    ('x = {field = "a", epoch = true}', {"a": 1_700_000_000}, {"x": "2023-11-14T22:13:20Z"}),
    ('x = {field = "a", epoch_ms = true}', {"a": "1700000000500"}, {"x": "2023-11-14T22:13:20.500000Z"}),
    ('[y]\nz = "a"', {"a": 1}, {"y": {"z": 1}}),
    ('[y]\nz = "a"', {}, {}),
    ('[[b]]\nr = {constant = "R"}\namount = "p"', {"p": 5}, {"b": [{"r": "R", "amount": 5}]}),
    ('[[b]]\nr = {constant = "R"}\namount = "p"', {}, {"b": []}),
]  # fmt: skip


@pytest.mark.parametrize(("table", "record", "wanted"), CONVERSIONS)
def test_a_table_of_fields_makes_the_record_that_it_names(table: str, record: Any, wanted: Any) -> None:
    assert made(table, record) == wanted


REFUSED = [
    ('x = {field = "a", number = "."}', "12,5", "$.x"),
    ('x = {field = "a", number = ","}', "1,234.50", "$.x"),
    ('x = {field = "a", number = "."}', "secret", "$.x"),
    ('x = {field = "a", number = "."}', "NaN", "$.x"),
    ('x = {field = "a", yes_no = true}', "secret", "$.x"),
    ('x = {field = "a", map = {f = "FEMALE"}}', "secret", "$.x"),
    ('x = {field = "a", date = "%d/%m/%Y", zone = "UTC"}', "secret", "$.x"),
    ('x = {field = "a", date = "%d/%m/%Y"}', "04/05/2019", "$.x"),
    ('x = {field = "a", epoch = true}', "99999999999999999", "$.x"),
    ('x = {field = "a", lower = true}', ["secret"], "$.x"),
    ('[[b]]\namount = {field = "a", number = "."}', "secret", "$.b[0].amount"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "value", "path"), REFUSED)
def test_a_value_that_a_conversion_cant_take_is_refused_by_field_without_the_value(
    table: str, value: Any, path: str
) -> None:
    with pytest.raises(FieldError) as caught:
        made(table, {"a": value})
    assert caught.value.path == path
    assert caught.value.said.endswith(" (from a)")
    assert "secret" not in caught.value.said
    assert "04/05" not in caught.value.said


INVALID = [
    "x = 5",
    'x = {field = "a", constant = 1}',
    'x = {field = "a", upper = true}',
    'x = {field = "a", number = ";"}',
    'x = {field = "a", date = "%Y", zone = "Mars/Olympus"}',
    "x = {field = 5}",
    'x = {join = "a"}',
    "x = [5]",
]


@pytest.mark.parametrize("table", INVALID)
def test_a_table_that_means_nothing_is_refused_before_anything_is_read(table: str) -> None:
    with raises(Unusable, "fields-invalid"):
        made(table, {})


def test_a_record_that_is_no_object_is_refused() -> None:
    with pytest.raises(FieldError):
        made('x = "a"', ["a"])


def test_a_pickled_mapping_is_the_same_and_another_table_has_another_mark() -> None:
    mapping = FieldMapping("customers", {"x": "a"})
    copy = pickle.loads(pickle.dumps(mapping))
    assert copy({"a": 1}) == {"x": 1}
    assert copy.mark == mapping.mark != FieldMapping("customers", {"x": "b"}).mark


@pytest.mark.parametrize(
    ("table", "records", "unseen"),
    [
        ('x = "Name"', [{"Nme": 1}, {"Name": None}], []),
        ('x = "Nmae"', [{"Name": "Ana"}], [("Nmae", "Name")]),
        ('x = "a.b"', [{"a": {"b": None}}], []),
        ('x = "a.b"', [{"a.b": 1}], []),
        ('x = "a.c"', [{"a": {"b": 1}}, {"a": [1]}, 5], [("a.c", "")]),
        ('x = {join = ["Name", "Surname"]}', [{"Name": 1}], [("Surname", "")]),
    ],
)
def test_a_source_field_that_no_record_has_is_named_with_the_nearest_one(
    table: str, records: list[Any], unseen: list[tuple[str, str]]
) -> None:
    assert FieldMapping("customers", tomllib.loads(table)).unseen(records) == unseen
    assert FieldMapping("customers", {}, ["Gone"]).unseen(records) == [("Gone", "")]
