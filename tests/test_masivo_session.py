"""Key to token, once for all, renewed in time; and authenticated reads. No secret shows itself anywhere."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
import traceback

import pytest

from streammig.errors import TargetStop
from streammig.masivo.http import Answer, NoAnswer
from streammig.masivo.session import Secret, _lifetime
from tests.masivo_session import KEY, Log, session_on
from tests.problems import raises
from tests.wire import Act, Wire, answer, cut, hang, jwt, listening, reset

AUTH = "/auth/authorize"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")


def text(token: Secret | NoAnswer) -> str:
    assert isinstance(token, Secret), token
    return token.reveal()


async def test_the_key_goes_to_the_exchange_and_the_token_to_everything_else() -> None:
    log = Log()
    async with listening() as wire:
        wire.on(AUTH, answer(200, {"data": "a-token"}))
        wire.on("/tiers", answer(200, {"data": []}))
        async with session_on(wire.url, log) as session:
            read = await session.get("/tiers", {"year": "2023", "a b": "&"})
    assert isinstance(read, Answer)
    assert read.body == b'{"data": []}'
    exchange, tiers = wire.seen
    assert exchange.headers["x-api-key"] == KEY
    assert "authorization" not in exchange.headers
    assert tiers.headers["authorization"] == "Bearer a-token"
    assert "x-api-key" not in tiers.headers
    assert tiers.path == "/tiers?year=2023&a+b=%26"
    assert exchange.connection == tiers.connection
    assert log.paced == 2


async def test_one_exchange_serves_everyone_who_asks_at_once() -> None:
    async with listening() as wire, session_on(wire.url) as session:
        tokens = await asyncio.gather(*(session.token() for _ in range(20)))
    assert len(wire.seen) == 1
    assert len({text(token) for token in tokens}) == 1


async def test_the_exchange_may_live_at_another_address() -> None:
    async with listening() as auth, listening() as wire, session_on(wire.url, auth_url=auth.url + "/") as session:
        wire.on("/tiers", answer(200))
        await session.get("/tiers")
    assert auth.paths() == [AUTH]
    assert wire.paths() == ["/tiers"]


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("token", "renewed_after", "expires_after"),
    [
        (jwt(exp=NOW + 3600), 3300, 3600),
        (jwt(exp=NOW + 3600 + 500, iat=NOW + 500), 3300, 3600),  # our clock is behind the target's
        (jwt(exp=NOW + 7200), 3600, 7200),
        (jwt(exp=NOW + 60), 30, 60),
        (jwt(exp=NOW - 60), 3300, 3600),
        (jwt(exp=(NOW + 3600) * 1000), 3300, 3600),
        (jwt(exp="soon"), 3300, 3600),
        (jwt(), 3300, 3600),
        ("no-jwt", 3300, 3600),
        ("a.b.c", 3300, 3600),
        ("a.!!!.c", 3300, 3600),
        ("a.WzFd.c", 3300, 3600),
    ],
)
def test_a_token_is_renewed_five_minutes_ahead_or_after_55(
    token: str, renewed_after: float, expires_after: float
) -> None:
    assert _lifetime(Secret(token), NOW) == pytest.approx((renewed_after, expires_after))


async def test_a_token_near_its_end_is_renewed_and_the_old_one_does_while_that_fails() -> None:
    async with listening() as wire, session_on(wire.url) as session:
        now = time.time()
        wire.on(AUTH, answer(200, {"data": jwt(exp=now + 0.4)}), answer(503), answer(200, {"data": "new"}))
        first = text(await session.token())
        await asyncio.sleep(0.23)
        assert text(await session.token()) == first
        assert text(await session.token()) == "new"
    assert len(wire.seen) == 3


async def test_an_expired_token_is_not_used_when_there_is_no_new_one() -> None:
    async with listening() as wire, session_on(wire.url) as session:
        wire.on(AUTH, answer(200, {"data": jwt(exp=time.time() + 0.1)}), answer(503))
        await session.token()
        await asyncio.sleep(0.12)
        assert await session.token() == NoAnswer(True, "HTTP 503", "http-503")


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (answer(401), "key-refused"),
        (answer(403, "<html>"), "key-refused"),
        (answer(404), "not-masivo"),
        (answer(302, Location="https://elsewhere.example"), "not-masivo"),
        (answer(200, "<html>Sign in</html>"), "not-masivo"),
        (answer(200, {"token": "x"}), "token-missing"),
        (answer(200, {"data": {"token": "x"}}), "token-missing"),
        (answer(200, {"data": ""}), "token-missing"),
        (answer(200, {"data": "a\r\nX: b"}), "token-missing"),
        (answer(200, "[1]"), "token-missing"),
    ],
)
async def test_a_refused_key_stops_with_a_hint_and_shows_nothing(act: bytes, code: str) -> None:
    async with listening() as wire, session_on(wire.url) as session:
        wire.on(AUTH, act)
        with raises(TargetStop, code) as caught:
            await session.renew()
    assert caught.value.hint
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert KEY not in shown


@pytest.mark.parametrize("act", [answer(503), reset, cut(b"HTTP/1.1 20"), answer(429, Retry_After="30"), answer(429)])
async def test_trouble_at_the_start_that_may_pass_is_waited_for_and_said(act: bytes | Act) -> None:
    log = Log()
    async with listening() as wire, session_on(wire.url, log) as session:
        wire.on(AUTH, act, act, answer(200, {"data": "token"}))
        await session.renew()
        assert text(await session.token()) == "token"
    assert len(log.waited) == 2
    assert log.waited[0][0].startswith(f"no token from {wire.url} yet: ")
    throttled = isinstance(act, bytes) and b" 429 " in act
    assert log.held == ([30.0, 30.0] if throttled and b"30" in act else [60.0, 60.0] if throttled else [])  # type: ignore[operator]
    assert log.paced == 3


async def test_later_a_lost_target_is_tried_once_and_left_to_the_caller() -> None:
    log = Log()
    async with listening() as wire, session_on(wire.url, log) as session:
        wire.on(AUTH, answer(200, {"data": "old"}), reset, reset, reset, answer(200, {"data": "new"}))
        old = await session.token()
        assert isinstance(old, Secret)
        await session.renew(old)
        assert isinstance(await session.token(), NoAnswer)
        assert text(await session.token()) == "new"
    assert log.waited == []


async def read(wire: Wire, *acts: bytes | Act, log: Log | None = None) -> Answer | NoAnswer:
    wire.on("/tiers", *acts)
    async with session_on(wire.url, log, request_timeout=0.3) as session:
        return await session.get("/tiers")


async def test_a_read_with_a_stale_token_is_made_once_more() -> None:
    async with listening() as wire:
        answered = await read(wire, answer(401), answer(200, "{}"))
    assert isinstance(answered, Answer)
    assert answered.status == 200
    assert wire.paths() == [AUTH, "/tiers", AUTH, "/tiers"]


@pytest.mark.parametrize(("status", "code"), [(401, "token-refused"), (403, "read-forbidden")])
async def test_a_read_that_is_refused_stops(status: int, code: str) -> None:
    async with listening() as wire:
        with raises(TargetStop, code):
            await read(wire, answer(status))


async def test_a_throttled_read_holds_the_account() -> None:
    log = Log()
    async with listening() as wire:
        for act in (answer(429, Retry_After="9"), answer(503, Retry_After="8"), answer(503)):
            assert isinstance(await read(wire, act, log=log), Answer)
        wire.on(AUTH, answer(503, Retry_After="7"), answer(200, {"data": "token"}))
        assert isinstance(await read(wire, answer(200), log=log), NoAnswer)
    assert log.held == [9.0, 8.0, 7.0]


@pytest.mark.parametrize("act", [reset, hang])
async def test_a_read_without_an_answer_is_a_value(act: Act) -> None:
    async with listening() as wire:
        answered = await read(wire, act)
    assert isinstance(answered, NoAnswer)
    assert answered.connected


async def test_a_read_without_a_token_is_no_read() -> None:
    async with listening() as wire:
        wire.on(AUTH, answer(500))
        assert await read(wire, answer(200)) == NoAnswer(True, "HTTP 500", "http-500")
    assert "/tiers" not in wire.paths()


async def test_a_redirect_of_a_read_is_not_followed() -> None:
    async with listening() as wire:
        wire.on("/elsewhere", answer(200))
        answered = await read(wire, answer(302, Location=f"{wire.url}/elsewhere"))
    assert isinstance(answered, Answer)
    assert answered.status == 302
    assert "/elsewhere" not in wire.paths()


def test_a_secret_shows_itself_nowhere() -> None:
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    assert f"{secret} {secret!r} {[secret]}" == "*** *** [***]"
    with pytest.raises(TypeError, match="not written"):
        pickle.dumps(secret)


async def test_no_secret_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    async with listening() as wire:
        wire.on(AUTH, answer(200, {"data": "token-which-nobody-may-see"}))
        await read(wire, answer(500), cut(b"nonsense"))
    assert KEY not in caplog.text
    assert "token-which" not in caplog.text


async def test_a_read_on_a_connection_that_was_closed_meanwhile_is_made_again() -> None:
    log = Log()
    async with listening() as wire:
        answered = await read(wire, reset, answer(200, "{}"), log=log)
        assert isinstance(answered, Answer)
        assert log.paced == 3
        # A second time it is no coincidence.
        assert isinstance(await read(wire, reset), NoAnswer)
    assert wire.paths() == [AUTH, "/tiers", "/tiers"] * 2
