"""One POST and what became of it: every receipt, proven over real sockets, and what never happens."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
import subprocess
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from streammig.errors import Unusable
from streammig.masivo.answers import classify, conditions
from streammig.masivo.client import MasivoClient
from streammig.masivo.http import Answer, check_base_url, proxy_for, retry_after
from streammig.masivo.session import Session
from streammig.model import Kind, Receipt
from tests.masivo_session import KEY, WallClock, session_on
from tests.problems import raises
from tests.wire import Act, Wire, answer, closed_port, cut, hang, jwt, listening, reset, speaking

PATH = "/customers/migrate"
BODY = b'{"customers":[{"id":"a"}]}'
COUNTS = ("accepted", "saved", "saved_count", "enqueued", "imported", "processed")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


async def sent(wire: Wire, *acts: bytes | Act, began: Callable[[], None] = lambda: None, **options: Any) -> Receipt:
    wire.on(PATH, *acts)
    async with session_on(wire.url, **options) as session:
        return await MasivoClient(session, WallClock()).send("customers", BODY, began)


HUGE = {"X": "y" * 300_000}
GZIP = {"Content_Encoding": "gzip"}
NO = {"error": "Internal", "details": "queue full"}


@pytest.mark.parametrize(
    ("act", "kind", "stop_after", "code"),
    [
        *((answer(status), Kind.ACCEPTED, 0, f"http-{status}") for status in (200, 201, 202, 204)),
        (answer(201, {"message": "enqueued"}), Kind.ACCEPTED, 0, "http-201"),
        (answer(200, "null"), Kind.ACCEPTED, 0, "http-200"),
        (answer(201, "Created"), Kind.ACCEPTED, 0, "http-201"),
        (answer(200, "{}", Set_Cookie="x" * 9000), Kind.ACCEPTED, 0, "http-200"),
        (answer(200, "{}", **GZIP), Kind.ACCEPTED, 0, "http-200"),
        (answer(200, gzip.compress(b"{}", mtime=0), **GZIP), Kind.ACCEPTED, 0, "http-200"),
        (answer(200, gzip.compress(json.dumps(NO).encode(), mtime=0), **GZIP), Kind.UNKNOWN, 0, "says-no"),
        *((answer(status, json.dumps(NO)), Kind.UNKNOWN, 0, "says-no") for status in (200, 201, 202)),
        (answer(207), Kind.UNKNOWN, 0, "says-no"),
        (answer(207, "[]"), Kind.UNKNOWN, 0, "says-no"),
        (answer(203), Kind.UNKNOWN, 2, "http-203"),
        (answer(206, {}), Kind.UNKNOWN, 2, "http-206"),
        (answer(200, "fine"), Kind.UNKNOWN, 0, "not-json"),
        (answer(201, '{"message": "enq', Content_Type="application/json"), Kind.UNKNOWN, 0, "not-json"),
        (answer(200, "<html>Sign in</html>"), Kind.UNKNOWN, 1, "html-in-2xx"),
        (answer(201, "Sign in", Content_Type="text/html; charset=utf-8"), Kind.UNKNOWN, 1, "html-in-2xx"),
        (answer(207, "<html>Sign in</html>"), Kind.UNKNOWN, 1, "html-in-2xx"),
        (answer(201, b'"' + b"x" * 70_000 + b'"'), Kind.UNKNOWN, 0, "answer-cut"),
        *((answer(status, {"error": "bad"}), Kind.REJECTED, 0, f"http-{status}") for status in (400, 422)),
        (answer(401), Kind.UNAUTHORIZED, 0, "http-401"),
        *((answer(status), Kind.REJECTED, 1, f"http-{status}") for status in (403, 404, 405)),
        *((answer(status), Kind.UNKNOWN, 0, f"http-{status}") for status in (408, 425)),
        *((answer(status, Location="/x"), Kind.UNKNOWN, 2, f"http-{status}") for status in (101, 301, 302, 307, 308)),
        *((answer(status), Kind.UNKNOWN, 2, f"http-{status}") for status in (402, 406, 409, 410, 415, 418, 499)),
        (answer(413), Kind.TOO_LARGE, 0, "http-413"),
        (answer(429, Retry_After="7"), Kind.THROTTLED, 0, "http-429"),
        *((answer(status, "<p>no"), Kind.UNKNOWN, 0, f"http-{status}") for status in (500, 502, 503, 504, 524)),
        (reset, Kind.UNKNOWN, 0, "connection-closed"),
        (cut(b""), Kind.UNKNOWN, 0, "connection-closed"),
        (cut(b"HTTP/1.1 201 Cre"), Kind.UNKNOWN, 0, "connection-closed"),
        (cut(b"HTTP/1.1 100 Continue\r\n\r\n"), Kind.UNKNOWN, 0, "connection-closed"),
        (cut(b'HTTP/1.1 201 Created\r\nContent-Length: 50\r\n\r\n{"mess'), Kind.UNKNOWN, 0, "answer-cut"),
        (cut(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), Kind.UNKNOWN, 0, "no-http"),
        (answer(201, **HUGE), Kind.UNKNOWN, 0, "no-http"),
    ],
)
async def test_every_answer_has_its_receipt(act: bytes | Act, kind: Kind, stop_after: int, code: str) -> None:
    begun: list[float] = []
    async with listening() as wire:
        receipt = await sent(wire, act, began=lambda: begun.append(time.monotonic()))
    assert (receipt.kind, receipt.stop_after, receipt.code) == (kind, stop_after, code), receipt
    assert len(begun) == 1
    assert wire.paths().count(PATH) == 1
    assert receipt.latency > 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Kind.UNAUTHORIZED),
        (413, Kind.TOO_LARGE),
        (422, Kind.REJECTED),
        (429, Kind.THROTTLED),
        (403, Kind.REJECTED),
    ],
)
@pytest.mark.parametrize("fault", ["cut", "mislabelled", "chunked", "stalled"])
async def test_the_status_decides_where_the_answer_can_not_be_read(status: int, kind: Kind, fault: str) -> None:
    async def stalled(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 %d X\r\nRetry-After: 3\r\nContent-Length: 99\r\n\r\n{"error": "bad' % status)
        await writer.drain()
        await asyncio.sleep(3600)

    head = b"HTTP/1.1 %d X\r\nRetry-After: 3\r\n" % status
    acts: dict[str, bytes | Act] = {
        "cut": cut(head + b'Content-Length: 99\r\n\r\n{"error": "bad'),
        "mislabelled": answer(status, '{"error": "bad"}', Retry_After="3", **GZIP),
        "chunked": cut(head + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"bad'),
        "stalled": stalled,
    }
    async with listening() as wire:
        receipt = await sent(wire, acts[fault], request_timeout=0.2 if fault == "stalled" else 2.0)
    assert (receipt.kind, receipt.status) == (kind, status)
    assert "bad" in receipt.message
    assert receipt.retry_after == (3.0 if status == 429 else None)


SENT = b'{"customers":[{"id":"a"},{"id":"b"},{"id":"c"}]}'


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        *(({name: 2}, Kind.UNKNOWN) for name in COUNTS),
        *(({name: 3}, Kind.ACCEPTED) for name in COUNTS),
        *(({name: 9}, Kind.ACCEPTED) for name in COUNTS),
        *(({name: False}, Kind.UNKNOWN) for name in ("success", "ok", "accepted")),
        *(({name: True}, Kind.ACCEPTED) for name in ("success", "ok", "accepted")),
        *(({name: 1}, Kind.UNKNOWN) for name in ("failed", "rejected")),
        *(({name: 0}, Kind.ACCEPTED) for name in ("failed", "rejected")),
        *(({name: ["a"]}, Kind.UNKNOWN) for name in ("failed", "rejected", "errors", "saved")),
        *(({name: []}, Kind.ACCEPTED) for name in ("failed", "rejected", "errors")),
        *(({name: None}, Kind.ACCEPTED) for name in ("error", "errors", "saved", "success", "failed")),
        ({"error": ""}, Kind.ACCEPTED),
        ({"error": {"code": 5}}, Kind.UNKNOWN),
        ({"saved": 3, "processed": 2}, Kind.UNKNOWN),
        ({"success": True, "saved_count": 2, "requested_count": 3}, Kind.UNKNOWN),
    ],
)
def test_i4_a_yes_that_says_no_is_unknown_and_its_words_are_kept(said: dict[str, object], kind: Kind) -> None:
    receipt = read(200, json.dumps(said).encode(), sent=SENT)
    assert receipt.kind is kind
    assert receipt.in_part is (kind is Kind.UNKNOWN)
    assert receipt.message == (json.dumps(said) if kind is Kind.UNKNOWN else "")


@pytest.mark.parametrize(
    ("said", "accepted_if", "refused_if", "kind"),
    [
        ({"status": "queued"}, ["status=queued"], [], Kind.ACCEPTED),
        ({"status": "lost"}, ["status=queued"], [], Kind.UNKNOWN),
        ({"errors": ["none"], "status": "queued"}, ["status=queued"], [], Kind.ACCEPTED),
        ({"data": [{"n": 3}]}, ["data.0.n=3"], [], Kind.ACCEPTED),
        ({"data": [{"n": 3}]}, ["data.1.n=3"], [], Kind.UNKNOWN),
        ({"done": True}, ["done=true"], [], Kind.ACCEPTED),
        ({"job": "77"}, ["job"], [], Kind.ACCEPTED),
        ({"job": ""}, ["job"], [], Kind.UNKNOWN),
        ({"status": "lost"}, [], ["status=lost"], Kind.UNKNOWN),
        ({"status": "fine"}, [], ["status=lost"], Kind.ACCEPTED),
        ({"a": 1, "b": 1}, ["a=1"], ["b=1"], Kind.UNKNOWN),
    ],
)
def test_conditions_overrule_what_an_answer_seems_to_say(
    said: dict[str, object], accepted_if: list[str], refused_if: list[str], kind: Kind
) -> None:
    for status in (200, 207):
        receipt = read(status, json.dumps(said).encode(), rules=conditions(accepted_if, refused_if))
        assert receipt.kind is (kind if status == 200 or accepted_if else Kind.UNKNOWN)


@pytest.mark.parametrize("text", ["", "=x", "a..b=1", " . "])
def test_a_condition_that_names_no_field_is_refused(text: str) -> None:
    with raises(Unusable, "settings-invalid"):
        conditions([text])


def test_fields_of_a_yes_that_nobody_judges_are_named() -> None:
    receipt = read(201, b'{"message": "3 were dropped", "saved": 3, "queue": null}', sent=SENT)
    assert (receipt.kind, receipt.unjudged) == (Kind.ACCEPTED, ("message", "queue"))


@pytest.mark.parametrize(
    ("status", "seconds"), [(408, 9.0), (425, 9.0), (429, 9.0), (503, 9.0), (500, None), (409, None)]
)
def test_who_may_ask_for_a_pause(status: int, seconds: float | None) -> None:
    assert read(status, b"", retry="9").retry_after == seconds


async def test_a_request_carries_token_and_body_and_nothing_else_of_note() -> None:
    async with listening() as wire:
        wire.on("/auth/authorize", answer(200, {"data": "token"}, Set_Cookie="a=b; Path=/"))
        receipt = await sent(wire, answer(201, Date="Tue, 14 Nov 2023 22:13:20 GMT"))
        (request,) = [each for each in wire.seen if each.path == PATH]
    assert receipt.date == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert request.method == "POST"
    assert request.body == BODY
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer token"
    assert request.headers["content-length"] == str(len(BODY))
    assert not {"cookie", "content-encoding", "transfer-encoding", "expect", "x-api-key"} & request.headers.keys()


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_a_target_that_repeats_the_headers_does_not_bring_token_or_key_into_the_receipt(status: int) -> None:
    token = jwt(exp=time.time() + 3600)
    said: dict[str, object] = {"error": "bad", "details": {"authorization": f"Bearer {token}", "x-api-key": KEY}}
    async with listening() as wire:
        wire.on("/auth/authorize", answer(200, {"data": token}))
        receipt = await sent(wire, answer(status, said))
    assert "Bearer ***" in receipt.message
    assert token not in receipt.message
    assert KEY not in receipt.message


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize(
    "escaped",
    [
        lambda text: text,
        lambda text: text.replace("/", "\\/"),
        lambda text: text.replace("/", "\\\\/"),
        lambda text: text.replace("+", "\\u002B").replace("/", "\\u002f"),
        lambda text: text.replace("+", "%2B").replace("/", "%2f"),
        lambda text: text.replace("+", "%252B"),
        lambda text: text.replace("+", "&#43;").replace("/", "&#x2F;").replace("=", "&equals;"),
    ],
)
@pytest.mark.parametrize("form", ['{"error": "bad %s"}', "bad %s", "x" * 990 + " %s", " " * 3990 + "%s"])
async def test_a_token_is_blotted_out_however_the_answer_escapes_it(
    status: int, escaped: Callable[[str], str], form: str
) -> None:
    token = "ab+cd/ef+gh/ij%2Bkl=="
    async with listening() as wire:
        wire.on("/auth/authorize", answer(200, {"data": token}))
        receipt = await sent(wire, answer(status, form % escaped(token)))
    assert "ab+" not in receipt.message
    assert "cd" not in receipt.message
    assert receipt.message.startswith(("bad ***", "x", "***"))


async def test_every_stage_has_its_endpoint_and_every_request_its_connection() -> None:
    async with listening() as wire:
        for path in (PATH, PATH + "/events", PATH + "/transactions"):
            wire.on(path, answer(201))
        async with session_on(wire.url) as session:
            client = MasivoClient(session, WallClock())
            for stage in ("customers", "events", "transactions", "events"):
                assert (await client.send(stage, BODY)).kind is Kind.ACCEPTED
    posts = [each for each in wire.seen if each.method == "POST"]
    assert [each.path for each in posts] == [PATH, PATH + "/events", PATH + "/transactions", PATH + "/events"]
    assert len({each.connection for each in posts}) == 4


async def test_a_body_of_four_megabytes_arrives_whole() -> None:
    body = b'{"customers":["' + b"x" * 4_000_000 + b'"]}'
    async with listening() as wire:
        wire.on(PATH, answer(201))
        async with session_on(wire.url) as session:
            assert (await MasivoClient(session, WallClock()).send("customers", body)).kind is Kind.ACCEPTED
    assert wire.seen[-1].body == body


async def test_a_target_that_never_answers_is_unknown_after_the_timeout() -> None:
    async with listening() as wire:
        receipt = await sent(wire, hang, request_timeout=0.1)
    assert receipt.kind is Kind.UNKNOWN
    assert receipt.message == "no answer within 0.1 s"
    assert 0.09 < receipt.latency < 1.5


async def test_a_slow_drip_is_cut_off_by_the_same_deadline() -> None:
    async def drip(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with listening() as wire:
        receipt = await sent(wire, drip, request_timeout=0.15)
    assert receipt.kind is Kind.UNKNOWN
    assert receipt.latency < 1.5


async def not_sent(session: Session, began: Callable[[], None]) -> Receipt:
    """With a token from before, so that the POST itself is what fails."""
    return await MasivoClient(session, WallClock()).send("customers", BODY, began)


@pytest.mark.parametrize("host", ["localhost", "no-such-host.invalid"])
async def test_where_no_connection_is_made_nothing_was_sent(host: str) -> None:
    def began() -> None:
        raise AssertionError("nothing left")

    async with listening() as wire, session_on(wire.url) as session:
        await session.renew()
        session.base_url = f"https://{host}:{closed_port()}"
        receipt = await not_sent(session, began)
    assert receipt.kind is Kind.NOT_SENT
    assert receipt.status is None
    assert receipt.message
    assert receipt.latency == 0.0


async def test_a_connection_that_takes_too_long_was_not_made() -> None:
    """A TLS handshake that the other side never answers."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening() as wire, speaking(silent) as port, session_on(wire.url, connect_timeout=0.1) as session:
        await session.renew()
        session.base_url = f"https://localhost:{port}"
        receipt = await not_sent(session, lambda: None)
    assert receipt.kind is Kind.NOT_SENT
    assert receipt.message == "no connection within 0.1 s"


