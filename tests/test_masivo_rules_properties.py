"""What holds for the rules whatever a record holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streammig.masivo.edit import NOT_JSON, Duplicate, apply, cuts, duplicated, elements, members
from streammig.masivo.rules import CODES, FILTERS, RuleOptions, rules
from streammig.masivo.rules.values import Numbers, decimals
from streammig.model import Examined, Tally, total
from tests.judges import JUDGES
from tests.spans import Slice, examine

OPTIONS = RuleOptions(now=datetime(2024, 5, 1, tzinfo=UTC), zero_orders=True, send_anonymous=True)
STAGES = {
    judge: {stage: rules(stage, OPTIONS, judge=judge) for stage in ("customers", "events", "transactions")}
    for judge in JUDGES
}
RUNS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # nested JSON is slow
REWARDS = ["3F2504E0-4f89-11d3-9a0c-0305e82c3301", "9b2d7f1a-0c4e-4f62-8d35-6a1b0e9c7d21"]


class Text:
    """JSON text that is written as it stands: a number in a spelling of its own."""

    def __init__(self, text: str) -> None:
        self.text = text


def write(value: Any, space: Callable[[], str]) -> str:
    """JSON with odd white space, and the spelling of `Text`."""
    if isinstance(value, Text):
        return value.text
    if isinstance(value, list):
        inside = ",".join(space() + write(each, space) + space() for each in value)
        return f"[{inside or space()}]"
    if isinstance(value, dict):
        pairs = ((json.dumps(name), write(each, space)) for name, each in value.items())
        inside = ",".join(space() + name + space() + ":" + space() + text + space() for name, text in pairs)
        return f"{{{inside or space()}}}"
    return json.dumps(value, ensure_ascii=len(str(value)) % 2 == 0)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from([',"', '\\"', "}", "a:b", '":'])
numbers = st.builds(
    Text,
    st.sampled_from(["0", "-0", "1", "1.50", "2.25", "15e-1", "1E2", "-3", "7.125", "1e40", '"1"', "null", "true"])
    | st.integers(0, 10**12).map(str)
    | st.decimals(0, 10**9, places=2).map(str),
)
good_numbers = st.builds(
    Text, st.decimals(0, 10**9, places=2).map(str) | st.sampled_from(["15e-1", "1.500", "1E2", "0"])
)
dates = st.sampled_from(
    ["2020-01-01T00:00:00Z", "1999-12-31T23:59:59.999+02:00", "2030-06-01t00:00:00z", "2021-01-01 10:00:00Z"] * 3
    + ["2020-01-01T00:00:00", "2020-13-01T00:00:00Z", "2021-01-01T10:00:00-0500", "1999-12-31 23:59:59+02", "", "x"]
)
junk = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def objects(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects like these in any order, now and then with a field missing, null, of another kind, or unknown."""
    fixed = st.fixed_dictionaries(required, optional={**optional, "note": junk})

    def spoil(pair: tuple[dict[str, Any], int, Any]) -> dict[str, Any]:
        value, how, other = pair
        names = sorted(value)
        name = names[how % len(names)]
        if how >= 40:
            value = {**value, name: other}
        elif how >= 35:
            value = {key: each for key, each in value.items() if key != name}
        return value

    spoilt = st.tuples(fixed, st.integers(0, 44), st.none() | junk).map(spoil)
    return st.tuples(spoilt, st.randoms()).map(
        lambda pair: dict(sorted(pair[0].items(), key=lambda _: pair[1].random()))
    )


