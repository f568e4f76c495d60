"""What read-back makes of the target's answers: all, part, nothing, or that it can't tell."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
import pytest_asyncio

from streammig.errors import Unusable
from streammig.masivo.answers import absences
from streammig.masivo.readback import MasivoReadBack
from streammig.model import Position, Record
from streammig.target import ReadBack, Seen
from tests.masivo_session import session_on
from tests.problems import raises
from tests.wire import Act, Wire, answer, listening, reset


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[Wire]:
    async with listening() as one:
        yield one


REWARD = "0b7e9c1e-6d0f-4a3e-9a52-3c8f5f1f4b11"


def record(owner: str, **members: object) -> Record:
    body = json.dumps({"id": owner, **members}, default=lambda number: float(number)).encode()
    return Record(Position(0, 0, len(body), 1), 0, owner, body, 1)


async def look(wire: Wire, stage: str, record: Record, *not_there: int | str) -> Seen:
    async with session_on(wire.url) as session:
        readback: ReadBack = MasivoReadBack(session, absences(not_there or (404,)))
        return await readback.visible(stage, record)


def customer(owner: object, **more: object) -> bytes:
    return answer(200, {"data": {"customer": {"id": owner, **more}, "wallet": {"lines": []}}})


@pytest.mark.parametrize(
    ("not_there", "act", "seen"),
    [
        (404, customer("c 1/ä"), Seen.ALL),
        (404, customer("c 1/ä", metrics={"lifetime": None}), Seen.ALL),
        (404, customer("another"), Seen.CANT_TELL),
        (404, customer(7), Seen.CANT_TELL),
        (404, answer(404, {"error": "not found", "details": ""}), Seen.NOTHING),
        (404, answer(404, "<html>no such page</html>"), Seen.CANT_TELL),
        (404, answer(200, "<html>Sign in</html>"), Seen.CANT_TELL),
        (404, answer(200, "{}"), Seen.CANT_TELL),
        (404, answer(204), Seen.CANT_TELL),
        (404, answer(302, Location="/"), Seen.CANT_TELL),
        (404, answer(429, Retry_After="1"), Seen.CANT_TELL),
        (404, answer(500), Seen.CANT_TELL),
        (404, reset, Seen.CANT_TELL),
        ("200 null", answer(200, " null "), Seen.NOTHING),
        ("200 null", answer(200, "{}"), Seen.CANT_TELL),
        ("200 null", answer(404, {"error": "x"}), Seen.CANT_TELL),
        ("200 {}", answer(200, "{ }"), Seen.NOTHING),
        ("200 {}", customer("c 1/ä"), Seen.ALL),
        (204, answer(204), Seen.NOTHING),
        (400, answer(400, {"error": "x"}), Seen.NOTHING),
        (400, answer(400, "<html>no</html>"), Seen.CANT_TELL),
        ('400 {"error":"x"}', answer(400, {"error": "y"}), Seen.CANT_TELL),
    ],
)
async def test_a_customer_is_there_or_not_as_the_setting_says_or_nobody_can_tell(
    wire: Wire, not_there: int | str, act: bytes | Act, seen: Seen
) -> None:
    wire.on("/customers/c%201%2F%C3%A4", act)
    assert await look(wire, "customers", record("c 1/ä"), not_there) is seen


@pytest.mark.parametrize("not_there", [200, "200", "200 nul", 401, 429, 500, "", "null", "404 x"])
def test_an_answer_that_can_not_mean_not_there_is_refused_as_a_setting(not_there: int | str) -> None:
    with raises(Unusable, "settings-invalid"):
        absences([not_there])


WHOLE = {
    "name": "Ana  María", "email": "Ana@Example.org", "registration_date": "2001-02-03T22:00:00-05:00",
    "gender": "FEMALE",
    "dob": "1980-01-01T00:00:00Z", "document_type": "CC", "document_number": "12 34", "is_anonymous": False,
    "country": "CO", "balance": [
        {"reward_id": REWARD, "amount": 2.50, "expiration_date": None},
        {"reward_id": REWARD, "amount": 1, "expiration_date": "2001-01-01T00:00:00Z"},
    ],
}  # fmt: skip
SHOWN = {
    "name": "ana maría", "email": "ana@example.org", "registration_date": "2001-02-04T03:00:00.000Z",
    "gender": "FEMALE",
    "dob": "1980-01-01", "document_type": "CC", "document_number": "12 34", "is_anonymous": False,
    "country": "Colombia",
    "metrics": {"lifetime": None}, "status": "ACTIVE",
}  # fmt: skip
LINES: list[dict[str, object]] = [
    {"reward_id": REWARD.upper(), "amount": 2, "expiration_date": None},
    {"reward_id": REWARD, "amount": "0.5"},
]


@pytest.mark.parametrize(
    ("shown", "wallet", "seen"),
    [
        ({}, {"lines": LINES}, Seen.ALL),
        ({"dob": None, "gender": None, "registration_date": None}, None, Seen.ALL),
        ({"dob": "1980-01-01T00:00:00"}, {"lines": None}, Seen.ALL),
        ({"dob": "1980-01-01T05:00:00+05:00"}, {"lines": LINES}, Seen.ALL),
        ({"registration_date": "2001-02-03"}, {"lines": LINES}, Seen.ALL),
        ({}, {"lines": [*LINES, {**LINES[0], "expiration_date": "2001-01-01T00:00:00"}]}, Seen.ALL),
        ({"registration_date": "04/02/2001"}, {"lines": LINES}, Seen.OTHER),
        ({"dob": 315532800}, {"lines": LINES}, Seen.OTHER),
        ({}, {"lines": "none"}, Seen.OTHER),
        ({}, {"lines": [{"reward_id": REWARD, "amount": "2.50 points"}]}, Seen.OTHER),
        ({}, {"lines": [{"reward_id": REWARD, "amount": 1, "expiration_date": "2001-01-01T00:00:00"}]}, Seen.OTHER),
        ({"name": "Eva"}, {"lines": LINES}, Seen.OTHER),
        ({"email": "eva@example.org"}, {"lines": LINES}, Seen.OTHER),
        ({"registration_date": "2001-02-03T22:00:00Z"}, {"lines": LINES}, Seen.OTHER),
        ({"dob": "1980-01-02"}, {"lines": LINES}, Seen.OTHER),
        ({"document_number": "12 35"}, {"lines": LINES}, Seen.OTHER),
        ({"is_anonymous": True}, {"lines": LINES}, Seen.OTHER),
        ({}, {"lines": []}, Seen.OTHER),
        ({}, {"lines": LINES * 2}, Seen.OTHER),
        ({}, {"lines": [*LINES, {"reward_id": "another", "amount": 1}]}, Seen.OTHER),
    ],
)
async def test_a_customer_is_compared_field_by_field_with_what_was_sent_and_what_cant_be_read_proves_nothing(
    wire: Wire, shown: dict[str, object], wallet: object, seen: Seen
) -> None:
    there = {"customer": {"id": "c", **SHOWN, **shown}, "wallet": wallet}
    wire.on("/customers/c", answer(200, {"data": there}))
    assert await look(wire, "customers", record("c", **WHOLE)) is seen


async def test_an_id_of_dots_does_not_leave_its_folder(wire: Wire) -> None:
    wire.on("/customers/%2E%2E", customer(".."))
    assert await look(wire, "customers", record("..")) is Seen.ALL


def sent(
    amount: object, issued: str = "2023-06-01T10:00:00Z", kind: str = "ACCUMULATION", reward: str = REWARD
) -> dict[str, object]:
    return {"reward_id": reward, "type": kind, "amount": amount, "issued_at": issued, "store_id": "shop"}


def rows(*each: dict[str, object]) -> bytes:
    return answer(200, {"data": [{**one, "store_id": "uuid", "cost": None} for one in each]})


@pytest.mark.parametrize(
    ("there", "seen"),
    [
        ([sent(4), sent(-2, kind="REDEMPTION"), sent(4)], Seen.ALL),
        ([sent(4.0), sent("-2.00", kind="REDEMPTION"), sent(4, reward=REWARD.upper())], Seen.ALL),
        ([sent(4), sent(-2, kind="REDEMPTION"), sent(4), sent(9)], Seen.ALL),
        ([sent(4), sent(-2, kind="REDEMPTION")], Seen.PART),
        ([sent(4)], Seen.PART),
        ([], Seen.NOTHING),
        ([sent(8)], Seen.NOTHING),
        ([sent(4, "2023-06-01T05:00:00.004-05:00")], Seen.PART),
        ([sent(4, "2023-06-02T10:00:00Z"), sent(-2, "2023-06-02T10:00:00Z", "REDEMPTION")], Seen.OTHER),
        ([sent(4, "2023-06-01T10:00:00")], Seen.OTHER),
        ([{**sent(4), "issued_at": None}], Seen.OTHER),
        ([sent(4, kind="MIGRATION"), sent(8, kind="MIGRATION")], Seen.NOTHING),
        ([sent("much")], Seen.CANT_TELL),
        ([{}], Seen.CANT_TELL),
    ],
)
async def test_transactions_are_compared_one_by_one(wire: Wire, there: list[dict[str, object]], seen: Seen) -> None:
    wire.on("/customers/c/transactions", rows(*there))
    one = record("c", transactions=[sent(4), sent(4), sent(-2, kind="REDEMPTION"), sent(9, kind="MIGRATION")])
    assert await look(wire, "transactions", one) is seen
    assert [path for path in wire.paths() if "customers" in path] == ["/customers/c/transactions?year=2023"]


async def test_amounts_are_compared_exactly(wire: Wire) -> None:
    exact = (
        b'{"data": [{"reward_id": "r", "type": "T", "amount": 0.1000000000000000000001,'
        b' "issued_at": "2023-06-01T10:00:00Z"}]}'
    )
    wire.on("/customers/c/transactions", answer(200, exact.decode()))
    body = b'{"transactions": [{"reward_id": "r", "type": "T", "amount": %s, "issued_at": "2023-06-01T10:00:00Z"}]}'
    for amount, seen in ((b"0.1", Seen.NOTHING), (b"0.1000000000000000000001", Seen.ALL)):
        one = Record(Position(0, 0, 1, 1), 0, "c", body % amount, 1, (("r", Decimal("0.1")),))
        assert await look(wire, "transactions", one) is seen


async def test_every_year_is_asked_for_and_both_around_new_year(wire: Wire) -> None:
    first, last = rows(sent(1, "2021-03-01T00:00:00Z")), rows(sent(2, "2024-01-01T01:00:00Z"))
    wire.on("/customers/c/transactions", first, rows(), last)
    late = "2023-12-31T20:00:00-05:00"
    one = record("c", transactions=[sent(1, "2021-03-01T00:00:00Z"), sent(2, late)])
    assert await look(wire, "transactions", one) is Seen.ALL
    asked = [path.partition("?")[2] for path in wire.paths() if "year" in path]
    assert asked == ["year=2021", "year=2023", "year=2024"]


async def test_what_is_older_than_can_be_asked_for_proves_nothing(wire: Wire) -> None:
    wire.on("/customers/c/transactions", rows())
    old = record("c", transactions=[sent(1, "2019-03-01T00:00:00Z"), sent(2, "0001-01-01T00:00:00Z")])
    assert await look(wire, "transactions", old) is Seen.CANT_TELL
    edge = record("c", transactions=[sent(1, "2020-01-01T05:00:00Z")])
    assert await look(wire, "transactions", edge) is Seen.CANT_TELL
    assert wire.seen == []
    mixed = record("c", transactions=[sent(1, "2019-03-01T00:00:00Z"), sent(2)])
    assert await look(wire, "transactions", mixed) is Seen.NOTHING


async def test_a_year_that_can_not_be_read_leaves_it_open(wire: Wire) -> None:
    wire.on("/customers/c/transactions", rows(sent(1)), answer(500))
    one = record("c", transactions=[sent(1, "2021-03-01T00:00:00Z"), sent(2)])
    assert await look(wire, "transactions", one) is Seen.CANT_TELL
    wire.on("/customers/c/transactions", answer(404))
    assert await look(wire, "transactions", one) is Seen.CANT_TELL


@pytest.mark.parametrize(
    ("metrics", "seen"),
    [
        ({"lifetime": {"number_of_purchases": 2}}, Seen.ALL),
        ({"lifetime": {"number_of_purchases": 5.0, "spend_total": 1}}, Seen.ALL),
        ({"lifetime": {"number_of_purchases": 1}}, Seen.CANT_TELL),
        ({"lifetime": {}}, Seen.CANT_TELL),
        ({"lifetime": None}, Seen.CANT_TELL),
        ({}, Seen.CANT_TELL),
        (None, Seen.CANT_TELL),
        ({"lifetime": {"number_of_purchases": None}}, Seen.CANT_TELL),
    ],
)
async def test_i3_purchase_counts_prove_landing_and_never_the_opposite(wire: Wire, metrics: object, seen: Seen) -> None:
    wire.on("/customers/c", customer("c", metrics=metrics))
    events = [{"type": "PURCHASE"}, {"type": "REGISTRATION"}, {"type": "PURCHASE"}]
    assert await look(wire, "events", record("c", events=events)) is seen


async def test_i3_a_customer_that_is_not_there_proves_nothing_of_its_events(wire: Wire) -> None:
    wire.on("/customers/c", answer(404))
    assert await look(wire, "events", record("c", events=[{"type": "PURCHASE"}])) is Seen.CANT_TELL


async def test_other_events_leave_no_trace_and_are_not_looked_for(wire: Wire) -> None:
    one = record("c", events=[{"type": "REGISTRATION"}])
    assert await look(wire, "events", one) is Seen.CANT_TELL
    assert wire.seen == []
    async with session_on(wire.url) as session:
        readback = MasivoReadBack(session)
        assert not readback.can_tell("events", one)
        assert readback.can_tell("events", record("c", events=[{"type": "PURCHASE"}]))
        assert readback.can_tell("customers", record("c"))
        assert readback.can_tell("transactions", record("c", transactions=[sent(1)]))
        assert not readback.can_tell("transactions", record("c", transactions=[sent(1, kind="MIGRATION")]))


@pytest.mark.parametrize(
    ("act", "reachable"),
    [(answer(200, {"data": []}), True), (answer(200, "<html>"), False), (answer(503), False), (reset, False)],
)
async def test_the_target_is_reachable_when_an_authenticated_read_succeeds(
    wire: Wire, act: bytes | Act, reachable: bool
) -> None:
    wire.on("/tiers", act)
    async with session_on(wire.url) as session:
        assert await MasivoReadBack(session).reachable() is reachable
    assert wire.seen[-1].headers["authorization"].startswith("Bearer ")