async def test_a_2xx_that_comes_before_the_body_has_left_is_no_acceptance() -> None:
    """The connection ends with the answer: what had not left yet never arrives."""

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(201, {}))
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()
        ended.set()

    ended = asyncio.Event()
    async with listening() as wire, speaking(hasty) as port, session_on(wire.url) as session:
        await session.renew()
        session.base_url = f"http://127.0.0.1:{port}"
        receipt = await MasivoClient(session, WallClock()).send("customers", b" " * 20_000_000)
        await ended.wait()
    assert (receipt.kind, receipt.status) == (Kind.UNKNOWN, None)
    assert receipt.message == "201 came before all of the request had left"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate for localhost in one file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", path.with_suffix(".key"),
         "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + path.with_suffix(".key").read_text())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_certificate_that_nobody_vouches_for_means_not_sent(tls: ssl.SSLContext) -> None:
    async with listening(tls) as secure, listening() as wire, session_on(wire.url) as session:
        await session.renew()
        session.base_url = secure.url
        secure.on(PATH, answer(201))
        receipt = await not_sent(session, lambda: None)
    assert receipt.kind is Kind.NOT_SENT
    assert "certificate is not trusted" in receipt.message
    assert secure.seen == []


async def test_the_environment_names_who_vouches(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with listening(tls) as wire:
        assert (await sent(wire, answer(201))).kind is Kind.ACCEPTED
        assert (await sent(wire, reset)).kind is Kind.UNKNOWN


async def test_no_tls_on_the_other_side_means_not_sent() -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(400, "this is plain http"))
        await writer.drain()
        writer.close()

    async with listening() as wire, speaking(plain) as port, session_on(wire.url) as session:
        await session.renew()
        session.base_url = f"https://localhost:{port}"
        receipt = await not_sent(session, lambda: None)
    assert receipt.kind is Kind.NOT_SENT


