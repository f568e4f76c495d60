"""E-mails and date-times as exports have them, and as the target's contract takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streammig.errors import Unusable
from tests.problems import raises
from tests.spans import examine
from tests.test_masivo_rules import CUSTOMER, EVENT, ROW, grouped, made, refused, sent
from tests.test_masivo_rules_properties import run_of

LONG = "a" * 64


@pytest.mark.parametrize(
    "email", ["a+b_c@x-y.example", f"{LONG}@x", "o'neil@x.co", "straße@bücher.example", "用户@例え.jp", "a-.b@1.2"]
)
def test_an_email_of_the_contracts_format_goes_as_it_stands(email: str) -> None:
    data = CUSTOMER.replace("Zoe@Example.com", email)
    assert sent("customers", data).body == data.encode()


@pytest.mark.parametrize(
    ("email", "found"),
    [
        ("mailto:a@b", "one behind mailto:"),
        ("a,b@c", "another text"),
        ("a@b,c@d", "another text"),
        (f"{LONG}a@x", "one that is too long"),
        (f"a@{'b.' * 130}c", "another text"),
        (f"a@{LONG}.c", "another text"),
        ('\\"a b\\"@c', "another text"),
        ("a@b_c", "another text"),
        ("a@-b", "another text"),
        ("a@b\\u3000", "one with blanks around it (see trim_emails)"),
        (" a@b", "one with blanks around it (see trim_emails)"),
        ("a@b\\n", "one with blanks around it (see trim_emails)"),
        ("a@b\\u200b", "another text"),
    ],
)
def test_another_email_is_refused_with_what_it_is(email: str, found: str) -> None:
    """Also among many that are good, which are looked at in one go."""
    bad = CUSTOMER.replace("Zoe@Example.com", email)
    expected = ("bad-email", f"$.email: expected an e-mail address, found {found}")
    assert refused("customers", bad) == expected
    results = examine(made("customers"), run_of(CUSTOMER.encode(), bad.encode(), CUSTOMER.encode()))
    assert [len(each.records) for each in results] == [1, 0, 1]


def test_blanks_around_an_email_are_cut_where_that_is_asked_for() -> None:
    for blanks in (" %s", "%s\\t ", "\\u00a0%s"):
        data = CUSTOMER.replace("Zoe@Example.com", blanks % "Zoe@Example.com")
        record = sent("customers", data, trim_emails=True)
        assert (record.body.decode(), record.unique) == (CUSTOMER, "zoe@example.com")
    assert refused("customers", CUSTOMER.replace("Zoe@", " Zoe @"), trim_emails=True)[0] == "bad-email"


def test_emails_are_the_same_in_lower_case_and_not_when_letters_are_folded() -> None:
    texts = [CUSTOMER.replace("Zoe@", name) for name in ("straße@", "STRASSE@", "strasse@", "STRAẞE@")]
    uniques = [each.records[0].unique for each in examine(made("customers"), run_of(*map(str.encode, texts)))]
    assert uniques == ["straße@example.com", "strasse@example.com", "strasse@example.com", "straße@example.com"]


BOGOTA: dict[str, Any] = {"time_zone": "America/Bogota"}
NOON: dict[str, Any] = {**BOGOTA, "time_of_day": "12:00:00"}


@pytest.mark.parametrize(
    ("date", "options", "wanted"),
    [
        ("2020-01-31t10:00:00.123456789z", {}, "2020-01-31t10:00:00.123456789z"),
        ("2020-01-31T10:00:00-05:00", {}, "2020-01-31T10:00:00-05:00"),
        ("2020-01-31T10:00:00+0200", {}, "2020-01-31T10:00:00+02:00"),
        ("2020-01-31T10:00:00.5-0530", {}, "2020-01-31T10:00:00.5-05:30"),
        ("2020-01-31T10:00:00+02", {}, "2020-01-31T10:00:00+02:00"),
        ("2020-01-31 10:00:00Z", {}, "2020-01-31T10:00:00Z"),
        ("2020-01-31 10:00:00 +0200", {}, "2020-01-31T10:00:00+02:00"),
        ("2020-01-31 10:00:00 UTC", {}, "2020-01-31T10:00:00Z"),
        ("2020-01-31T10:00Z", {}, "2020-01-31T10:00:00Z"),
        ("2020-01-31\\u002010:00:00\\u002b0200", {}, "2020-01-31T10:00:00+02:00"),
        ("2020-01-31 10:00", BOGOTA, "2020-01-31T10:00:00-05:00"),
        ("2020-01-31", NOON, "2020-01-31T12:00:00-05:00"),
    ],
)
def test_a_date_that_is_clear_is_sent_as_rfc_3339_has_it(date: str, options: dict[str, Any], wanted: str) -> None:
    """In a record alone, and further in among many."""
    data = CUSTOMER.replace("1995-02-03T10:00:00+00:00", date)
    assert sent("customers", data, **options).body.decode() == data.replace(date, wanted)
    for stage, unit in (("events", EVENT), ("transactions", ROW)):
        clean, dated = (grouped(stage, unit, unit.replace("2020-01-01T00:00:00Z", each, 1)) for each in (wanted, date))
        results = examine(made(stage, **options), run_of(*map(str.encode, (clean, dated, clean))))
        assert [each.records[0].body.decode() for each in results] == [clean] * 3


@pytest.mark.parametrize(
    ("date", "options", "code", "found"),
    [
        ('"2020-01-31"', {}, "bad-date", "a date without a time (see time_of_day)"),
        ('"2020-01-31"', BOGOTA, "bad-date", "a date without a time (see time_of_day)"),
        ('"2020-01-31T10:00:00"', {}, "bad-date", "one without a time zone (see time_zone)"),
        ('"2020-02-30T10:00:00Z"', {}, "bad-date", "a day or time that there is not"),
        ('"2020-02-30"', NOON, "bad-date", "a day or time that there is not"),
        ('"2020-01-31T10:00:60Z"', {}, "bad-date", "a day or time that there is not"),
        ('"1580464800"', NOON, "bad-date", "seconds or milliseconds since 1970"),
        ("1580464800000", NOON, "wrong-type", "a number, maybe seconds or milliseconds since 1970"),
        ('"31.01.2020"', NOON, "bad-date", "another text"),
        ('"20200131T100000Z"', NOON, "bad-date", "another text"),
        ('""', NOON, "bad-date", "another text"),
    ],
)
def test_another_date_is_refused_with_its_form(date: str, options: dict[str, Any], code: str, found: str) -> None:
    data = CUSTOMER.replace('"1995-02-03T10:00:00+00:00"', date)
    assert json.loads(data)
    expected = "$.registration_date: expected a date-time such as 2020-01-31T12:00:00Z, found "
    assert refused("customers", data, **options) == (code, expected + found)


@pytest.mark.parametrize("options", [{"time_of_day": "12:00:00"}, {**BOGOTA, "time_of_day": "noon"}])
def test_a_time_of_day_is_one_and_needs_a_zone(options: dict[str, Any]) -> None:
    with raises(Unusable, "settings-invalid"):
        made("customers", **options)