ids = st.sampled_from(["C-1", "ñ", "x" * 255]) | texts
rewards = st.sampled_from(REWARDS)
lots = objects(
    {"reward_id": rewards, "amount": good_numbers, "expiration_date": st.none() | dates, "brand_id": st.none() | texts},
    {"issued_at": dates, "store_id": texts},
)
periods = objects({"tier_id": rewards}, {"from": dates, "spend_total": numbers, "number_of_purchases": numbers})
customers = objects(
    {
        "id": ids,
        "name": texts,
        "email": st.sampled_from(["a@b.co", "é@x", "A.b+c@d"] * 3 + ["", "a@", " a@b"]),
        "registration_date": dates,
        "balance": st.lists(lots, max_size=3),
    },
    {
        "gender": st.sampled_from(["MALE", "FEMALE"]),
        "status": st.sampled_from(["ACTIVE", "DELETED", "INACTIVE"]),
        "metrics": objects({"lifetime": periods}, {"this_year": periods, "updated_at": dates}),
        "events": junk,
    },
)
products = objects(
    {"sku": texts, "amount": good_numbers, "value": good_numbers}, {"discounted_value": numbers, "tags": junk}
)
redeems = st.lists(objects({"id": rewards, "amount": good_numbers}, {}), max_size=2)
orders = objects(
    {
        "purchase_id": texts,
        "value": good_numbers,
        "products": st.lists(products, max_size=2),
        "payment_method": st.sampled_from(["CASH", "OTHER"]),
        "discounted_value": good_numbers,
    },
    {"shipping": objects({"value": good_numbers}, {"redeem": redeems}), "redeem": redeems, "metadata": junk},
)
events = objects(
    {
        "type": st.sampled_from(["PURCHASE", "PURCHASE", "VISIT"]),
        "brand_id": st.none() | texts,
        "order": orders,
        "fulfilled": st.booleans(),
        "issued_at": dates,
        "resolved_at": dates,
    },
    {"reversed": st.booleans()},
)
rows = objects(
    {
        "brand_id": st.none() | texts,
        "reward_id": rewards,
        "details": texts,
        "type": st.sampled_from(["ACCUMULATION", "REDEMPTION"]),
        "issued_at": dates,
        "resolved_at": dates,
        "amount": good_numbers | numbers,
        "cost": st.none() | good_numbers,
        "store_id": st.none(),
        "channel_id": st.none() | texts,
        "event": st.none() | objects({"type": texts}, {"order": orders}),
    },
    {"funded_by": texts},
)
RECORDS = {
    "customers": customers,
    "events": objects({"id": ids, "events": st.lists(events, max_size=3)}, {"name": texts}),
    "transactions": objects({"id": ids, "transactions": st.lists(rows, max_size=3)}, {"status": texts}),
}


@st.composite
def records(draw: st.DrawFn) -> tuple[str, bytes]:
    stage = draw(st.sampled_from(sorted(RECORDS)))
    blanks = draw(st.lists(st.sampled_from(["", "", " ", "\n\t"]), min_size=1, max_size=5))
    turn = iter(range(10**9))
    return stage, write(draw(RECORDS[stage]), lambda: blanks[next(turn) % len(blanks)]).encode()


@st.composite
def garbage(draw: st.DrawFn) -> tuple[str, bytes]:
    """A record with bytes of it changed, cut out, or doubled."""
    stage, data = draw(records())
    for _ in range(draw(st.integers(0, 3))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        middle = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"}", b",", b"\\", data[at : at + length] * 2])
        )
        data = data[:at] + middle + data[at + length :]
    return stage, data


def run_of(*data: bytes) -> list[Slice]:
    return [Slice(0, 1000 * index, index + 1, len(each), each) for index, each in enumerate(data)]


def totals(result: Examined) -> Tally:
    tallies = [record.tally for record in result.records]
    tallies += [letter.tally for letter in result.dead] + [tally for _, tally in result.filtered]
    return sum(tallies, Tally())


def naive_sums(stage: str, data: bytes) -> dict[str, Decimal]:
    """The sums of everything in a record, by nothing but `json` and Decimal."""
    value = json.loads(data, parse_float=Decimal, parse_int=Decimal)
    pairs: list[tuple[str, Decimal]] = []
    listed = value.get("balance" if stage == "customers" else stage)
    for unit in listed if isinstance(listed, list) else []:
        if not isinstance(unit, dict):
            continue
        if stage == "events":
            order = unit.get("order")
            key: Any
            key, amount = "purchases", order.get("value") if isinstance(order, dict) else None
            known = unit.get("type") == "PURCHASE"
        else:
            key, amount = unit.get("reward_id"), unit.get("amount")
            known = key in REWARDS
        if known and isinstance(amount, Decimal) and abs(amount) < 10**28 and amount == round(amount, 2):
            pairs.append((key.lower(), amount))
    return dict(total(pairs))


@RUNS
@given(garbage())
def test_whatever_a_record_holds_it_has_one_fate_and_no_value_of_it_is_told(case: tuple[str, bytes]) -> None:
    stage, data = case
    for judge in JUDGES:
        (result,) = examine(STAGES[judge][stage], run_of(data))
        assert totals(result).records == 1
        assert len(result.records) + len(result.dead) <= 1
        assert all(letter.code in CODES and len(letter.message) < 4000 for letter in result.dead)
        assert all(len(fault) < 300 for letter in result.dead for fault in letter.message.split("; "))
        assert all(reason in FILTERS for reason, _ in result.filtered)
        for record in result.records:
            json.loads(record.body)