@pytest.mark.parametrize("status", [407, 502])
async def test_a_proxy_that_refuses_the_connection_means_not_sent(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(status, "no"))
        await writer.drain()
        writer.close()

    async with listening() as wire, speaking(refuse) as port, session_on(wire.url) as session:
        await session.renew()
        monkeypatch.setenv("https_proxy", f"http://user:pass-word@127.0.0.1:{port}")
        session.base_url = "https://masivo.invalid"
        receipt = await not_sent(session, lambda: None)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
        session.base_url = "https://another.invalid"  # the proxy is looked up once for a host
        unreachable = await not_sent(session, lambda: None)
    assert receipt.kind is unreachable.kind is Kind.NOT_SENT
    assert receipt.message == f"the proxy refused to connect (HTTP {status})"
    assert "pass-word" not in receipt.message
    assert unreachable.message.startswith("the proxy can't be reached")
    assert asked[0].startswith(b"CONNECT masivo.invalid:443 ")
    assert b"Proxy-Authorization: Basic" in asked[0]
    assert b"Bearer" not in asked[0]


def test_the_proxy_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("https://a.example") == (None, None)
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost,b.example")
    assert str(proxy_for("https://a.example")[0]) == "http://proxy.example:3128"
    assert proxy_for("https://b.example:8443/x") == (None, None)
    assert proxy_for("http://a.example") == (None, None)


