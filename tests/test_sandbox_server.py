"""How the sandbox answers: authorization, limits, forms, reads and its own routes."""

from __future__ import annotations

import asyncio
import base64
import gzip
import re
import signal
import sys
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
import pytest

from streammig.sandbox import Sandbox, SandboxConfig
from streammig.sandbox.server import _serve
from streammig.sandbox.worker import MOST_PENDING
from tests.sandbox_caller import (
    OTHER_REWARD,
    REWARD,
    TIER,
    Caller,
    FakeClock,
    customer,
    event,
    lot,
    order,
    running,
    transaction,
)


async def test_the_api_key_is_exchanged_for_a_token_that_ends() -> None:
    clock = FakeClock()
    async with running(clock, token=False) as caller:
        for key in ({}, {"x-api-key": "wrong"}, {"x-api-key": "s\u00e4ndbox"}):
            refused = await caller.call("GET", "/auth/authorize", **key)
            assert refused.status == 401
            assert set(refused.json) == {"error", "details"}
        assert (await caller.get("/tiers")).status == 401
        assert (await caller.get("/tears")).status == 404  # no token makes a path of it
        await caller.authorize()
        claims = caller.headers["Authorization"].split(".")[1]
        assert orjson.loads(base64.urlsafe_b64decode(claims + "=="))["exp"] == clock.now + 3600
        clock.now += 3599
        assert (await caller.get("/tiers")).status == 200
        clock.now += 1
        assert (await caller.get("/tiers")).status == 401
        assert (await caller.customers(customer("a"))).status == 401


async def test_paths_work_with_and_without_the_prefix(caller: Caller) -> None:
    assert caller.sandbox.url.endswith("/api/storefront/v1")
    bare = caller.sandbox.url.removesuffix("/api/storefront/v1")
    async with caller.session.get(bare + "/tiers", headers=caller.headers) as response:
        assert response.status == 200


async def test_every_answer_carries_the_date_of_the_sandbox_s_clock() -> None:
    clock = FakeClock()
    async with running(clock) as caller:
        for path in ("/tiers", "/nowhere", "/_sandbox/ledger"):
            date = (await caller.get(path)).headers["Date"]
            assert parsedate_to_datetime(date).timestamp() == clock.now


async def test_an_early_request_gets_429_with_retry_after() -> None:
    clock = FakeClock()
    async with running(clock, limits="1/5s,3/1h;general=100/1d") as caller:
        first = await caller.customers(customer("a"))
        assert first.headers["X-RateLimit-Limit"] == "3"
        assert first.headers["X-RateLimit-Remaining"] == "2"
        assert "Retry-After" not in first.headers
        clock.now += 4.5
        early = await caller.customers(customer("b"))
        assert early.status == 429
        assert early.headers["Retry-After"] == "5"
        assert set(early.json) == {"error", "details"}
        assert (await caller.held("customers"))["count"] == 1
        ledger = caller.sandbox.ledger()
        assert ledger["violations"]["windows"] == {"migration=1/5s": 1}
        assert ledger["violations"]["examples"] == [
            {"at": clock.now, "kind": "customers", "windows": ["migration=1/5s"]}
        ]
        assert ledger["requests"] == {"auth": {"200": 1}, "customers": {"201": 1, "429": 1}}
        assert ledger["arrivals"]["customers"]["smallest_gap"] == 4.5
        assert [entry["at"] for entry in caller.sandbox.holds("requests")["holds"][1:]] == [clock.now - 4.5, clock.now]


async def test_refused_and_unauthorized_requests_count_for_the_limits_and_sandbox_calls_do_not() -> None:
    async with running(FakeClock(), token=False, limits="general=3/1d") as caller:
        for _ in range(3):
            await caller.own("ledger")
            assert (await caller.get("/tiers")).status == 401
        assert (await caller.get("/tiers")).status == 429


