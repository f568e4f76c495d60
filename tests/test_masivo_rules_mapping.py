"""Mappings: what they are given, what they may return, and that nothing they do reaches the totals."""

from __future__ import annotations

import asyncio
import decimal
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar

import pytest

from streammig.masivo.rules import RuleOptions, rules
from streammig.model import FILTERED, Examined, Tally
from tests.spans import Slice
from tests.spans import examine as examined

pytestmark = pytest.mark.usefixtures("judge")

POINTS = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


def examine(mapping: Any, data: bytes = b"{}", stage: str = "customers", **options: Any) -> Examined:
    found = rules(stage, RuleOptions(now=datetime(2024, 5, 1, tzinfo=UTC), **options), mapping)
    (result,) = examined(found, [Slice(0, 0, 1, len(data), data)])
    return result


def customer(name: str = "C-1", **fields: Any) -> dict[str, Any]:
    lot = {"reward_id": POINTS, "amount": 5, "expiration_date": None, "brand_id": None}
    start = datetime(1999, 1, 1, tzinfo=UTC)
    return {"id": name, "name": "n", "email": f"{name}@x", "registration_date": start, "balance": [lot], **fields}


def owner(name: str, count: int) -> dict[str, Any]:
    order = {"purchase_id": "p", "value": 1, "discounted_value": 1, "products": [], "payment_method": "CASH"}
    date = "2020-01-01T00:00:00Z"
    event = {"type": "PURCHASE", "brand_id": None, "order": order, "fulfilled": True, "issued_at": date}
    return {"id": name, "events": [{**event, "resolved_at": date}] * count}


def failed(mapping: Any, data: bytes = b"{}") -> str:
    result = examine(mapping, data)
    assert not result.records
    (letter,) = result.dead
    assert letter.code == "mapping-failed"
    assert letter.tally == Tally(1, 1)
    assert "Zoe" not in letter.message
    return letter.message


def test_a_mapping_is_given_exact_numbers() -> None:
    seen: list[Any] = []
    data = b'{"a":1.10,"b":123456789012345678901234567890,"c":1e400,"d":[null,true]}'
    examine(lambda record: seen.append(record), data)
    assert seen == [
        {"a": Decimal("1.10"), "b": 123456789012345678901234567890, "c": Decimal("1e400"), "d": [None, True]}
    ]
    assert type(seen[0]["a"]) is Decimal


def test_what_a_mapping_returns_is_sent_exactly() -> None:
    huge = Decimal("9" * 28 + ".10")
    lots = [
        {"reward_id": uuid.UUID(POINTS), "amount": amount, "expiration_date": None, "brand_id": None}
        for amount in (Decimal("1.10"), 10**27, 0.1, Decimal("1E+3"), True and 7, huge)
    ]
    (record,) = examine(lambda _: customer(balance=tuple(lots))).records
    amounts = [lot["amount"] for lot in json.loads(record.body, parse_float=str, parse_int=str)["balance"]]
    assert amounts == ["1.10", "1" + "0" * 27, "0.1", "1E+3", "7", "9" * 28 + ".10"]
    assert [value for _, value in record.amounts] == [Decimal(amount) for amount in amounts]


def test_what_a_mapping_returns_goes_through_the_same_rules() -> None:
    assert examine(lambda _: customer(phone="1")).dropped == ("$.phone",)
    assert examine(lambda _: customer(deleted_at="x")).filtered[0][0] == "deleted"
    assert examine(lambda _: customer(email="x")).dead[0].code == "bad-email"
    balance = [{"reward_id": POINTS, "amount": 0.1 + 0.2, "expiration_date": None, "brand_id": None}]
    assert examine(lambda _: customer(balance=balance)).dead[0].code == "bad-amount"


@pytest.mark.parametrize("nothing", [None, []])
def test_nothing_is_a_filtered_record(nothing: Any) -> None:
    assert examine(lambda _: nothing).filtered == (("mapping", Tally(1, 1)),)
    assert examine(lambda _: nothing, stage="events").filtered == (("mapping", Tally(1)),)


