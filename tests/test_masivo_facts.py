"""The facts of records are the same, whether they are decoded or compiled code tells them."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from streammig.columns import Chunk
from streammig.masivo.rules import RuleOptions, rules
from streammig.masivo.rules import facts as facts_module
from streammig.masivo.rules.facts import KINDS, STAGES, OfCustomers
from streammig.target import Facts
from tests.shares import share
from tests.test_batch_digests import REWARDS
from tests.test_masivo_judge import NOW, PAGE, guarded, mutated, seeds, span_of
from tests.test_masivo_judge import STAGES as NAMES

__all__ = ["guarded"]
_facts = facts_module._facts  # type: ignore[attr-defined]
compiled = pytest.mark.skipif(_facts is None, reason="no compiled facts in this installation")
TEXTS = ["north", "", "Cañón", "\U0001f389", 'a"b\\', "\u2028/\t", "é" * 40, "PURCHASE", "2020"]
AMOUNTS = ["0", "-0", "5", "-5", "12.50", "1e3", "1E-2", "2.5e-1", "0.000000000001", "9999999999.123456789012",
           "123456789012345678901.5", "1.5000", "0e99", "1000000000000000"]  # fmt: skip
DATES = ["2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z", "1999-01-01T00:00:00+02:00", "2023-01-01T00:00:00.5Z"]


def changed(dice: Random, value: Any, name: str = "") -> Any:
    """The record with other values, as far as they can be sent."""
    if isinstance(value, dict):
        if name in ("balance", "order"):
            value |= {"channel_id": dice.choice(TEXTS), "store_id": dice.choice([None, *TEXTS])}
        return {each: changed(dice, it, each) for each, it in value.items()}
    if isinstance(value, list):
        return [changed(dice, it, name) for it in value * dice.choice((1, 1, 2, 3))]
    if dice.random() < 0.4:
        if name in ("brand_id", "channel_id", "store_id"):
            return dice.choice([None, *TEXTS])
        if name in ("purchase_id", "details"):
            return dice.choice(TEXTS)
        if name == "issued_at":
            return dice.choice(DATES)
        if name in ("reward_id", "tier_id"):
            return dice.choice([str.upper, str.lower, str.title])(dice.choice(REWARDS))
        if name == "amount":
            return 7_000_000 + dice.randrange(100)  # is written otherwise below
        if name == "type":
            return dice.choice(["ACCUMULATION", "MIGRATION", "PURCHASE", "VISIT"])
    return value


def records(stage: str, dice: Random, count: int) -> list[bytes]:
    found = []
    for record in dice.choices(seeds(stage, dice), k=count):
        data = json.dumps(changed(dice, json.loads(record)), ensure_ascii=dice.random() < 0.5).encode()
        parts = data.split(b": 70000")
        found.append(parts[0] + b"".join(b": " + dice.choice(AMOUNTS).encode() + part[2:] for part in parts[1:]))
    return found


def all_of(facts: Facts) -> tuple[Any, ...]:
    sums: Counter[tuple[int, str]] = Counter()
    for row, name, amount in facts.shares:
        sums[row, name] += amount
    return facts.mentioned, list(facts.keys), sums


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("stage", NAMES)
def test_facts_that_are_compiled_are_those_that_are_decoded(stage: str) -> None:
    dice, options = Random(13), RuleOptions(now=NOW)
    mine, theirs = rules(stage, options, judge="compiled"), rules(stage, options, judge="python")
    rows, seen = 0, Counter[str]()
    for _ in range(share(60)):
        odd = [mutated(dice, it) if dice.random() < 0.2 else it for it in records(stage, dice, 100)]
        chunk = Chunk(span_of(odd), theirs.columns(span_of(odd)))
        one, other = chunk.facts(mine.facts), Chunk(chunk.span, chunk.columns).facts(theirs.facts)
        assert all_of(one) == all_of(other)
        rows += len(chunk.columns)
        seen.update(kind for kind, _ in other.mentioned)
        seen.update({"keys": len(other.keys), "shares": len(other.shares)})
    assert rows > share(60) * 10
    wanted = {"customers": {"rewards", "tiers", "remarks", "shares"}, "events": {"event-types", "remarks", "keys"}}
    both = {"brands", "channels", "stores", *wanted.get(stage, {"rewards", "remarks", "shares"})}
    assert both <= {kind for kind, times in seen.items() if times}


@compiled
@pytest.mark.parametrize("stage", NAMES)
def test_no_record_of_a_usual_spelling_is_decoded_for_its_facts(stage: str) -> None:
    span = span_of(seeds(stage, Random(1)))
    *_, unsure = _facts.facts(NAMES.index(stage), KINDS, span.data, [*span.starts], [*span.ends], ())
    assert unsure == []
    assert STAGES[NAMES.index(stage)].__name__.lower() == f"of{stage}"


def test_rows_that_are_edited_are_told_as_they_are_sent() -> None:
    by = rules("customers", RuleOptions(now=NOW))
    lot = {"reward_id": REWARDS[0], "amount": 1, "brand_id": "b"}
    data, other = (json.dumps({"balance": [{**lot, "channel_id": it}]}).encode() for it in ("web", "app"))
    found = by.facts(data + data, [0, len(data)], [len(data), 2 * len(data)], {1: other})
    assert found.mentioned == {
        ("rewards", REWARDS[0].lower()): 2, ("brands", "b"): 2, ("channels", "web"): 1, ("channels", "app"): 1,
    }  # fmt: skip
    assert [*found.shares] == [(row, f"{REWARDS[0].lower()} b", 10**12) for row in (0, 1)]
    assert OfCustomers([data]).keys == ()


@compiled
@pytest.mark.parametrize("stage", NAMES)
def test_no_byte_outside_a_record_is_read_whatever_its_end_cuts_in_two(stage: str, guarded: memoryview) -> None:
    number = NAMES.index(stage)
    for record in records(stage, Random(3), 4):
        for size in range(min(len(record), PAGE)):
            guarded[PAGE - size :] = record[:size]
            *_, unsure = _facts.facts(number, KINDS, guarded, [PAGE - size], [PAGE], ())
            assert unsure == [0], record[:size]
    for data in (
        b"[",
        b'{"' + stage.encode(),
        b"{" * 999,
        b'{"balance":[{"amount":1e99999}]}',
        b'{"metrics":"\\',
        b"\xff",
    ):
        assert _facts.facts(number, KINDS, data, [0], [len(data)], ())[:3] == ({}, [], [])
    for starts, ends in (([0], [9]), ([2], [1]), ([-1], [1]), ([0, 0], [1])):
        with pytest.raises(ValueError, match="outside the data"):
            _facts.facts(number, KINDS, b"{}", starts, ends, ())
    with pytest.raises(ValueError, match="no such stage"):
        _facts.facts(9, KINDS, b"{}", [0], [2], ())