@RUNS
@given(records())
def test_i5_sums_are_those_of_plain_decimals_and_what_is_sent_goes_as_it_stands_when_it_is_read_again(
    case: tuple[str, bytes],
) -> None:
    stage, data = case
    for judge in JUDGES:
        (result,) = examine(STAGES[judge][stage], run_of(data))
        if "duplicate-field" not in [letter.code for letter in result.dead]:
            assert totals(result).sums == naive_sums(stage, data)
        for record in result.records:
            if b"is_anonymous" in record.body:
                continue
            (again,) = examine(STAGES[judge][stage], run_of(record.body))
            assert again.records[0].body == record.body
            assert again.records[0].amounts == record.amounts
            assert not again.dropped


@RUNS
@given(st.lists(garbage(), min_size=1, max_size=6))
def test_i5_many_records_at_once_become_what_each_becomes_when_it_is_explained_alone(
    cases: list[tuple[str, bytes]],
) -> None:
    """Whatever they are grouped with, and whatever was learnt of records before them."""
    for stage in dict.fromkeys(its for its, _ in cases):
        run = run_of(*[data for its, data in cases if its == stage])
        for judge in JUDGES:
            found = STAGES[judge][stage]
            assert examine(found, run) == [found.explain(each.data, each.position, 0) for each in run]


@RUNS
@given(st.dictionaries(texts, junk, max_size=6), st.data())
def test_cutting_fields_leaves_every_other_byte_run_as_it_was(value: dict[str, Any], data: st.DataObject) -> None:
    blanks = data.draw(st.lists(st.sampled_from(["", " ", "\r\n"]), min_size=1, max_size=4))
    turn = iter(range(10**9))
    text = ("7," + write(value, lambda: blanks[next(turn) % len(blanks)]) + " ").encode()
    found = members(text, 2, len(text) - 1)
    assert list(found) == list(value)
    keep = [data.draw(st.booleans()) for _ in found]
    spans = [member.part for member in found.values()]
    left = apply(text, cuts(spans, keep))
    kept = {
        name: text[member.begin : member.end]
        for (name, member), stays in zip(found.items(), keep, strict=True)
        if stays
    }
    again = members(left, 2, len(left) - 1)
    assert {name: left[member.begin : member.end] for name, member in again.items()} == kept
    assert left.startswith(b"7,{")
    assert left.endswith(text[-2:])
    at = 0
    for span, stays in zip(spans, keep, strict=True):
        if stays:
            at = left.index(text[span.begin : span.end], at) + span.end - span.begin


@RUNS
@given(st.lists(junk, max_size=6), st.data())
def test_cutting_elements_leaves_the_others(value: list[Any], data: st.DataObject) -> None:
    text = write(value, lambda: " ").encode()
    spans = elements(text, 0, len(text))
    keep = [data.draw(st.booleans()) for _ in spans]
    left = apply(text, cuts(spans, keep))
    expected = [text[slice(*span)] for span, stays in zip(spans, keep, strict=True) if stays]
    assert [left[slice(*span)] for span in elements(left, 0, len(left))] == expected


@RUNS
@given(garbage())
def test_a_field_that_stands_twice_is_found_at_any_depth(case: tuple[str, bytes]) -> None:
    _, data = case

    def strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise Duplicate
        return dict(pairs)

    try:
        found = duplicated(data, 0, len(data))
    except NOT_JSON:
        return
    try:
        json.loads(data, object_pairs_hook=strict)
    except Duplicate:
        assert found
    else:
        assert not found


@RUNS
@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,9})?", fullmatch=True), st.integers(0, 5)
)
def test_numbers_are_judged_exactly(text: str, digits: int) -> None:
    found = Numbers(digits).exact(text.encode())
    number = Decimal(text)
    raw = msgspec.Raw(text.encode())
    if Numbers(digits).plain([raw, raw]):
        assert [found, found] == decimals([raw, raw])
    _, figures, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    stripped = "".join(map(str, figures)).rstrip("0")
    behind = max(0, -exponent - (len(figures) - len(stripped))) if stripped else 0
    # A zero has no size but its exponent, which must not be that of a text of gigabytes either.
    small = number.adjusted() < 30 - digits if stripped else abs(number.adjusted()) <= 60
    assert (found is not None) == (small and behind <= digits)
    assert found is None or found == number