def test_records_of_one_source_record_are_numbered_by_the_units_they_send() -> None:
    made = [owner("A", 3), {"id": "B"}, owner("C", 2), {"id": 7, "events": [1]}, owner("D", 1), {"id": "E"}]
    result = examine(lambda _: made, stage="events")
    assert [(record.owner, record.unit) for record in result.records] == [("A", 0), ("C", 4), ("D", 7)]
    assert [letter.unit for letter in result.dead] == [6]
    assert result.filtered == (("no-events", Tally(2)),)
    assert result.records[0].whole


def test_several_customers_of_one_source_record_keep_their_own_reasons() -> None:
    result = examine(lambda _: [customer("A", x=1), customer("B", status="DELETED"), customer("C", gender=1)])
    assert result.absent == (("B", FILTERED), ("C", "wrong-type"))
    assert result.dropped == ("$.x",)
    assert result.filtered == (("deleted", Tally(1, 1, {POINTS: Decimal(5)})),)


def test_a_mapping_that_raises_is_named_by_its_own_line_and_what_python_says() -> None:
    def inner(record: dict[str, str]) -> None:
        json.loads(record["Zoe"])

    def outer(record: dict[str, str]) -> None:
        inner({"Zoe": "Zoe " + record["a"]})

    line = inner.__code__.co_firstlineno + 1
    message = failed(outer, b'{"a":"x"}')
    where = f"at line {line} of test_masivo_rules_mapping.py"
    assert message == f"the mapping raised JSONDecodeError {where}: Expecting value: line 1 column 1 (char 0)"
    assert failed(outer, b"{}").startswith("the mapping raised KeyError at line ")


GOLD = {"silver": 1}


@pytest.mark.parametrize(
    ("mapping", "record", "said"),
    [
        (lambda it: it["tier"], b'{"id":"c1"}', "'tier'"),
        (lambda it: GOLD[it["tier"]], b'{"tier":"Zoe"}', "'<\u2026>'"),
        (lambda it: int(it["age"]), b'{"age":"12x Zoe"}', "invalid literal for int() with base 10: '<\u2026>'"),
        (lambda it: int(it["age"]), b'{"age":"x","n":10}', "invalid literal for int() with base <\u2026>: '<\u2026>'"),
        (lambda it: it["name"].upper().tier, b'{"name":"zoe"}', "'str' object has no attribute 'tier'"),
        (lambda it: it["tier"] + 1, b'{"tier":"tier"}', 'can only concatenate str (not "int") to str'),
        (lambda it: GOLD[f"{it['a']} tier {it['b']}"], b'{"a":"Zoe","b":"Ng"}', "'<\u2026> tier <\u2026>'"),
        (lambda it: GOLD["tier"], b'{"of":["a Tier"]}', "'<\u2026>'"),
        (lambda it: 1 / 0, b"{}", "division by zero"),
    ],
)
def test_i9_the_text_of_an_exception_is_shown_without_the_records_values(
    mapping: Any, record: bytes, said: str
) -> None:
    assert failed(mapping, record).partition(".py: ")[2] == said


@pytest.mark.parametrize("kind", [GeneratorExit, asyncio.CancelledError, BaseException])
def test_whatever_a_mapping_raises_is_a_dead_letter_without_a_value(kind: type[BaseException]) -> None:
    def give_up(record: Any) -> Any:
        raise kind(record)

    class Odd(dict[str, Any]):
        def items(self) -> Any:
            raise kind("secret")

    assert failed(give_up, b'"secret"').startswith(f"the mapping raised {kind.__name__}")
    assert failed(lambda _: Odd(a=1)) == f"the mapping returned what is no JSON ({kind.__name__})"


