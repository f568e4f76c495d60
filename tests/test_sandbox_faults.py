"""The sandbox's bad days: what a client sees, and what the sandbox holds afterwards."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from tests.sandbox_caller import Caller, FakeClock, customer, event, running


async def broken(caller: Caller, id_: str = "a") -> Exception:
    """How a customers request fails that gets no right answer."""
    with pytest.raises((aiohttp.ClientError, ConnectionError, ValueError)) as caught:
        await caller.customers(customer(id_))
    return caught.value


async def held(caller: Caller) -> int:
    count: int = (await caller.held("customers"))["count"]
    return count


async def answers(caller: Caller) -> Any:
    return caller.sandbox.ledger()["requests"]["customers"]


@pytest.mark.parametrize(("at", "landed"), [("head", 0), ("body", 0), ("done", 1)])
async def test_a_connection_is_reset_before_during_or_after_the_work(at: str, landed: int) -> None:
    async with running(script=[{"on": "customers", "nth": 1, "do": "reset", "at": at}]) as caller:
        failure = await broken(caller)
        assert isinstance(failure, (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError))
        assert await held(caller) == landed
        assert await answers(caller) == {"reset": 1}
        assert (await caller.customers(customer("b"))).status == 201


async def test_a_reset_is_a_reset_on_the_wire() -> None:
    async with running(script=[{"on": "customers", "do": "reset", "at": "done"}]) as caller:
        host, port = caller.sandbox.url.split("/")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /customers/migrate HTTP/1.1\r\nHost: x\r\nAuthorization: {caller.headers['Authorization']}\r\n"
        writer.write(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.parametrize("status", [200, 302, 307, 401, 403, 404, 413, 422, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("done", [False, True])
async def test_any_status_can_be_answered_before_and_after_the_work(status: int, done: bool) -> None:
    rule = {"on": "customers", "nth": 1, "do": "answer", "status": status, "done": done}
    async with running(script=[rule]) as caller:
        answer = await caller.customers(customer("a"))
        assert answer.status == status
        assert (set(answer.json) == {"error", "details"}) if status >= 400 else answer.text == ""
        assert await held(caller) == int(done)
        assert ("Location" in answer.headers) == (300 <= status < 400)


ODD = [408, 409, 425, 499, 405, 207]


@pytest.mark.parametrize("status", ODD)
@pytest.mark.parametrize(("share", "held_then"), [(None, 0), (0.0, 0), (0.5, 2), (1.0, 4)])
async def test_a_part_can_be_taken_whatever_the_answer(status: int, share: float | None, held_then: int) -> None:
    rule = {
        "on": "customers",
        "nth": 1,
        "do": "answer",
        "status": status,
        **({} if share is None else {"share": share}),
    }
    async with running(script=[rule]) as caller:
        assert (await caller.customers(*map(customer, "abcd"))).status == status
        assert await held(caller) == held_then


async def test_an_answer_can_count_what_was_taken_or_say_anything() -> None:
    rules = [
        {"on": "customers", "nth": 1, "do": "answer", "status": 200, "body": "count", "share": 0.75},
        {"on": "customers", "nth": 2, "do": "answer", "status": 207, "body": "list", "done": True},
        {"on": "customers", "nth": 3, "do": "answer", "status": 207, "body": "list"},
        {"on": "customers", "nth": 4, "do": "answer", "status": 201, "json": {"errors": ["x"]}},
        {"on": "customers", "nth": 5, "do": "answer", "status": 201, "body": "error", "done": True},
        {"on": "customers", "nth": 6, "do": "answer", "status": 200, "json": None},
    ]
    async with running(script=rules) as caller:
        said = [(await caller.customers(*(customer(f"{n}{it}") for it in "abcd"))).json for n in range(6)]
        assert said[0] == {"success": False, "saved_count": 3, "requested_count": 4}
        assert [it["status"] for it in said[1]] == [201] * 4
        assert [it["status"] for it in said[2]] == [422] * 4
        assert said[3] == {"errors": ["x"]}
        assert set(said[4]) == {"error", "details"}
        assert said[5] is None
        assert await held(caller) == 3 + 4 + 4


@pytest.mark.parametrize(
    ("say", "status", "text"), [("404", 404, '"error"'), ("null", 200, "null"), ("object", 200, "{}"), ("204", 204, ""),
                                ("400", 400, '"error"')],
)  # fmt: skip
async def test_a_read_of_a_customer_who_is_not_there_says_what_the_script_says(
    say: str, status: int, text: str
) -> None:
    async with running(script=[{"do": "missing", "as": say}]) as caller:
        await caller.customers(customer("a"))
        assert await held(caller) == 1
        assert (await caller.get("/customers/a")).json["data"]["customer"]["id"] == "a"
        answer = await caller.get("/customers/b")
        assert answer.status == status
        assert text in answer.text
        assert (await caller.get("/tiers")).status == 200


async def test_an_answer_can_be_a_page_or_broken_json() -> None:
    rules = [
        {"on": "customers", "nth": 1, "do": "answer", "status": 502, "body": "html"},
        {"on": "customers", "nth": 2, "do": "answer", "status": 200, "body": "html"},
        {"on": "customers", "nth": 3, "do": "answer", "status": 201, "body": "invalid-json", "done": True},
        {"on": "customers", "nth": 4, "do": "answer", "status": 500, "body": "empty"},
    ]
    async with running(script=rules) as caller:
        for status in (502, 200):
            page = await caller.customers(customer("a"))
            assert (page.status, page.headers["Content-Type"]) == (status, "text/html")
            assert page.text.startswith("<!DOCTYPE html>")
        half = await caller.customers(customer("a"))
        with pytest.raises(ValueError, match=r"JSON|end of"):
            _ = half.json
        assert (await caller.customers(customer("b"))).text == ""
        assert await held(caller) == 1


async def test_retry_after_is_seconds_a_date_or_any_text() -> None:
    clock = FakeClock()
    rules = [
        {"on": "customers", "nth": 1, "do": "answer", "status": 429, "retry_after": 2},
        {"on": "customers", "nth": 2, "do": "answer", "status": 429, "retry_after_date": 30},
        {"on": "customers", "nth": 3, "do": "answer", "status": 429, "retry_after": "next Tuesday"},
        {"on": "customers", "nth": 4, "do": "answer", "status": 429},
    ]
    async with running(clock, script=rules) as caller:
        told = [(await caller.customers(customer("a"))).headers.get("Retry-After") for _ in rules]
        assert told[0] == "2"
        assert parsedate_to_datetime(str(told[1])).timestamp() == clock.now + 30
        assert told[2:] == ["next Tuesday", None]
        assert await held(caller) == 0


async def test_a_redirect_leads_where_it_says() -> None:
    rules = [{"on": "read", "do": "answer", "status": 302, "location": "http://127.0.0.1:9/elsewhere"}]
    async with running(script=rules) as caller:
        assert (await caller.get("/tiers")).headers["Location"] == "http://127.0.0.1:9/elsewhere"


async def test_revoking_ends_old_tokens_and_not_new_ones() -> None:
    async with running(script=[{"on": "customers", "nth": 2, "do": "revoke"}]) as caller:
        assert (await caller.customers(customer("a"))).status == 201
        assert (await caller.customers(customer("b"))).status == 401
        assert (await caller.customers(customer("b"))).status == 401
        await caller.authorize()
        assert (await caller.customers(customer("b"))).status == 201


@pytest.mark.parametrize("done", [False, True])
async def test_hang_gives_no_answer_and_then_closes_the_connection(done: bool) -> None:
    async with running(script=[{"on": "customers", "do": "hang", "seconds": 0.1, "done": done}]) as caller:
        began = asyncio.get_running_loop().time()
        assert isinstance(await broken(caller), aiohttp.ServerDisconnectedError)
        assert asyncio.get_running_loop().time() - began >= 0.1
        assert await held(caller) == int(done)
        assert await answers(caller) == {"hang": 1}


async def test_a_hang_does_not_keep_the_sandbox_from_stopping() -> None:
    async with running(script=[{"on": "customers", "do": "hang"}]) as caller:
        hanging = asyncio.create_task(broken(caller))
        await asyncio.sleep(0.05)
    assert isinstance(await hanging, (aiohttp.ClientError, ConnectionError, RuntimeError))


async def test_a_slow_answer_is_the_right_one() -> None:
    async with running(script=[{"on": "customers", "do": "slow", "seconds": 0.1}]) as caller:
        began = asyncio.get_running_loop().time()
        assert (await caller.customers(customer("a"))).status == 201
        assert asyncio.get_running_loop().time() - began >= 0.1
        assert await held(caller) == 1


async def test_a_dripping_answer_is_the_right_one_byte_by_byte() -> None:
    async with running(script=[{"on": "any", "from": 2, "do": "drip", "seconds": 0.05}]) as caller:
        began = asyncio.get_running_loop().time()
        answer = await caller.get("/tiers")
        assert answer.status == 200
        assert len(answer.json["data"]) == 1
        assert "Date" in answer.headers
        assert asyncio.get_running_loop().time() - began >= 0.05
        assert (await caller.customers(customer("a"))).status == 201
        assert await held(caller) == 1


async def test_a_client_may_leave_during_a_drip() -> None:
    async with running(script=[{"on": "customers", "do": "drip", "seconds": 0.1}]) as caller:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await caller.customers(customer("a"))
        await asyncio.sleep(0.1)
        assert await held(caller) == 1


@pytest.mark.parametrize("at", ["head", "body"])
async def test_a_truncated_answer_breaks_off_after_the_work(at: str) -> None:
    async with running(script=[{"on": "customers", "do": "truncate", "at": at}]) as caller:
        assert isinstance(await broken(caller), aiohttp.ClientError)
        assert await held(caller) == 1
        assert await answers(caller) == {"truncated": 1}


async def test_a_partial_refusal_says_422_and_takes_the_good_part() -> None:
    rules = [
        {"on": "customers", "nth": 1, "do": "partial", "bad": 2},
        {"on": "customers", "nth": 2, "do": "partial", "bad": 0},
    ]
    async with running(script=rules) as caller:
        answer = await caller.customers(*(customer(f"c{number}") for number in range(5)))
        assert answer.status == 422
        assert answer.json["details"].startswith("customers[0]")
        assert [entry["id"] for entry in (await settled(caller))] == ["c2", "c3", "c4"]
        assert (await caller.customers(customer("d"), customer("e", gender="X"))).status == 422
        assert [entry["id"] for entry in (await settled(caller))][3:] == ["d"]


async def settled(caller: Caller) -> Any:
    await caller.sandbox.drain()
    return caller.sandbox.holds("customers")["holds"]


async def test_lose_drops_the_chosen_records_and_the_ledger_counts_them() -> None:
    rules = [
        {"on": "customers", "nth": 1, "do": "lose", "records": [1, 9]},
        {"on": "customers", "nth": 2, "do": "lose", "share": 0.5},
        {"on": "events", "do": "lose"},
    ]
    async with running(script=rules, seed=5) as caller:
        assert (await caller.customers(customer("a"), customer("b"), customer("c"))).status == 201
        assert [entry["id"] for entry in (await settled(caller))] == ["a", "c"]
        assert (await caller.customers(*(customer(f"d{number}") for number in range(40)))).status == 201
        assert 10 < await held(caller) - 2 < 30
        assert (await caller.events({"a": [event("p"), event("q")]})).status == 201
        assert (await caller.held("events"))["count"] == 0
        dropped = caller.sandbox.ledger()["dropped"]
        assert dropped["customers"]["lost"]["count"] == 43 - await held(caller)
        assert dropped["events"] == {"lost": {"count": 1, "units": 2, "examples": ["a"]}}


async def test_a_late_batch_is_applied_after_a_newer_one() -> None:
    clock = FakeClock()
    async with running(clock, script=[{"on": "customers", "nth": 1, "do": "late", "seconds": 60}]) as caller:
        await caller.customers(customer("a", email="same@example.org"))
        await caller.customers(customer("b", email="same@example.org"))
        clock.now += 61
        assert [entry["id"] for entry in (await settled(caller))] == ["b"]


async def test_a_fault_on_authorization_gives_no_token() -> None:
    async with running(token=False, script=[{"on": "auth", "nth": 1, "do": "answer", "status": 503}]) as caller:
        assert (await caller.call("GET", "/auth/authorize", **{"x-api-key": "sandbox-key"})).status == 503
        await caller.authorize()


async def test_a_client_that_disconnects_during_its_body_is_recorded(caller: Caller) -> None:
    host, port = caller.sandbox.url.split("/")[2].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /customers/migrate HTTP/1.1\r\nHost: x\r\nAuthorization: {caller.headers['Authorization']}\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()
    await asyncio.sleep(0.05)
    assert await answers(caller) == {"client-gone": 1}