class WatchedClock(FakeClock):
    """Says when it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.read = asyncio.Event()

    def __call__(self) -> float:
        self.read.set()
        return super().__call__()


async def test_a_request_arrives_with_its_headers_not_its_body() -> None:
    clock = WatchedClock()
    async with running(clock, limits="1/5s") as caller:
        body = orjson.dumps({"customers": [customer("a")]})
        clock.read.clear()

        async def parts() -> Any:
            yield body[:10]
            await clock.read.wait()
            clock.now += 4
            yield body[10:]

        url = caller.sandbox.url + "/customers/migrate"
        async with caller.session.post(url, data=parts(), headers=caller.headers) as response:
            assert response.status == 201
        clock.now += 1
        assert (await caller.customers(customer("b"))).status == 201


BAD_CUSTOMERS: list[tuple[dict[str, Any], str]] = [
    ({"id": ""}, ".id"),
    ({"id": 5}, ".id"),
    ({"email": "nobody"}, ".email"),
    ({"email": None}, ".email"),
    ({"name": ""}, ".name"),
    ({"registration_date": "2024-01-01"}, ".registration_date"),
    ({"registration_date": "2024-01-01T00:00:00"}, ".registration_date"),
    ({"registration_date": None}, ".registration_date"),
    ({"gender": "OTHER"}, ".gender"),
    ({"dob": "1990-02-30T00:00:00Z"}, ".dob"),
    ({"balance": None}, ".balance"),
    ({"balance": [lot("5")]}, ".balance[0].amount"),
    ({"balance": [lot(5), lot(1e300)]}, ".balance[1].amount"),
    ({"balance": [lot(5, reward_id="gold")]}, ".balance[0].reward_id"),
    ({"balance": [{"reward_id": REWARD, "amount": 1, "brand_id": None}]}, ".balance[0]"),
    ({"metrics": {"lifetime": {"tier_id": "gold"}}}, ".metrics.lifetime.tier_id"),
    ({"devices": [{"device_info": {"platform": "symbian"}}]}, ".devices[0].device_info.platform"),
]


@pytest.mark.parametrize(("fields", "path"), BAD_CUSTOMERS, ids=[path for _, path in BAD_CUSTOMERS])
async def test_one_malformed_customer_refuses_the_whole_batch_and_is_named_by_its_path(
    caller: Caller, fields: dict[str, Any], path: str
) -> None:
    answer = await caller.customers(customer("good"), customer("bad") | fields)
    assert answer.status == 422
    assert answer.json["error"] == "invalid customer entry"
    assert answer.json["details"].startswith(f"customers[1]{path}:")
    assert (await caller.held("customers"))["count"] == 0


BAD_EVENTS: list[tuple[dict[str, Any], str]] = [
    *(({name: None}, f".{name}") for name in ("type", "order", "fulfilled", "issued_at", "resolved_at")),
    ({"order": order("p") | {"value": "5"}}, ".order.value"),
    ({"order": order("p", payment_method="SHELLS")}, ".order.payment_method"),
    ({"order": {k: v for k, v in order("p").items() if k != "discounted_value"}}, ".order"),
    ({"order": order("p", products=[{"sku": "s", "amount": 1}])}, ".order.products[0]"),
]


@pytest.mark.parametrize(("fields", "path"), BAD_EVENTS, ids=[path for _, path in BAD_EVENTS])
async def test_one_malformed_event_refuses_the_whole_batch(caller: Caller, fields: dict[str, Any], path: str) -> None:
    answer = await caller.events({"a": [event("p1"), event("p2") | fields]})
    assert answer.status == 422
    assert answer.json["details"].startswith(f"customers[0].events[1]{path}:")


@pytest.mark.parametrize("name", list(transaction(1)))
async def test_a_transaction_needs_every_documented_field(caller: Caller, name: str) -> None:
    entry = {key: value for key, value in transaction(1).items() if key != name}
    answer = await caller.transactions({"a": [entry]})
    assert answer.status == 422
    assert name in answer.json["details"]


async def test_numbers_in_transactions_must_be_numbers(caller: Caller) -> None:
    for entry in (transaction("1"), transaction(1, event={"type": "PURCHASE", "order": order("p", "1")})):
        assert (await caller.transactions({"a": [entry]})).status == 422
    fine = transaction(0, event={"type": "PURCHASE", "order": order("p", 1)})
    assert (await caller.transactions({"a": [fine]})).status == 201
    assert (await caller.transactions({"b": [transaction(0, event={"type": "PURCHASE"})]})).status == 201


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"customers": {}}',
        b'{"customers": []}',
        b'{"customers": [1]}',
        b'{"customers": [{"id": "\xff"}]}',
    ],
)
async def test_a_body_that_is_no_batch_is_refused(caller: Caller, body: bytes) -> None:
    answer = await caller.call("POST", "/customers/migrate", body)
    assert answer.status == 422
    assert set(answer.json) == {"error", "details"}


async def test_a_batch_holds_at_most_a_thousand_of_everything_and_never_an_empty_list(caller: Caller) -> None:
    assert (await caller.customers(*(customer(f"c{number}") for number in range(1001)))).status == 422
    assert (await caller.customers(*(customer(f"c{number}") for number in range(1000)))).status == 201
    events = [event(f"p{number}") for number in range(500)]
    assert (await caller.events({"a": events, "b": [*events, event("x")]})).status == 422
    assert (await caller.events({"a": events, "b": events})).status == 201
    entries = [transaction(0)] * 1001
    assert (await caller.transactions({"a": entries})).status == 422
    assert (await caller.transactions({"a": entries[1:]})).status == 201
    assert (await caller.events({"a": [event("p")], "b": []})).status == 422
    assert (await caller.transactions({"x": []})).status == 422


async def test_ids_and_folded_emails_must_be_unique_in_a_request(caller: Caller) -> None:
    answer = await caller.customers(customer("a"), customer("b"), customer("a", email="new@example.org"))
    assert answer.json["details"] == "customers[2].id: the same id occurs earlier in the request"
    answer = await caller.customers(customer("a"), customer("b", email=" A@example.ORG "))
    assert answer.json["details"] == "customers[1].email: the same e-mail occurs earlier in the request"
    body = {"customers": [{"id": "a", "events": [event("p")]}] * 2}
    assert (await caller.call("POST", "/customers/migrate/events", body)).status == 422


async def test_an_anonymous_customer_needs_no_name_and_no_address(caller: Caller) -> None:
    nameless: list[dict[str, Any]] = [{"id": name, "is_anonymous": True, "balance": []} for name in ("a", "b")]
    assert (await caller.customers(*nameless)).status == 201
    assert (await caller.held("customers"))["count"] == 2


async def test_unknown_fields_are_ignored_or_refused_by_setting() -> None:
    strange = customer("a", shoe_size=44)
    inside = customer("b", balance=[lot(1)], metrics={"lifetime": {"spend": 1}})
    async with running() as caller:
        assert (await caller.customers(strange, inside)).status == 201
    async with running(unknown_fields="refuse") as caller:
        assert (await caller.customers(strange)).json["details"] == "customers[0]: unknown field shoe_size"
        assert (await caller.customers(inside)).json["details"] == "customers[0].metrics.lifetime: unknown field spend"
        odd = customer("c", balance=[lot(1), lot(2, colour="red")])
        assert (await caller.customers(odd)).json["details"] == "customers[0].balance[1]: unknown field colour"
        assert (await caller.customers(customer("d", balance=[lot(1)]))).status == 201


async def test_name_offender_puts_the_id_into_the_details() -> None:
    async with running(name_offender=True) as caller:
        assert (await caller.customers(customer("a7", gender="X"))).json["details"].endswith("(customer a7)")
        assert "(customer" not in (await caller.customers(customer("a") | {"id": 7})).json["details"]


async def test_partial_refusal_takes_the_good_part() -> None:
    async with running(partial_refusal=True) as caller:
        answer = await caller.customers(customer("a"), customer("b", gender="X"), customer("c"), customer("c"))
        assert answer.status == 422
        assert answer.json["details"].startswith("customers[1].gender")
        assert (await caller.held("customers"))["count"] == 2
        assert (await caller.customers(customer("d", gender="X"))).status == 422
        assert (await caller.customers(customer("e"))).status == 201


async def test_one_byte_too_many_is_answered_with_413_with_and_without_a_length() -> None:
    body = orjson.dumps({"customers": [customer("a")]})
    async with running(max_body=len(body)) as caller:
        assert (await caller.call("POST", "/customers/migrate", body)).status == 201
        assert (await caller.call("POST", "/customers/migrate", body + b" ")).status == 413

        async def parts() -> Any:
            yield body
            yield b" "

        url = caller.sandbox.url + "/customers/migrate"
        async with caller.session.post(url, data=parts(), headers=caller.headers) as response:
            assert response.status == 413


async def test_a_compressed_body_is_not_accepted(caller: Caller) -> None:
    body = gzip.compress(orjson.dumps({"customers": [customer("a")]}))
    answer = await caller.call("POST", "/customers/migrate", body, **{"Content-Encoding": "gzip"})
    assert answer.status == 415
    assert (await caller.held("customers"))["count"] == 0


async def history(caller: Caller, *entries: dict[str, Any]) -> None:
    await caller.customers(customer("a", balance=[lot(5, issued_at="2023-10-01T00:00:00Z")]))
    total = sum(entry["amount"] for entry in entries)
    await caller.transactions({"a": [*entries, transaction(5 - total, issued_at="2019-12-31T23:59:59Z")]})
    await caller.sandbox.drain()


async def amounts(caller: Caller, path: str) -> list[Any]:
    return [entry["amount"] for entry in (await caller.get(path)).json["data"]]


async def test_transactions_are_shown_for_three_months_or_for_a_year_from_2020_on() -> None:
    clock = FakeClock()  # 2023-11-14
    recent, older = transaction(1, issued_at="2023-08-14T22:13:20Z"), transaction(2, issued_at="2023-08-14T22:13:19Z")
    async with running(clock) as caller:
        await history(caller, recent, older, transaction(3, issued_at="2020-01-01T01:00:00+01:00"))
        assert await amounts(caller, "/customers/a/transactions") == [1, 5]
        assert await amounts(caller, "/customers/a/transactions?year=2023") == [2, 1, 5]
        assert await amounts(caller, "/customers/a/transactions?year=2020") == [3]
        for year in ("2019", "soon", "20\u0662\u0663"):
            assert (await caller.get(f"/customers/a/transactions?year={year}")).status == 422
        assert (await caller.get("/customers/x/transactions")).status == 404


async def test_migration_entry_shows_the_balance_as_a_transaction() -> None:
    async with running(FakeClock()) as caller:
        await history(caller)
        data = (await caller.get("/customers/a/transactions?year=2023")).json["data"]
        assert [(entry["type"], entry["amount"]) for entry in data] == [("MIGRATION", 5)]
    async with running(FakeClock(), migration_entry=False) as caller:
        await history(caller)
        assert await amounts(caller, "/customers/a/transactions?year=2023") == []


async def test_transactions_can_be_narrowed_and_asked_for_by_day() -> None:
    mine = transaction(1, issued_at="2021-05-06T23:59:59Z", funded_by="us", cost=2.5, store_id="s", channel_id="c")
    gone = transaction(-1, issued_at="2021-05-06T00:00:00Z", type="REDEMPTION", event={"type": "PURCHASE"})
    async with running(FakeClock()) as caller:
        await history(caller, mine, gone, transaction(2, issued_at="2021-05-07T00:00:00Z"))
        assert await amounts(caller, "/transactions?date=06-05-2021") == [-1, 1]
        assert await amounts(caller, "/transactions?date=06-05-2021&funded_by=us") == [1]
        assert await amounts(caller, "/transactions?date=06-05-2021&event_id=x") == []
        assert await amounts(caller, "/customers/a/transactions?year=2021&type=REDEMPTION") == [-1]
        assert await amounts(caller, f"/customers/a/transactions?year=2021&reward_id={OTHER_REWARD}") == []
        redeemed, earned = (await caller.get("/transactions?date=06-05-2021")).json["data"]
        assert (redeemed["event_type"], redeemed["cost"]) == ("PURCHASE", None)
        assert (earned["cost"], earned["funded_by"], earned["type"]) == (2.5, "us", "ACCUMULATION")
        assert earned["store_id"] not in (None, "s")  # an internal id
        for query in ("", "?date=2021-05-06"):
            assert (await caller.get("/transactions" + query)).status == 422


async def test_an_expired_lot_is_taken_and_not_shown() -> None:
    async with running(FakeClock()) as caller:
        past, future = lot(1, expiration_date="2023-01-01T00:00:00Z"), lot(2, expiration_date="2033-01-01T00:00:00Z")
        await caller.customers(customer("a", balance=[past, future]))
        assert (await caller.held("customers"))["balances"] == {REWARD: "3"}
        wallet = (await caller.get("/customers/a")).json["data"]["wallet"]
        assert [line["amount"] for line in wallet["lines"]] == [2]
        assert wallet["totals"][0]["expiration_date"] == "2033-01-01T00:00:00.000Z"


async def test_every_reward_is_known_without_a_list(caller: Caller) -> None:
    await caller.customers(customer("a", balance=[lot(1, brand_id="b")]))
    await caller.sandbox.drain()
    assert [reward["id"] for reward in (await caller.get("/rewards?from=0&to=9")).json["data"]] == [REWARD]
    assert (await caller.get(f"/rewards/{REWARD}")).json["data"]["brand_id"] == "b"
    assert (await caller.get(f"/rewards/{OTHER_REWARD}")).json["data"]["brand_id"] is None
    assert (await caller.get("/rewards/gold")).status == 404
    assert [tier["level"] for tier in (await caller.get("/tiers")).json["data"]] == [1]


async def test_set_rewards_and_tiers_are_listed_by_page_brand_and_type() -> None:
    async with running(rewards={REWARD: None, OTHER_REWARD: "b"}, tiers={TIER}) as caller:
        assert (await caller.get(f"/rewards/{TIER}")).status == 404
        for query, expected in {
            "from=0&to=0": [REWARD],
            "from=1&to=5": [OTHER_REWARD],
            "from=0&to=9&brand_id=b": [OTHER_REWARD],
            "from=0&to=9&type=DISCOUNT": [],
        }.items():
            answer = await caller.get("/rewards?" + query)
            assert [reward["id"] for reward in answer.json["data"]] == expected
        assert (await caller.get("/rewards?from=0")).status == 422
        assert [tier["id"] for tier in (await caller.get("/tiers")).json["data"]] == [TIER]


async def test_consent_is_all_true_until_it_is_changed() -> None:
    async with running(customer_must_exist=False) as caller:
        await caller.customers(customer("a"))
        await caller.events({"stranger": [event("p")]})
        await caller.sandbox.drain()
        for name in ("a", "stranger"):
            path = f"/customers/{name}/consent"
            assert set((await caller.get(path)).json["data"]["consent"]["purposes"].values()) == {True}
            changed = {"consent": {"version": "2.0", "purposes": {"email_marketing": False}}}
            assert (await caller.call("PATCH", path, changed)).status == 200
            assert (await caller.call("PATCH", path, {"consent": {"version": "2.1"}})).status == 200
            consent = (await caller.get(path)).json["data"]["consent"]
            assert consent["version"] == "2.1"
            assert [name for name, allowed in consent["purposes"].items() if not allowed] == ["email_marketing"]
            profile = (await caller.get(f"/customers/{name}")).json["data"]["customer"]
            assert profile["consent"] == consent
        assert (await caller.call("PATCH", "/customers/a/consent", {"consent": 1})).status == 422
        wrong = {"consent": {"purposes": {"email_marketing": "no"}}}
        assert (await caller.call("PATCH", "/customers/a/consent", wrong)).status == 422
        assert (await caller.call("PATCH", "/customers/x/consent", {"consent": {}})).status == 404


async def test_a_missing_resource_is_404_with_an_error_body(caller: Caller) -> None:
    for method, path in (("GET", "/customers/x"), ("GET", "/customers"), ("POST", "/customers"), ("PUT", "/tiers")):
        answer = await caller.call(method, path)
        assert answer.status == 404
        assert set(answer.json) == {"error", "details"}


async def test_holds_are_listed_in_pages(caller: Caller) -> None:
    await caller.customers(*(customer(f"c{number}", balance=[lot(number)]) for number in range(5)))
    await caller.events({"c0": [event("", 1), event("", 1)], "c1": [event("p", 2, type="ADD_TO_CART")]})
    await caller.transactions({f"c{number}": [transaction(number)] for number in range(5)})
    await caller.sandbox.drain()
    for entity, count in (("customers", 5), ("events", 3), ("transactions", 5), ("requests", 4), ("dropped", 0)):
        named: list[Any] = []
        after: Any = ""
        while after is not None:
            page = await caller.own(f"holds?entity={entity}&after={after}&limit=2")
            named += page["holds"]
            after = page["next"]
        assert len(named) == len({entry["id"] for entry in named}) == count
    last = (await caller.own("holds?entity=events"))["holds"][-1]
    assert (last["owner"], last["purchase_id"], last["type"], last["value"]) == ("c1", "p", "ADD_TO_CART", "2")
    third = (await caller.own("holds?entity=transactions"))["holds"][2]
    assert (third["owner"], third["reward"], third["amount"]) == ("c2", REWARD, "2")
    assert (await caller.get("/_sandbox/holds?entity=orders")).status == 422
    assert (await caller.get("/_sandbox/holds?entity=events&after=x")).status == 422
    assert (await caller.get("/_sandbox/orders")).status == 404


async def test_the_ledger_is_the_same_over_the_wire(caller: Caller) -> None:
    await caller.customers(customer("a"))
    await caller.sandbox.drain()
    assert await caller.own("ledger") == caller.sandbox.ledger()


async def test_latency_delays_every_answer() -> None:
    async with running(latency="0.05-0.06") as caller:
        began = asyncio.get_running_loop().time()
        await caller.get("/tiers")
        assert asyncio.get_running_loop().time() - began >= 0.05


async def test_a_sandbox_that_is_not_running_says_so() -> None:
    sandbox = Sandbox(SandboxConfig())
    with pytest.raises(RuntimeError, match="not running"):
        sandbox.ledger()
    async with sandbox:
        taken = int(re.findall(r":(\d+)/", sandbox.url)[0])
        with pytest.raises(OSError, match="address"):
            await Sandbox().start(port=taken)


async def test_many_arrivals_are_stored_before_anyone_asks(caller: Caller) -> None:
    worker = caller.sandbox._running().worker
    for _ in range(MOST_PENDING):
        await worker.note(0.0, "read", "200", "")
    assert len(caller.sandbox._running().store.arrivals(0.0)) >= MOST_PENDING


async def test_serving_ends_at_a_signal_and_leaves_signals_as_they_were() -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        signal.raise_signal(signal.SIGTERM)

    await _serve(SandboxConfig(), "::1", 0, say)
    assert re.fullmatch(r"sandbox listens at http://\[::1\]:\d+/api/storefront/v1 with API key sandbox-key", said[0])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve_says_where_it_listens_and_ends_at_a_signal(number: signal.Signals) -> None:
    code = "from streammig.sandbox import *; serve(SandboxConfig(api_key='k1'))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    url = re.findall(r"http://127\.0\.0\.1:\d+/api/storefront/v1", line)[0]
    assert "k1" in line
    async with (
        aiohttp.ClientSession() as session,
        session.get(url + "/auth/authorize", headers={"x-api-key": "k1"}) as response,
    ):
        assert response.status == 200
    process.send_signal(number)
    assert await process.wait() == 0
    assert await process.stdout.read() == b""