def test_a_mapping_that_interrupts_says_nothing_of_its_record() -> None:
    def interrupt(record: Any) -> Any:
        raise KeyboardInterrupt(record)

    with pytest.raises(KeyboardInterrupt) as raised:
        failed(interrupt)
    assert not raised.value.args
    assert raised.value.__suppress_context__


def test_a_callable_without_a_frame_of_its_own_is_named_by_what_it_raised() -> None:
    assert failed(len, b"7") == "the mapping raised TypeError: object of type 'int' has no len()"


class Odd(dict[str, Any]):
    """A dict that turns on whoever looks at it."""

    def items(self) -> Any:
        raise RuntimeError("Zoe")


class Endless(dict[str, Any]):
    """A dict that holds itself."""

    shared: ClassVar[dict[str, Any]] = {}


Endless.shared["again"] = Endless.shared


def generator(record: Any) -> Iterator[Any]:
    yield customer()


@pytest.mark.parametrize(
    "result",
    [
        7,
        "Zoe",
        b"Zoe",
        (customer(),),
        [customer(), None],
        {1: 2},
        Odd(a=1),
        {"a": {1, 2}},
        {"a": b"Zoe"},
        {"a": float("nan")},
        {"a": float("-inf")},
        {"a": Decimal("NaN")},
        {"a": Decimal("Infinity")},
        {"a": "\ud800"},
        {"a": 1j},
        Endless.shared,
    ],
)
def test_what_is_no_record_is_a_dead_letter(result: Any) -> None:
    assert failed(lambda _: result).startswith("the mapping returned ")


def test_a_generator_is_a_dead_letter_that_says_what_was_expected() -> None:
    assert failed(generator) == "the mapping returned generator; expected a dict, a list of dicts, or None"


def test_records_are_taken_as_they_are_when_the_mapping_returns() -> None:
    shared = customer()
    found = rules("customers", RuleOptions(now=datetime(2024, 5, 1, tzinfo=UTC)), lambda _: shared)
    data = b"{}"
    (first,) = examined(found, [Slice(0, 0, 1, 2, data)])
    body = first.records[0].body
    shared.clear()
    (second,) = examined(found, [Slice(0, 3, 2, 2, data)])
    assert first.records[0].body == body
    assert second.dead[0].code == "missing-field"


def test_a_mapping_that_changes_the_decimal_context_changes_no_sum() -> None:
    def mapping(record: Any) -> Any:
        decimal.getcontext().prec = 2
        decimal.getcontext().traps[decimal.InvalidOperation] = False
        return record

    lots = [{"reward_id": POINTS, "amount": 10**20 + n, "expiration_date": None, "brand_id": None} for n in (1, 2)]
    data = json.dumps(customer(balance=lots, registration_date="2020-01-01T00:00:00Z")).encode()
    with decimal.localcontext():
        (record,) = examine(mapping, data).records
        assert record.tally.sums == {POINTS: Decimal(200000000000000000003)}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a":1,"a":2}', "duplicate-field"),
        (b'{"a":{"b":[{"c":1,"c":1}]}}', "duplicate-field"),
        (b'{"a"}', "invalid-json"),
        (b'{"a":1e99999999999999999999}', "invalid-json"),
        (b'{"a":"\xff"}', "invalid-json"),
        (b"[" * 100_000, "invalid-json"),
    ],
)
def test_a_source_record_that_can_not_be_read_never_reaches_the_mapping(data: bytes, code: str) -> None:
    def never(record: Any) -> Any:
        raise AssertionError

    assert examine(never, data).dead[0].code == code


def test_a_comma_that_is_written_as_an_escape_is_no_field_that_stands_twice() -> None:
    assert examine(lambda record: customer(country=record["a"]), b'{"a":"\\u002c","b":[{}]}').records


def test_a_single_event_with_its_owner_can_be_mapped() -> None:
    event = owner("x", 1)["events"][0]
    result = examine(lambda record: {**event, "person": record["p"]}, b'{"p":"q"}', "events", owner="person")
    assert result.records[0].owner == "q"