@pytest.mark.parametrize(
    "named",
    [
        "http://u:pass-word/x@h:1",
        "http://u:x@h:pass-word",
        "http://u:pass-word@h:99999",
        "http://",
        "socks5://u:pass-word@h:1",
        "http://[h",
    ],
)
def test_a_proxy_that_is_no_address_is_the_users_mistake_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("https_proxy", named)
    with raises(Unusable, "proxy-invalid") as caught:
        proxy_for("https://a.example")
    assert "pass-word" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_a_netrc_for_the_host_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine localhost login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with listening() as wire:
        assert (await sent(wire, answer(201))).kind is Kind.ACCEPTED
    assert wire.seen[-1].headers["authorization"].startswith("Bearer ")


async def test_a_cancel_passes_and_its_traceback_shows_no_token() -> None:
    arrived = asyncio.Event()

    async def act(_: object, __: object) -> None:
        arrived.set()
        await asyncio.sleep(3600)

    async with listening() as wire:
        token = jwt(exp=2_000_000_000, secret="of the token")
        wire.on("/auth/authorize", answer(200, {"data": token}))
        task = asyncio.create_task(sent(wire, act))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    error: BaseException | None = caught.value
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                assert token not in repr(trace.tb_frame.f_locals)
            trace = trace.tb_next
        error = error.__context__


