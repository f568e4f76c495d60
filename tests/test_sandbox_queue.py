"""What the sandbox takes, applies later and drops in silence."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from streammig.sandbox import Sandbox, SandboxConfig
from streammig.sandbox.forms import Refused
from tests.sandbox_caller import (
    DAY,
    OTHER_REWARD,
    REWARD,
    TIER,
    Caller,
    FakeClock,
    customer,
    event,
    lot,
    running,
    transaction,
)


async def test_customers_are_enqueued_with_an_empty_201_and_can_be_read_back_with_their_wallet(caller: Caller) -> None:
    answer = await caller.customers(
        customer("a/b", gender="FEMALE", country="PT", balance=[lot(2.50), lot(0.1), lot(0.2)]), customer("c")
    )
    assert (answer.status, answer.text) == (201, "")
    assert await caller.held("customers") == {"count": 2, "landed": 2, "balances": {REWARD: "2.8"}}
    data = (await caller.get("/customers/a%2Fb")).json["data"]
    assert data["customer"]["email"] == "a/b@example.org"
    assert data["customer"]["gender"] == "FEMALE"
    assert data["customer"]["country"] == "PT"
    assert data["customer"]["status"] == "ACTIVE"
    assert [line["amount"] for line in data["wallet"]["lines"]] == [2.5, 0.1, 0.2]
    assert [total["total"] for total in data["wallet"]["totals"]] == [2.8]


async def test_amounts_stay_exact_beyond_what_a_binary_float_can_hold(caller: Caller) -> None:
    body = b'{"customers": [%s]}' % b", ".join(
        b'{"id": "%d", "name": "n", "email": "%d@example.org", "registration_date": "2024-01-01T00:00:00Z", "balance": '
        b'[{"reward_id": "%s", "amount": 12345678901234567890.10, "expiration_date": null, "brand_id": null}]}'
        % (number, number, REWARD.encode())
        for number in range(3)
    )
    assert (await caller.call("POST", "/customers/migrate", body)).status == 201
    assert (await caller.held("customers"))["balances"] == {REWARD: "37037036703703703670.3"}
    assert '"amount":12345678901234567890.10' in (await caller.get("/customers/1")).text


async def test_nothing_is_visible_before_the_queue_delay() -> None:
    clock = FakeClock()
    async with running(clock, queue_delay=30) as caller:
        await caller.customers(customer("a"))
        clock.now += 29.9
        assert not await caller.sandbox.drain(0.05)
        assert (await caller.get("/customers/a")).status == 404
        assert (await caller.own("drain?timeout=0.01")) == {"drained": False, "waiting": 1}
        assert caller.sandbox.ledger()["queue"] == {"waiting": 1, "next_due": 1_700_000_030.0}
        clock.now += 0.1
        assert await caller.own("drain") == {"drained": True, "waiting": 0}
        assert (await caller.get("/customers/a")).status == 200


async def test_a_range_of_delays_changes_the_order_in_the_queue() -> None:
    clock = FakeClock()
    async with running(clock, queue_delay="0-100", seed=3) as caller:
        for number in range(8):
            await caller.customers(customer(f"c{number}"), customer(f"own{number}", email="same@example.org"))
        clock.now += 100
        assert (await caller.held("customers"))["count"] == 9
        assert (await caller.get("/customers/own0")).status == 404  # another of them was first


async def test_a_customer_sent_again_has_a_double_balance_and_the_ledger_counts_it(caller: Caller) -> None:
    for _ in range(3):
        assert (await caller.customers(customer("a", balance=[lot(5)]), customer("b"))).status == 201
    assert await caller.held("customers") == {"count": 2, "landed": 6, "balances": {REWARD: "15"}}
    twice = caller.sandbox.ledger()["twice"]["customers"]
    assert (twice["count"], twice["surplus"]) == (2, 4)
    assert {"id": "a", "times": 3} in twice["examples"]
    assert caller.sandbox.holds("customers")["holds"] == [{"id": "a", "times": 3}, {"id": "b", "times": 3}]


async def test_repeat_ignore_keeps_the_first_customer_and_counts_the_second() -> None:
    async with running(repeat="ignore") as caller:
        for _ in range(2):
            await caller.customers(customer("a", balance=[lot(5)]))
        assert await caller.held("customers") == {"count": 1, "landed": 2, "balances": {REWARD: "5"}}
        assert caller.sandbox.ledger()["twice"]["customers"]["count"] == 1
        assert caller.sandbox.ledger()["dropped"]["customers"]["repeat-ignored"]["examples"] == ["a"]


async def test_a_duplicate_email_is_dropped_silently(caller: Caller) -> None:
    await caller.customers(customer("a", email="Ann@Example.org"))
    assert (await caller.customers(customer("b", email=" ann@example.ORG"), customer("c"))).status == 201
    assert (await caller.held("customers"))["count"] == 2
    dropped = caller.sandbox.ledger()["dropped"]["customers"]
    assert dropped == {"duplicate-email": {"count": 1, "units": 1, "examples": ["b"]}}


async def test_duplicate_email_accept_keeps_both_customers() -> None:
    async with running(duplicate_email="accept") as caller:
        await caller.customers(customer("a", email="x@example.org"))
        await caller.customers(customer("b", email="x@example.org"))
        assert (await caller.held("customers"))["count"] == 2


async def test_events_of_unknown_customers_are_dropped_and_the_others_counted_by_purchase(caller: Caller) -> None:
    await caller.customers(customer("a"), customer("b"))
    answer = await caller.events({"a": [event("p1", 10.5), event("p2", 0.25)], "x": [event("p3"), event("p4")]})
    assert (answer.status, answer.text) == (201, "")
    await caller.events({"b": [event("", 0, type="ADD_TO_CART"), event("p5", 1)]})
    assert await caller.held("events") == {
        "count": 4,
        "distinct": 4,
        "owners": 2,
        "types": {"ADD_TO_CART": 1, "PURCHASE": 3},
        "purchases": 3,
        "purchase_value": "11.75",
        "value": "11.75",
    }
    ledger = caller.sandbox.ledger()
    assert ledger["dropped"]["events"] == {"unknown-customer": {"count": 1, "units": 2, "examples": ["x"]}}
    assert ledger["batches"]["events"] == {"accepted": 2, "applied": 2, "customers": 3, "units": 6}


async def test_events_of_unknown_customers_are_kept_with_customer_must_exist_off() -> None:
    async with running(customer_must_exist=False) as caller:
        await caller.events({"x": [event("p1")]})
        await caller.events({"x": [event("p2")]})
        assert (await caller.held("events"))["count"] == 2
        assert (await caller.held("customers"))["count"] == 0
        assert caller.sandbox.holds("customers")["holds"] == []
        assert caller.sandbox.holds("events")["holds"][0]["owner"] == "x"
        assert (await caller.get("/customers/x")).json["data"]["customer"]["metrics"]["lifetime"] is not None


async def test_an_event_sent_twice_counts_twice_and_the_ledger_shows_it(caller: Caller) -> None:
    await caller.customers(customer("a"))
    for _ in range(2):
        await caller.events({"a": [event("p1", 3), event("p1", 3, type="ADD_TO_CART")]})
    await caller.events({"a": [event("p2", 4)]})
    held = await caller.held("events")
    assert (held["count"], held["distinct"], held["purchase_value"]) == (5, 3, "10")
    twice = caller.sandbox.ledger()["twice"]["events"]
    assert (twice["count"], twice["surplus"]) == (2, 2)
    assert {"id": "a PURCHASE p1", "times": 2} in twice["examples"]
    assert [entry["times"] for entry in caller.sandbox.holds("events")["holds"]] == [2, 2, 2, 2, 1]


async def test_metrics_are_recomputed_from_the_purchases_held_and_replace_those_sent(caller: Caller) -> None:
    sent = {"lifetime": {"spend_total": 99, "number_of_purchases": 7, "tier_id": TIER}, "updated_at": DAY}
    await caller.customers(customer("a", metrics=sent), customer("b"))
    await caller.sandbox.drain()
    profile = (await caller.get("/customers/a")).json["data"]["customer"]
    assert profile["metrics"] == sent
    assert profile["tier_id"] == TIER
    await caller.events({"a": [event("p1", 1.1), event("p2", 2.2), event("c", 50, type="ADD_TO_CART")]})
    await caller.events({"b": [event("c", 50, type="ADD_TO_CART")]})
    await caller.sandbox.drain()
    lifetime = (await caller.get("/customers/a")).json["data"]["customer"]["metrics"]["lifetime"]
    assert (lifetime["spend_total"], lifetime["number_of_purchases"]) == (3.3, 2)
    assert lifetime["last_visit"] == "2024-03-01T10:00:00.000Z"
    lifetime = (await caller.get("/customers/b")).json["data"]["customer"]["metrics"]["lifetime"]
    assert lifetime == {"spend_total": 0, "number_of_purchases": 0, "last_visit": None}


async def test_transactions_must_add_up_to_the_balance_exactly_by_reward_and_brand(caller: Caller) -> None:
    await caller.customers(
        customer("exact", balance=[lot(0.1), lot(0.2)]),
        customer("off", balance=[lot(0.3)]),
        customer("brand", balance=[lot(1, brand_id="b1")]),
        customer("nothing"),
        customer("zero", balance=[lot(0)]),
        customer("opened", balance=[lot(4)]),
    )
    answer = await caller.transactions(
        {
            "exact": [transaction(1.3), transaction(-1, type="REDEMPTION")],
            "off": [transaction(0.30000000000000004)],
            "brand": [transaction(1)],
            "nothing": [transaction(2), transaction(-2)],
            "zero": [transaction(2), transaction(-2), transaction(0, reward_id=OTHER_REWARD)],
            "opened": [transaction(4, type="MIGRATION"), transaction(4)],
            "x": [transaction(1)],
        }
    )
    assert (answer.status, answer.text) == (201, "")
    assert await caller.held("transactions") == {
        "count": 9,
        "owners": 4,
        "amounts": {REWARD: "8.3", OTHER_REWARD: "0"},
    }
    dropped = caller.sandbox.ledger()["dropped"]["transactions"]
    assert dropped["balance-mismatch"] == {"count": 2, "units": 2, "examples": ["off", "brand"]}
    assert dropped["unknown-customer"] == {"count": 1, "units": 1, "examples": ["x"]}


async def test_a_balance_mismatch_is_accepted_with_balance_match_off() -> None:
    async with running(balance_match=False) as caller:
        await caller.customers(customer("a", balance=[lot(5)]))
        await caller.transactions({"a": [transaction(1)]})
        assert (await caller.held("transactions"))["count"] == 1


async def test_a_second_transactions_request_is_refused_even_while_the_first_is_queued() -> None:
    clock = FakeClock()
    async with running(clock, queue_delay=10) as caller:
        await caller.customers(customer("a"), customer("b"))
        pair = [transaction(1), transaction(-1)]
        assert (await caller.transactions({"a": pair})).status == 201
        answer = await caller.transactions({"b": pair, "a": pair})
        assert answer.status == 422
        assert answer.json["details"] == "customers[1].id: the transactions of this customer were migrated before"
        clock.now += 10
        assert (await caller.held("transactions"))["owners"] == 1


async def test_dropped_records_may_be_sent_again(caller: Caller) -> None:
    pair = [transaction(1), transaction(-1)]
    assert (await caller.transactions({"a": pair})).status == 201
    assert (await caller.held("transactions"))["count"] == 0
    await caller.customers(customer("a"))
    assert (await caller.transactions({"a": pair})).status == 201
    assert (await caller.held("transactions"))["count"] == 2


async def test_transactions_may_come_in_instalments_with_once_only_off() -> None:
    async with running(once_only=False) as caller:
        await caller.customers(customer("a"))
        for _ in range(2):
            assert (await caller.transactions({"a": [transaction(1), transaction(-1)]})).status == 201
        assert (await caller.held("transactions"))["count"] == 4
        assert caller.sandbox.ledger()["twice"]["transactions"]["examples"] == [{"id": "a", "times": 2}]


@pytest.mark.parametrize(
    ("known", "sent"),
    [
        ({"rewards": {OTHER_REWARD: None}}, {"balance": [lot(1)]}),
        ({"stores": {"s1"}}, {"balance": [lot(1, store_id="s2")]}),
        ({"channels": {"c1"}}, {"balance": [lot(1, channel_id="c2")]}),
        ({"tiers": {REWARD}}, {"metrics": {"this_year": {"tier_id": TIER}, "updated_at": DAY}}),
    ],
)
async def test_a_customer_with_an_unknown_reference_is_dropped_alone(known: Any, sent: Any) -> None:
    async with running(**known) as caller:
        assert (await caller.customers(customer("a", **sent), customer("b"))).status == 201
        assert (await caller.held("customers"))["count"] == 1
        assert caller.sandbox.ledger()["dropped"]["customers"]["unknown-reference"]["examples"] == ["a"]


async def test_events_and_transactions_with_an_unknown_reference_are_dropped_with_their_owner() -> None:
    async with running(stores={"s1"}, rewards={REWARD: None}) as caller:
        await caller.customers(customer("a"), customer("b"))
        inside = event("p2")
        inside["order"]["store_id"] = "s2"
        await caller.events({"a": [event("p1", store_id="s1"), inside], "b": [event("p3", store_id="s1")]})
        await caller.transactions({"a": [transaction(0, reward_id=OTHER_REWARD)], "b": [transaction(0)]})
        assert (await caller.held("events"))["owners"] == 1
        assert (await caller.held("transactions"))["owners"] == 1
        assert caller.sandbox.ledger()["dropped"]["events"]["unknown-reference"]["units"] == 2


async def test_a_revert_removes_the_customers_of_a_half_open_window_with_all_their_history() -> None:
    clock = FakeClock()
    async with running(clock) as caller:
        for name in ("a", "b", "c"):
            await caller.customers(customer(name, balance=[lot(1)]))
            await caller.events({name: [event("p")]})
            await caller.transactions({name: [transaction(1)]})
            clock.now += 60
        assert (await caller.held("transactions"))["count"] == 3
        window = {"start_date": "2023-11-14T22:13:20Z", "end_date": "2023-11-14T22:15:20+00:00"}  # 0 s to 120 s
        answer = await caller.call("DELETE", "/customers/migrate", window)
        assert answer.status == 200
        assert set(answer.json) == {"message", "details"}
        assert await caller.held("customers") == {"count": 1, "landed": 1, "balances": {REWARD: "1"}}
        assert (await caller.held("events"))["count"] == 1
        assert (await caller.held("transactions"))["count"] == 1
        assert (await caller.get("/customers/b")).status == 404
        assert (await caller.get("/customers/c")).status == 200
        assert caller.sandbox.ledger()["batches"]["revert"]["customers"] == 2
        await caller.customers(customer("a", balance=[lot(1)]))
        assert (await caller.transactions({"a": [transaction(1)]})).status == 201
        assert (await caller.held("transactions"))["count"] == 2
        assert caller.sandbox.ledger()["twice"]["customers"]["count"] == 0


@pytest.mark.parametrize(
    "window",
    [{}, {"start_date": DAY, "end_date": "soon"}, {"start_date": DAY, "end_date": DAY}, {"start_date": DAY}],
)
async def test_a_revert_without_a_window_is_refused(caller: Caller, window: Any) -> None:
    assert (await caller.call("DELETE", "/customers/migrate", window)).status == 422


async def test_a_kept_store_resumes_queue_limits_and_content(tmp_path: Path) -> None:
    clock = FakeClock()
    kept: dict[str, Any] = {"store": tmp_path / "store", "limits": "1/5s", "queue_delay": 10}
    async with running(clock, **kept) as caller:
        assert (await caller.customers(customer("a"))).status == 201
        assert caller.sandbox.ledger()["queue"]["waiting"] == 1
    clock.now += 4
    async with running(clock, **kept) as caller:
        assert (await caller.customers(customer("b"))).status == 429
        clock.now += 10
        assert (await caller.held("customers"))["count"] == 1
        assert caller.sandbox.ledger()["requests"]["customers"] == {"201": 1, "429": 1}


async def test_a_store_that_is_no_sandbox_store_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("this is no database, but long enough to be looked at as one" * 20)
    with pytest.raises(ValueError, match="can't use the store"):
        await Sandbox(SandboxConfig(store=file)).start()
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE mine (a)")
    db.close()
    with pytest.raises(ValueError, match="not a store of this version"):
        await Sandbox(SandboxConfig(store=tmp_path / "other")).start()


async def test_waiting_for_a_broken_queue_raises(tmp_path: Path) -> None:
    config = SandboxConfig(store=tmp_path / "store")
    async with Sandbox(config):
        pass
    with sqlite3.connect(tmp_path / "store") as db:
        db.execute("INSERT INTO batches (kind, at, due, lost, body) VALUES ('events', 0, 0, '[]', x'7b')")
    db.close()
    sandbox = Sandbox(config)
    await sandbox.start()
    with pytest.raises(RuntimeError, match="stands still"):
        await sandbox.drain(5)
    with pytest.raises(Refused):
        await sandbox.stop()
