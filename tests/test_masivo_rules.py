"""The rules of the three stages: what goes as it stands, what is edited, what is left out, what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from streammig.errors import Unusable
from streammig.masivo.rules import CODES, FILTERS, RuleOptions, StageRules, rules
from streammig.masivo.rules.values import Keys
from streammig.model import FILTERED, Examined, Record, Tally
from tests.spans import Slice
from tests.spans import examine as examined

pytestmark = pytest.mark.usefixtures("judge")

NOW = datetime(2024, 5, 1, tzinfo=UTC)
POINTS = "3F2504E0-4f89-11d3-9a0c-0305e82c3301"
MILES = "9b2d7f1a-0c4e-4f62-8d35-6a1b0e9c7d21"
KEY = POINTS.lower()

LOT = f'{{"reward_id":"{POINTS}","amount":12.50,"expiration_date":null,"brand_id":null}}'
CUSTOMER = (
    '{ "id":"C-1", "name":"Zoë \\u00d1u\\"ñez","email":"Zoe@Example.com",\n'
    f' "registration_date":"1995-02-03T10:00:00+00:00","balance":[{LOT}]}}'
)
ORDER = (
    '{"purchase_id":"P-1","value":10.0,"discounted_value":9.5e0,'
    '"products":[{"sku":"S","amount":1,"value":10.0}],"payment_method":"CASH"}'
)
EVENT = (
    f'{{"type":"PURCHASE","brand_id":null,"order":{ORDER},"fulfilled":true,'
    '"issued_at":"2020-01-01T00:00:00Z","resolved_at":"2020-01-01T00:00:00.000Z"}'
)
ROW = (
    f'{{"brand_id":null,"reward_id":"{POINTS}","details":"d","type":"REDEMPTION","issued_at":"2020-01-01T00:00:00Z",'
    '"resolved_at":"2020-01-01T00:00:00Z","amount":-4,"cost":null,"store_id":null,"channel_id":null,"event":null}'
)


def made(stage: str, mapping: Any = None, **options: Any) -> StageRules:
    return rules(stage, RuleOptions(now=NOW, **options), mapping)


def examine(stage: str, data: str | bytes, mapping: Any = None, **options: Any) -> Examined:
    data = data.encode() if isinstance(data, str) else data
    (result,) = examined(made(stage, mapping, **options), [Slice(2, 100, 7, len(data), data)])
    assert result.position.offset == 100
    for letter in result.dead:
        assert letter.code in CODES
    for reason, _ in result.filtered:
        assert reason in FILTERS
    return result


def sent(stage: str, data: str | bytes, mapping: Any = None, **options: Any) -> Record:
    result = examine(stage, data, mapping, **options)
    assert not result.dead, result.dead[0].message
    (record,) = result.records
    json.loads(record.body)
    if record.inner is not None:
        begin, end = record.inner
        assert record.body[begin - 1 : begin] + record.body[end : end + 1] == b"[]"
        assert len(json.loads(record.body[begin - 1 : end + 1])) == record.units == len(record.amounts)
    return record


def refused(stage: str, data: str | bytes, mapping: Any = None, **options: Any) -> tuple[str, str]:
    result = examine(stage, data, mapping, **options)
    assert not result.records
    (letter,) = result.dead
    return letter.code, letter.message


def grouped(name: str, *units: str, begin: str = "") -> str:
    return f'{{"id":"C-1",{begin}"{name}":[{",".join(units)}]}}'


# Clean records


def test_a_clean_customer_goes_as_the_bytes_it_came_as() -> None:
    data = CUSTOMER.encode()
    (result,) = examined(made("customers"), [Slice(0, 5, 1, len(data), data)])
    (record,) = result.records
    assert record.body is data
    assert (record.owner, record.unique, record.units, record.inner) == ("C-1", "zoe@example.com", 1, None)
    assert record.amounts == ((KEY, Decimal("12.50")),)
    assert [result.dropped, result.filtered, result.dead, result.absent] == [()] * 4


@pytest.mark.parametrize(("name", "unit"), [("events", EVENT), ("transactions", ROW)])
@pytest.mark.parametrize("shape", ['{{"id":"C-1","{0}":[{1}]}}', ' {{ "{0}" : [ {1} ]\n, "id":"C-1" }} '])
def test_a_clean_owner_goes_as_the_bytes_it_came_as_in_any_order_of_fields(name: str, unit: str, shape: str) -> None:
    data = shape.format(name, f"{unit} , {unit}").strip().encode()
    record = sent(name, data)
    assert record.body == data
    assert record.units == 2
    assert record.owner == "C-1"
    expected = ("purchases", Decimal(10)) if name == "events" else (KEY, Decimal(-4))
    assert record.amounts == (expected, expected)


def test_head_tail_and_once_are_those_of_the_endpoints() -> None:
    for stage in ("customers", "events", "transactions"):
        found = made(stage)
        assert json.loads(found.head + b"1,2" + found.tail) == {"customers": [1, 2]}
        assert found.once is (stage == "transactions")


# Customers: edits


def test_unknown_fields_are_cut_out_wherever_they_stand_and_named_without_their_index() -> None:
    lot = LOT.replace('"amount"', '"zone" : 7,"amount"')
    data = CUSTOMER.replace('"id"', '"phone":[1,{"a":"}"}], "id"').replace(LOT, f"{LOT}, {lot}")
    result = examine("customers", data)
    assert result.records[0].body.decode() == CUSTOMER.replace(LOT, f"{LOT}, {LOT}")
    assert sorted(result.dropped) == ["$.balance[].zone", "$.phone"]


def test_a_field_without_a_name_stands_in_for_no_other() -> None:
    event = EVENT.replace('"type":"PURCHASE"', '"":true')
    code, message = refused("events", grouped("events", event), unknown_fields="send")
    assert (code, message) == ("missing-field", "$.events[0].type: expected a text, found nothing")


def test_unknown_fields_can_be_refused_or_sent() -> None:
    data = CUSTOMER.replace('"id"', '"phone":"1", "id"')
    assert refused("customers", data, unknown_fields="reject") == (
        "unknown-field",
        "$.phone: the target knows no such field",
    )
    assert sent("customers", data, unknown_fields="send").body == data.encode()


def test_a_field_name_that_may_be_a_value_is_not_shown() -> None:
    data = CUSTOMER.replace('"id"', '"zoe@example.com":"1", "id"')
    assert examine("customers", data).dropped == ("$.(odd name)",)
    assert "zoe" not in refused("customers", data, unknown_fields="reject")[1]


def test_events_and_transactions_inside_a_customer_are_cut_and_never_unknown() -> None:
    data = f'{CUSTOMER[:-1]} , "events":[1,2], "transactions":null,"status":"ACTIVE","deleted_at":null}}'
    result = examine("customers", data, unknown_fields="reject")
    assert result.records[0].body.decode() == CUSTOMER[:-1] + "}"
    assert result.dropped == ()


def test_lots_that_expired_are_cut_and_stay_in_the_totals() -> None:
    old = LOT.replace("null", '"2024-05-01T00:00:00Z"', 1).replace("12.50", "7.25").replace('"am', '"x":1,"am')
    result = examine("customers", CUSTOMER.replace(LOT, f"{old} , {LOT},{old}"))
    assert result.records[0].body.decode() == CUSTOMER
    assert result.records[0].amounts == ((KEY, Decimal("12.50")),)
    assert result.filtered == (("expired-lots", Tally(0, 0, {KEY: Decimal("14.50")})),)
    assert result.dropped == ("$.balance[] (expired)",) * 2
    assert sent("customers", CUSTOMER.replace(LOT, old)).body.decode() == CUSTOMER.replace(LOT, "")


def test_a_customer_without_lots_is_sent() -> None:
    assert sent("customers", CUSTOMER.replace(LOT, "")).amounts == ()


@pytest.mark.parametrize("email", ["", '"email":null,', '"email":" ",'])
def test_a_customer_without_an_email_needs_the_opt_in(email: str) -> None:
    data = CUSTOMER.replace('"email":"Zoe@Example.com",', email)
    code, message = refused("customers", data)
    assert code == "missing-field"
    assert message.startswith("$.email: expected an e-mail address, found none")
    record = sent("customers", data, send_anonymous=True)
    assert json.loads(record.body)["is_anonymous"] is True
    assert "email" not in json.loads(record.body)
    assert record.unique == ""
    assert record.body.startswith(b'{ "id":"C-1", "name":"Zo\xc3\xab \\u00d1u\\"')


@pytest.mark.parametrize("mark", ["true", "false", '"yes"'])
def test_an_anonymous_customer_needs_only_id_and_balance_and_says_so_once(mark: str) -> None:
    body = sent("customers", f'{{"id":"A","name":null,"is_anonymous":{mark},"balance":[]}}', send_anonymous=True).body
    assert body == b'{"id":"A","is_anonymous":true,"balance":[]}'


def test_a_date_without_a_zone_is_refused_or_gets_the_zone_of_its_day() -> None:
    data = CUSTOMER.replace("10:00:00+00:00", "10:00:00").replace('"email"', '"dob":"1970-07-01T00:00:00.5","email"')
    assert refused("customers", data)[0] == "bad-date"
    body = sent("customers", data, time_zone="America/New_York").body.decode()
    assert '"1995-02-03T10:00:00-05:00"' in body
    assert '"1970-07-01T00:00:00.5-04:00"' in body
    assert body.replace("-05:00", "").replace("-04:00", "") == data


def test_an_offset_with_seconds_is_written_to_the_nearest_minute() -> None:
    data = CUSTOMER.replace("1995-02-03T10:00:00+00:00", "1880-02-03T10:00:00")
    assert b"1880-02-03T10:00:00-04:56" in sent("customers", data, time_zone="America/Bogota").body  # -4:56:16
    assert b"1880-02-03T10:00:00+00:53" in sent("customers", data, time_zone="Europe/Berlin").body  # +0:53:28


# Customers: left out and refused


@pytest.mark.parametrize(
    "mark", ['"deleted_at":"2020-01-01"', '"status":"deleted"', '"gone":1', '"state":"X"', '"a":1,"gone":1,"name":7']
)
def test_a_deleted_customer_is_filtered_with_its_sums_whatever_else_is_wrong_with_it(mark: str) -> None:
    data = CUSTOMER.replace('"id"', f'{mark}, "id"')
    result = examine("customers", data, deleted=("gone", "state=X"))
    if '"name":7' in mark:  # twice in it
        assert result.dead[0].code == "duplicate-field"
        return
    assert result.filtered == (("deleted", Tally(1, 1, {KEY: Decimal("12.5")})),)
    assert result.absent == (("C-1", FILTERED),)
    assert not result.records
    assert not result.dead


@pytest.mark.parametrize("mark", ['"deleted_at":null', '"deleted_at":""', '"deleted_at":false', '"status":"ACTIVE"'])
def test_an_empty_mark_deletes_nobody(mark: str) -> None:
    assert sent("customers", CUSTOMER.replace('"id"', f'{mark}, "id"')).body.decode() == CUSTOMER


def test_a_mark_in_a_field_that_is_sent_is_seen_too() -> None:
    data = CUSTOMER.replace('"id"', '"country":"XX", "id"')
    assert examine("customers", data, deleted=("country=XX",)).filtered[0][0] == "deleted"
    assert sent("customers", data, deleted=("country=YY",)).body == data.encode()
    assert examine("events", grouped("events", EVENT), reversed=("type=PURCHASE",)).filtered[0][0] == "reversed"
    assert examine("events", grouped("events", EVENT), deleted=("id=C-1",)).filtered[0][0] == "deleted"


def test_an_inactive_customer_is_filtered_unless_asked_for() -> None:
    data = CUSTOMER.replace('"id"', '"status":"INACTIVE", "id"')
    assert examine("customers", data).filtered[0][0] == "inactive"
    assert sent("customers", data, include_inactive=True).body.decode() == CUSTOMER


BAD_CUSTOMERS: list[tuple[str, str, str, str]] = [
    (
        '"C-1"',
        "5",
        "wrong-type",
        "$.id: expected 1 to 255 characters without",
    ),
    ('"C-1"', '""', "bad-id", "$.id"),
    ('"C-1"', '"a/b"', "bad-id", "$.id"),
    ('"C-1"', '"a\\u0007"', "bad-id", "$.id"),
    ('"C-1"', '"migrate"', "bad-id", "$.id"),
    ('"C-1"', f'"{"x" * 256}"', "bad-id", "$.id"),
    ('"id":"C-1", ', "", "missing-field", "$.id"),
    ('"name":"Zoë \\u00d1u\\"ñez",', "", "missing-field", "$.name: expected a text, found nothing"),
    ('"Zoe@Example.com"', "7", "wrong-type", "$.email: expected an e-mail address, found a number"),
    ('"Zoe@Example.com"', '"Zoe"', "bad-email", "$.email: expected an e-mail address, found another text"),
    ('"Zoe@Example.com"', '"Zoe@x..y"', "bad-email", "$.email"),
    ('"Zoe@Example.com"', '".Zoe@x"', "bad-email", "$.email"),
    ('"Zoe@Example.com"', '"Zo e@x"', "bad-email", "$.email"),
    ('"Zoe@Example.com"', '"Zoe@x@y"', "bad-email", "$.email"),
    ('"1995-02-03T10:00:00+00:00"', '"1995-02-03"', "bad-date", "$.registration_date: expected a date-time such as"),
    ('"1995-02-03T10:00:00+00:00"', '"1995-02-30T10:00:00Z"', "bad-date", "$.registration_date"),
    ('"1995-02-03T10:00:00+00:00"', '"1995-02-03T24:00:00Z"', "bad-date", "$.registration_date"),
    ('"1995-02-03T10:00:00+00:00"', '"1995-02-03T10:00:00"', "bad-date", "$.registration_date"),
    ('"1995-02-03T10:00:00+00:00"', "null", "wrong-type", "$.registration_date: expected a date-time"),
    ("12.50", '"12.50"', "wrong-type", "$.balance[0].amount: expected a number, found a text"),
    ("12.50", "12.505", "bad-amount", "$.balance[0].amount: expected a number with at most 2 digits behind the point"),
    ("12.50", "-1", "bad-amount", "$.balance[0].amount: expected zero or more, found a negative number"),
    ("12.50", "1e28", "bad-amount", "$.balance[0].amount"),
    ("12.50", "1e99999999999999999999", "bad-amount", "$.balance[0].amount"),
    ("12.50", "1e-9999999", "bad-amount", "$.balance[0].amount"),
    ("12.50", "0e999999999", "bad-amount", "$.balance[0].amount"),
    ("12.50", "-0e-999999999", "bad-amount", "$.balance[0].amount"),
    ('"amount":12.50,', "", "missing-field", "$.balance[0].amount: expected a number, found nothing"),
    (f'"{POINTS}"', '"points"', "bad-uuid", "$.balance[0].reward_id: expected a UUID, found another text"),
    (',"brand_id":null', "", "missing-field", "$.balance[0].brand_id"),
    ('"expiration_date":null,', "", "missing-field", "$.balance[0].expiration_date"),
    (f"[{LOT}]", "{}", "wrong-type", "$.balance: expected a list, found an object"),
    (LOT, "[]", "wrong-type", "$.balance[0]: expected an object, found a list"),
    (f',"registration_date":"1995-02-03T10:00:00+00:00","balance":[{LOT}]', "", "missing-field", "$.registration_date"),
    (f',"balance":[{LOT}]', "", "missing-field", "$.balance"),
    ('"id"', '"gender":"X","id"', "bad-enum", "$.gender: expected one of FEMALE, MALE, found another text"),
    ('"id"', f'"country":"{"x" * 101}","id"', "too-long", "$.country: expected at most 100 characters, found more"),
    ('"id"', '"devices":[{"device_info":{"platform":"palm"}}],"id"', "bad-enum", "$.devices[0].device_info.platform"),
    ('"id"', '"metrics":{"last_year":{"tier_id":"x"}},"id"', "bad-uuid", "$.metrics.last_year.tier_id"),
    ('"id"', '"metrics":{"last_year":{"spend_total":1.005}},"id"', "bad-amount", "$.metrics.last_year.spend_total"),
    ('"id"', '"metrics":[],"id"', "wrong-type", "$.metrics: expected an object or null, found a list"),
    ('"id"', '"id":"C-2","id"', "duplicate-field", "$"),
    ('"id"', '"\\u0069d":"C-2","id"', "duplicate-field", "$"),
    ('"amount"', '"amount":1,"amount"', "duplicate-field", "$.balance[0]"),
    ('"id"', '"id"!', "invalid-json", "$"),
    ('"Zoe@Example.com"', '"\\x"', "invalid-json", "$"),
]


@pytest.mark.parametrize(("old", "new", "code", "message"), BAD_CUSTOMERS)
def test_a_bad_customer_is_a_dead_letter_that_names_the_field(old: str, new: str, code: str, message: str) -> None:
    data = CUSTOMER.replace(",\n ", ",", 1)
    assert old in data
    data = data.replace(old, new, 1)
    found, words = refused("customers", data)
    assert (found, words[: len(message)]) == (code, message)
    for value in ("Zoe", "1995", "C-1", "12.5", POINTS, "points", "palm"):
        assert value not in words


def test_all_faults_of_a_record_are_told_at_once_each_with_code_and_field() -> None:
    data = CUSTOMER.replace('"C-1"', '"a/b"').replace("12.50", "-1").replace('"email":"Zoe@Example.com"', '"gender":1')
    assert refused("customers", data) == (
        "missing-field",
        "$.email: expected an e-mail address, found none (see send_anonymous); "
        "bad-id: $.id: expected 1 to 255 characters without control characters or slashes, found another text; "
        "wrong-type: $.gender: expected a text or null, found a number; "
        "bad-amount: $.balance[0].amount: expected zero or more, found a negative number",
    )
    events = EVENT.replace('"CASH"', "7"), "null", EVENT.replace("10.0", "1.001")
    code, message = refused("events", grouped("events", *events))
    assert code == "wrong-type"
    assert [fault.partition(":")[0] for fault in message.split("; ")[1:]] == ["wrong-type", "bad-amount", "bad-amount"]
    many = refused("transactions", grouped("transactions", *["7"] * 500))[1]
    assert many.endswith("$.transactions[19]: expected an object, found a number; and 480 more")


NULLED = ORDER.replace('"value"', '"store_id":null,"value"', 1).replace('"amount"', '"discounted_value":null,"amount"')


def run_of(texts: list[str]) -> list[Slice]:
    return [Slice(0, 1000 * at, at, len(text.encode()), text.encode()) for at, text in enumerate(texts)]


@pytest.mark.parametrize("comma", [",", ", ", " ,"])
def test_optional_fields_that_are_null_are_cut_however_they_are_spelt(comma: str) -> None:
    first = '{"channel_id":null,' + EVENT.replace(ORDER, NULLED)[1:]
    texts = [(EVENT.replace(ORDER, NULLED),), (EVENT,), (EVENT, first)] * 100
    run = run_of([grouped("events", *each).replace(",", comma) for each in texts])
    found = [it.records[0].body.decode() for it in examined(made("events"), run)]
    assert found == [grouped("events", *[EVENT] * len(each)).replace(",", comma) for each in texts]


FREE = '"metadata":{"store_id":null,"a":null},"value"'


@pytest.mark.parametrize(
    ("old", "new", "fate"),
    [
        ('"value"', '"store_id":null,"store_id":"s","value"', "duplicate-field"),
        ('"value"', '"store_id":null,"store_id":null,"value"', "duplicate-field"),
        ('"value"', '"value":null,"value"', "duplicate-field"),
        ('"value"', f'"store_id":null,{FREE}', FREE),
        ('"P-1"', '"null,\\",\\"store_id\\":null"', '"null,\\",\\"store_id\\":null"'),
    ],
)
def test_a_null_is_cut_only_where_it_is_an_optional_field(old: str, new: str, fate: str) -> None:
    """Among many that have a null to be cut, so that its spelling is known."""
    common, clean = grouped("events", EVENT.replace(ORDER, NULLED)), grouped("events", EVENT)
    run = run_of([common] * 50 + [clean.replace(old, new, 1)] + [common] * 50)
    results = examined(made("events"), run)
    assert [it.records[0].body.decode() for it in results[:50] + results[51:]] == [clean] * 100
    if fate in CODES:
        assert results[50].dead[0].code == fate
    else:
        assert results[50].records[0].body.decode() == clean.replace(old, fate, 1)


def test_a_line_break_where_a_number_should_be_hides_no_fault_of_the_records_behind_it() -> None:
    split = CUSTOMER.replace("12.50", "[1,\n2]")
    twice, longer = (CUSTOMER.replace('"email"', f'"gender":"MALE",{more},"email"')
                     for more in ('"gender":"MALE"', '"country":"CO"'))  # fmt: skip
    found = examined(made("customers"), run_of([split, longer, twice, longer]))
    assert [[letter.code for letter in each.dead] for each in found] == [["wrong-type"], [], ["duplicate-field"], []]


@pytest.mark.parametrize(
    "more",
    [
        '"phone":1',
        '"a,b":[1],"gender":null',
        '"st\\u0061te":1,"state":2',
        '"store_id":null,"gender":null',
        '"phone":{"state":1,"gender":null},"state":1',
        '"phone":1,"phone":1,"gender":null',
        '"status":"DELETED","phone":1',
    ],
)
def test_what_was_learnt_of_records_before_changes_nothing_for_those_behind_them(more: str) -> None:
    judged, run = made("customers"), run_of([CUSTOMER.replace('"id"', f'{more},"id"')] * 300)
    assert examined(judged, run) == [judged.explain(each.data, each.position, 0) for each in run]


def test_an_escaped_comma_of_one_record_hides_no_repeated_field_of_another() -> None:
    escaped, twice = CUSTOMER.replace("Zoë", "a\\u002cb"), CUSTOMER.replace('"name"', '"name":"n","name"')
    good, bad = examined(made("customers"), run_of([escaped, twice]))
    assert good.records
    assert [letter.code for letter in bad.dead] == ["duplicate-field"]


def test_a_dead_customer_is_absent_and_its_readable_sums_are_counted() -> None:
    other = LOT.replace("12.50", "1.001")
    result = examine(
        "customers", CUSTOMER.replace(LOT, f"{LOT},{other},7,{LOT}").replace('"email"', '"gender":1,"email"')
    )
    assert result.dead[0].tally == Tally(1, 1, {KEY: Decimal(25)})
    assert result.absent == (("C-1", "wrong-type"),)


def test_two_lots_of_a_name_in_other_letters_are_one_sum() -> None:
    record = sent("customers", CUSTOMER.replace(LOT, f"{LOT},{LOT.replace(POINTS, KEY)}"))
    assert record.tally == Tally(1, 1, {KEY: Decimal(25)})


@pytest.mark.parametrize("data", ["7", "[]", "null", '"x"', "", "{", "[" * 100_000, '{"a":' * 5000])
@pytest.mark.parametrize("stage", ["customers", "events", "transactions"])
def test_what_is_no_object_is_a_dead_letter(stage: str, data: str) -> None:
    assert refused(stage, data)[0] in ("not-an-object", "invalid-json")


def test_a_fault_of_the_reader_becomes_a_dead_letter() -> None:
    (result,) = examined(made("customers"), [Slice(0, 9, 4, 1000, b"", "too-large", "over the limit of 900 bytes")])
    (letter,) = result.dead
    assert (letter.code, letter.message, letter.tally) == ("too-large", "over the limit of 900 bytes", Tally(1, 1))
    assert letter.position.length == 1000


def test_a_customer_too_large_for_a_request_is_refused() -> None:
    room = len(CUSTOMER.encode()) + len(b'{"customers":[]}')
    assert sent("customers", CUSTOMER, max_bytes=room).body == CUSTOMER.encode()
    assert refused("customers", CUSTOMER, max_bytes=room - 1)[0] == "too-large"


@pytest.mark.parametrize(
    "number", ["1.500", "15e-1", "1.5E0", "1.5" + "0" * 70, "9999999999999999999999999999.99", "-0"]
)
def test_numbers_are_judged_by_value(number: str) -> None:
    record = sent("customers", CUSTOMER.replace("12.50", number))
    assert record.body.decode() == CUSTOMER.replace("12.50", number)
    assert record.amounts[0][1] == Decimal(number)


def test_bytes_that_are_no_text_are_a_dead_letter_also_where_a_mark_is_looked_for() -> None:
    assert refused("customers", CUSTOMER.encode().replace(b'"Zo', b'"\xff', 1))[0] == "invalid-json"
    result = examine("customers", CUSTOMER.encode().replace(b'"id"', b'"status":"\xff","deleted_at":"\xff","id"'))
    assert result.records[0].body == CUSTOMER.encode()


def test_what_is_remembered_of_rewards_is_bounded() -> None:
    keys = Keys()
    for number in range(40_000):
        assert keys[f"{number:08d}{POINTS[8:]}"]
    assert len(keys) < 20_000


def test_the_digits_behind_the_point_are_a_setting() -> None:
    assert refused("customers", CUSTOMER, fraction_digits=0)[0] == "bad-amount"
    assert sent("customers", CUSTOMER.replace("12.50", "1.0001"), fraction_digits=4)


def test_all_documented_fields_of_a_customer_go_as_they_stand() -> None:
    period = f'{{"from":"2020-01-01T08:00:00Z","to":"2020-12-31T07:59:59.999Z","tier_id":"{MILES}",'
    period += '"last_visit":"2020-05-05T00:00:00+02:00","last_session":"2020-05-05T00:00:00Z","spend_total":1.25,'
    period += '"number_of_purchases":3}'
    names = "lifetime last_year this_year last_semester this_semester last_quarter this_quarter last_month this_month"
    metrics = ",".join(f'"{name}":{period}' for name in names.split())
    more = (
        f'"gender":"MALE","dob":"1970-01-01T00:00:00Z","document_type":"CC","document_number":"1","country":"CO",'
        f'"metrics":{{{metrics},"updated_at":"2024-01-01T00:00:00Z"}},"devices":[{{"device_token":"t","device_info":'
        '{"platform":"ios","model":"m","osVersion":"17"},"expires_at":"2030-01-01T00:00:00Z",'
        '"created_at":"2020-01-01T00:00:00Z"}],'
    )
    lot = LOT[:-1] + ',"channel_id":"web","store_id":"s","issued_at":"2020-01-01T00:00:00Z","funded_by":"f"}'
    data = CUSTOMER.replace('"id"', f'{more}"id"').replace(LOT, lot)
    assert sent("customers", data, unknown_fields="reject").body == data.encode()
    walked = examine("customers", data.replace('"id"', '"phone":null,"id"').replace('"osV', '"x":1,"osV'))
    assert walked.records[0].body == data.encode()
    assert sorted(walked.dropped) == ["$.devices[].device_info.x", "$.phone"]


# Events


def test_what_the_target_requires_of_an_event_is_put_in() -> None:
    order = '{"purchase_id":"P","value":10.40,"products":[]}'
    event = (
        f'{{"type":"PURCHASE","order":{order},"issued_at":"2020-01-01T00:00:00Z","resolved_at":"2020-01-01T00:00:00Z"}}'
    )
    record = sent("events", grouped("events", event, EVENT))
    filled = order[:-1] + ',"discounted_value":10.40,"payment_method":"OTHER"}'
    whole = event.replace(order, filled)[:-1] + ',"brand_id":null,"fulfilled":true}'
    assert record.body.decode() == grouped("events", whole, EVENT)


@pytest.mark.parametrize(
    ("old", "new"), [('"fulfilled":true', '"fulfilled":false'), ('"brand_id":null', '"brand_id":"b"')]
)
def test_an_event_always_counts_as_fulfilled_and_keeps_its_brand(old: str, new: str) -> None:
    data = grouped("events", EVENT.replace(old, new))
    assert sent("events", data).body.decode() == data.replace('"fulfilled":false', '"fulfilled":true')


def test_null_in_a_field_with_a_default_counts_as_missing() -> None:
    event = EVENT.replace("9.5e0", "null").replace('"CASH"', "null").replace('"fulfilled":true', '"fulfilled":null')
    (found,) = json.loads(sent("events", grouped("events", event)).body, parse_float=str)["events"]
    assert found["fulfilled"] is True
    assert (found["order"]["discounted_value"], found["order"]["payment_method"]) == ("10.0", "OTHER")


def test_redeems_are_left_out_unless_asked_for() -> None:
    redeem = f'"redeem":[{{"id":"{MILES}","amount":3}}]'
    order = ORDER.replace('"sku"', f'{redeem},"sku"').replace('"value"', f'{redeem},"value"', 1)
    order = order[:-1] + f',"shipping":{{{redeem},"value":1.50,"discounted_value":0}}}}'
    data = grouped("events", EVENT.replace(ORDER, order))
    result = examine("events", data)
    assert b"redeem" not in result.records[0].body
    assert sorted(result.dropped) == [
        "$.events[].order.products[].redeem",
        "$.events[].order.redeem",
        "$.events[].order.shipping.redeem",
    ]
    assert sent("events", data, send_redeem=True).body.decode() == data
    assert refused("events", data.replace(MILES, "x"), send_redeem=True)[0] == "bad-uuid"


def test_free_objects_go_as_they_stand_unless_a_field_stands_twice() -> None:
    free = '"metadata":{"a":[{"b":1e999},1.0000001],"c":"\\u002c"},'
    data = grouped(
        "events", EVENT.replace('"purchase_id"', f'{free}"purchase_id"').replace('"sku"', f'"tags":{{}},{free}"sku"')
    )
    assert sent("events", data).body.decode() == data
    twice = data.replace('"b":1e999', '"b":1,"b":2')
    assert refused("events", twice) == (
        "duplicate-field",
        "$.events[0].order.metadata: a field is repeated in an object in it; "
        "duplicate-field: $.events[0].order.products[0].metadata: a field is repeated in an object in it",
    )
    assert refused("events", data.replace('"tags":{}', '"tags":[]'))[0] == "wrong-type"


@pytest.mark.parametrize("mark", ['"reversed":true', '"reversed_at":"x"', '"status":"Reversed"', '"kind":"undo"'])
def test_reversed_events_are_left_out_and_counted(mark: str) -> None:
    gone = EVENT.replace('"type"', f'{mark},"type"')
    kept = EVENT.replace('"type"', '"reversed":false,"reversed_at":null,"status":"OK","type"')
    result = examine(
        "events", grouped("events", gone, kept, gone, begin='"name":"n","email":7,'), reversed=("kind=undo",)
    )
    assert result.records[0].body.decode() == grouped("events", EVENT)
    assert result.filtered == (("reversed", Tally(0, 2, {"purchases": Decimal(20)})),)
    assert result.dropped == ()
    none_left = examine("events", grouped("events", gone, gone), reversed=("kind=undo",))
    assert none_left.filtered == (("reversed", Tally(1, 2, {"purchases": Decimal(20)})),)
    assert not none_left.records


def test_an_event_without_an_order_is_left_out_or_gets_an_order_of_zero() -> None:
    visit = json.dumps({key: value for key, value in json.loads(EVENT).items() if key != "order"}).replace(
        "PURCHASE", "VISIT"
    )
    null = visit.replace('"fulfilled"', '"order":null,"fulfilled"')
    data = grouped("events", visit, null, EVENT, visit)
    result = examine("events", data)
    assert result.filtered == (("not-a-purchase", Tally(0, 3)),)
    assert result.records[0].units == 1
    record = sent("events", data, zero_orders=True)
    assert [value for _, value in record.amounts] == [0, 0, 10, 0]
    orders = [event["order"] for event in json.loads(record.body)["events"]]
    assert orders[0] == {**orders[1], "purchase_id": orders[0]["purchase_id"]}
    assert len({order["purchase_id"] for order in orders}) == 4
    assert record.body == sent("events", data, zero_orders=True).body
    mixed = examine("events", grouped("events", visit, EVENT.replace('"type"', '"reversed":true,"type"')))
    assert mixed.filtered == (
        ("not-a-purchase", Tally(1, 1)),
        ("reversed", Tally(0, 1, {"purchases": Decimal(10)})),
    )


def test_another_event_with_an_order_is_sent_and_no_purchase() -> None:
    assert sent("events", grouped("events", EVENT.replace("PURCHASE", "RETURN"))).tally == Tally(1, 1)


@pytest.mark.parametrize(
    ("old", "new", "code", "path"),
    [
        (f'"order":{ORDER},', "", "missing-field", "$.events[1].order"),
        ('"type":"PURCHASE",', "", "missing-field", "$.events[1].type"),
        ('"type":"PURCHASE"', '"type":1', "wrong-type", "$.events[1].type"),
        (
            '"fulfilled":true',
            '"fulfilled":1',
            "wrong-type",
            "$.events[1].fulfilled: expected true or false, found a number",
        ),
        ('"value":10.0,"d', '"value":"10","d', "wrong-type", "$.events[1].order.value"),
        ('"value":10.0}', '"value":1e50}', "bad-amount", "$.events[1].order.products[0].value"),
        (
            '"amount":1',
            '"discounted_value":0.001,"amount":1',
            "bad-amount",
            "$.events[1].order.products[0].discounted_value",
        ),
        (
            '"amount":1',
            '"amount":null',
            "wrong-type",
            "$.events[1].order.products[0].amount: expected a number, found null",
        ),
        ('"purchase_id"', '"shipping":{"value":0.001},"purchase_id"', "bad-amount", "$.events[1].order.shipping.value"),
        ('"sku":"S",', "", "missing-field", "$.events[1].order.products[0].sku"),
        (
            '"CASH"',
            '"GOLD"',
            "bad-enum",
            "$.events[1].order.payment_method: expected one of BANK_TRANSFER, CASH, CREDIT",
        ),
        ('"issued_at":"2020-01-01T00:00:00Z",', "", "missing-field", "$.events[1].issued_at"),
        ('"purchase_id":"P-1"', '"purchase_id":"P-1","purchase_id":"P"', "duplicate-field", "$.events[1].order"),
        (EVENT, "null", "wrong-type", "$.events[1]: expected an object, found null"),
    ],
)
def test_a_bad_event_makes_its_record_a_dead_letter(old: str, new: str, code: str, path: str) -> None:
    assert old in EVENT
    result = examine("events", grouped("events", EVENT, EVENT.replace(old, new, 1), EVENT))
    (letter,) = result.dead
    assert (letter.code, letter.message[: len(path)]) == (code, path)
    assert letter.tally.units == 3
    assert letter.tally.sums["purchases"] in (20, 30)
    assert result.absent == ()


def test_what_is_nobodys_and_no_list_of_units_is_no_owner_without_any() -> None:
    """Parts of records that were taken for records, single units: none of it may be left out in silence."""
    for stage in ("events", "transactions"):
        code, message = refused(stage, "{}")
        assert (code, message) == refused(stage, '{"type":"PURCHASE","order":{}}')
        assert code == "missing-field"
        assert message.startswith(f"$: expected a customer's id and {stage}, found neither")


def test_owners_of_events_without_any_are_filtered() -> None:
    for data in ('{"id":"C"}', '{"id":"C","events":null}', '{"id":"C","events":[]}'):
        assert examine("events", data).filtered == (("no-events", Tally(1)),)
    assert examine("transactions", '{"id":"C"}').filtered == (("no-transactions", Tally(1)),)
    assert refused("events", '{"id":"C","events":7}') == ("wrong-type", "$.events: expected a list, found a number")


@pytest.mark.parametrize("name", ["events", "transactions"])
def test_what_a_deleted_customer_did_is_filtered_with_it(name: str) -> None:
    unit = EVENT if name == "events" else ROW
    result = examine(
        name, grouped(name, unit, "7", '{"order":{"value":1,"value":2},"type":"PURCHASE"}', begin='"status":"DELETED",')
    )
    sums = {"purchases": Decimal(10)} if name == "events" else {KEY: Decimal(-4)}
    assert result.filtered == (("deleted", Tally(1, 3, sums)),)
    assert result.absent == ()


def test_beside_events_the_customers_own_fields_are_cut_in_silence_and_unknown_ones_by_the_setting() -> None:
    data = grouped("events", EVENT, begin='"name":1,"balance":7,"transactions":{},"phone":"1","deleted_at":null,')
    result = examine("events", data)
    assert (result.records[0].body.decode(), result.dropped) == (grouped("events", EVENT), ("$.phone",))
    assert sent("events", data, unknown_fields="send").body.decode() == grouped("events", EVENT)
    assert refused("events", data, unknown_fields="reject")[0] == "unknown-field"
    nested = grouped("events", EVENT.replace('"type"', '"x":1,"type"'), begin='"phone":1,')
    assert sorted(examine("events", nested).dropped) == ["$.events[].x", "$.phone"]


@pytest.mark.parametrize(("name", "unit"), [("events", EVENT.replace("9.5e0", "9.5000")), ("transactions", ROW)])
def test_an_owner_that_only_needs_the_customers_fields_cut_keeps_the_rest(name: str, unit: str) -> None:
    data = f'{{"phone":[1,2], "id":"C-1" ,"name":"n","{name}":[{unit} ,{unit}], "email":null}}'
    result = examine(name, data)
    assert result.records[0].body.decode() == f'{{"id":"C-1","{name}":[{unit} ,{unit}]}}'
    assert result.dropped == ("$.phone",)


def test_an_owner_with_many_events_is_sent_and_one_with_a_huge_event_is_not() -> None:
    shell = len(b'{"customers":[]}') + len(grouped("events"))
    assert sent("events", grouped("events", *[EVENT] * 3000), max_bytes=shell + len(EVENT)).units == 3000
    code, message = refused(
        "events", grouped("events", EVENT, EVENT + " " * 9, EVENT), max_bytes=shell + len(EVENT) - 1
    )
    assert (code, message[:12]) == ("too-large", "$.events[0]:")


# Events, one to a record


def row(**fields: str) -> str:
    return EVENT.replace('"type"', "".join(f'"{name}":{value},' for name, value in fields.items()) + '"type"')


def test_a_single_event_is_put_below_its_owner() -> None:
    record = sent("events", row(person='"é\\u0041"', x="1"), owner="person")
    assert record.body.decode() == f'{{"id":"é\\u0041","events":[{EVENT}]}}'
    assert (record.owner, record.units, record.amounts) == ("éA", 1, (("purchases", Decimal(10)),))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "missing-field"),
        ({"person": "7"}, "wrong-type"),
        ({"person": '"a/b"'}, "bad-id"),
        ({"person": "null"}, "wrong-type"),
    ],
)
def test_a_single_event_needs_an_owner(fields: dict[str, str], code: str) -> None:
    found, message = refused("events", row(**fields), owner="person")
    assert (found, message[:9]) == (code, "$.person:")
    assert examine("events", row(**fields), owner="person").dead[0].tally == Tally(1, 1, {"purchases": Decimal(10)})


def test_a_single_event_is_left_out_refused_or_too_large_like_any_other() -> None:
    result = examine("events", row(person='"p"', reversed="true"), owner="person")
    assert result.filtered == (("reversed", Tally(1, 1, {"purchases": Decimal(10)})),)
    assert refused("events", "7", owner="person")[0] == "not-an-object"
    assert refused("events", row(person='"p"'), owner="person", max_bytes=len(EVENT))[0] == "too-large"
    assert examine("events", "7", owner="person").dead[0].tally == Tally(1, 1)


def test_the_eleven_fields_of_a_transaction_are_always_sent_with_explicit_nulls() -> None:
    bare = json.dumps({key: value for key, value in json.loads(ROW).items() if value is not None})
    record = sent("transactions", grouped("transactions", bare, bare[:-1] + ',"funded_by":null}'))
    for found in json.loads(record.body)["transactions"]:
        assert found == json.loads(ROW)
    assert bare[:-1].encode() in record.body


@pytest.mark.parametrize(
    ("old", "new", "code", "path"),
    [
        ('"details":"d",', "", "missing-field", "$.transactions[0].details"),
        ('"REDEMPTION"', '"GIFT"', "bad-enum", "$.transactions[0].type"),
        ('"amount":-4', '"amount":-4.001', "bad-amount", "$.transactions[0].amount"),
        ('"cost":null', '"cost":0.001', "bad-amount", "$.transactions[0].cost"),
        ('"cost":null', '"cost":"1"', "wrong-type", "$.transactions[0].cost"),
        (f'"{POINTS}"', '"p"', "bad-uuid", "$.transactions[0].reward_id"),
        ('"event":null', '"event":{}', "missing-field", "$.transactions[0].event.type"),
        (
            '"event":null',
            f'"event":{{"type":"PURCHASE","order":{ORDER.replace("10.0", "1e99", 1)}}}',
            "bad-amount",
            "$.transactions[0].event.order.value",
        ),
        (
            '"store_id":null',
            '"store_id":4',
            "wrong-type",
            "$.transactions[0].store_id: expected a text or null, found a number",
        ),
    ],
)
def test_a_bad_transaction_makes_the_whole_history_a_dead_letter(old: str, new: str, code: str, path: str) -> None:
    found, message = refused("transactions", grouped("transactions", ROW.replace(old, new), ROW))
    assert (found, message[: len(path)]) == (code, path)


def test_a_transaction_with_cost_and_event_goes_as_it_stands() -> None:
    full = ROW.replace('"cost":null', '"cost":1.50,"funded_by":"f"').replace(
        '"event":null', f'"event":{{"type":"PURCHASE","order":{ORDER}}}'
    )
    data = grouped("transactions", full)
    assert sent("transactions", data).body.decode() == data
    short = data.replace(',"payment_method":"CASH"', "")
    assert b'"payment_method":"OTHER"' in sent("transactions", short).body


def test_a_history_is_never_split() -> None:
    data = grouped("transactions", *[ROW] * 3)
    assert sent("transactions", data, max_units=3).units == 3
    code, message = refused("transactions", data, max_units=2)
    assert (code, message) == (
        "too-many-transactions",
        "$.transactions: one request holds at most 2, and they must not be split",
    )
    assert examine("transactions", data, max_units=2).dead[0].tally == Tally(1, 3, {KEY: Decimal(-12)})
    assert refused("transactions", data, max_bytes=len(data))[0] == "too-large"


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"time_zone": "Mars/Olympus"},
        {"time_zone": "../etc"},
        {"time_zone": ""},
        {"deleted": ("",)},
        {"reversed": ("=x",)},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        rules("events", RuleOptions(**{"now": NOW, **options}))