async def test_without_a_token_nothing_is_sent() -> None:
    async with listening() as wire:
        wire.on("/auth/authorize", answer(503))
        assert await sent(wire, answer(201)) == Receipt(Kind.NOT_SENT, message="no token: HTTP 503", code="http-503")
        wire.on("/auth/authorize", answer(401))
        assert (await sent(wire, answer(201))).kind is Kind.UNAUTHORIZED
    assert PATH not in wire.paths()


async def test_rate_headers_are_passed_on() -> None:
    seen: list[tuple[float | None, ...]] = []

    async def observe(*numbers: float | None) -> None:
        seen.append(numbers[:3])

    async with listening() as wire, session_on(wire.url) as session:
        client = MasivoClient(session, WallClock(), observe)
        full = {"X_RateLimit_Limit": "250", "X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "17"}
        odd = {"X_RateLimit_Remaining": "-1", "X_RateLimit_Reset": "9" * 400, "X_RateLimit_Limit": "5"}
        epoch = {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": str(int(time.time()) + 100)}
        millis = {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": str(int(time.time() + 100) * 1000)}
        never = {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "99999999"}
        for headers in (full, odd, {}, epoch, millis, never):
            wire.on(PATH, answer(201, **headers))
            await client.send("customers", BODY)
    assert seen[:2] == [(250.0, 0.0, 17.0), (5.0, None, None)]
    assert [reset is not None and 97 <= reset <= 100 for _, _, reset in seen[2:]] == [True, True, False]
    assert seen[-1] == (None, 0.0, None)


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        ("Tue, 14 Nov 2023 22:14:50 -0000", 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("9" * 60, 366 * 86400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 366 * 86400.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1e9", None),
        ("Fri, 99 Foo 2023 00:00:00 GMT", None),
        ("٣", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date_or_nothing(text: str, seconds: float | None) -> None:
    assert retry_after(text, NOW) == seconds


def read(status: int, body: bytes, html: bool = False, retry: str = "", sent: bytes = b"", **more: Any) -> Receipt:
    return classify(Answer(status, body, True, html, "", retry, (None, None, None), 0.1), NOW, body=sent, **more)


def test_the_receipt_says_what_the_target_said_on_one_short_line() -> None:
    assert read(422, b'{"error": "invalid", "details": "id\\n\\u001b[31m of 7"}').message == "invalid: id [31m of 7"
    assert read(422, b'{"error": {"code": 5}}').message == '{"code":5}'
    assert read(422, b"plain \xff words").message == "plain � words"
    assert read(403, b"<html>secret page</html>", html=True).message == "a web page"
    assert read(422, b"x " * 5000).message.endswith("…")
    assert len(read(422, b"x" * 60_000).message) == 1001
    assert read(422, b"[" * 60_000).kind is Kind.REJECTED
    assert read(429, b"", retry="soon").retry_after is None
    assert read(201, b"{}").message == ""


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://app.masivo.ai/api/storefront/v1/", "https://app.masivo.ai/api/storefront/v1"),
        (" http://localhost:8080 ", "http://localhost:8080"),
        ("http://127.1.2.3", "http://127.1.2.3"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_a_base_url_is_taken_without_its_trailing_slash(url: str, checked: str) -> None:
    assert check_base_url(url) == checked


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://app.masivo.ai", "insecure"),
        ("http://localhost.evil.example", "insecure"),
        ("https://me:mine@app.masivo.ai", "invalid"),
        ("ftp://app.masivo.ai", "invalid"),
        ("app.masivo.ai", "invalid"),
        ("https://", "invalid"),
        ("https://a.example/?key=1", "invalid"),
        ("https://a.example:99999", "invalid"),
        ("https://[::1", "invalid"),
    ],
)
def test_a_base_url_that_a_key_must_not_go_to_is_refused(url: str, fault: str) -> None:
    with raises(Unusable, f"base-url-{fault}") as caught:
        check_base_url(url)
    assert "mine" not in str(caught.value)
