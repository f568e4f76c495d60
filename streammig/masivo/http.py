"""One HTTP exchange as a value: an answer, or why there is none and whether anything can have arrived."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import SimpleNamespace, TracebackType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from yarl import URL

from streammig.address import is_loopback
from streammig.errors import Unusable

YEAR = 366 * 86400.0
SECONDS = re.compile(r"[0-9]{1,300}(\.[0-9]*)?")
PIECE_BYTES = 64 * 1024
LONGEST_HEADER = 256 * 1024  # bytes
LONGEST_UNPACKED = 32 * 1024 * 1024


class Answer(msgspec.Struct, frozen=True):
    """What came back. Where `body` is cut at the limit given, broke off or can't be unpacked, `whole` is False: the
    status still counts as the target's word. `latency` is in seconds from the first byte sent. `date` and `retry_after`
    are the headers' text, "" without one; `rate` are the X-RateLimit- numbers: limit, remaining, seconds until the
    reset."""

    status: int
    body: bytes
    whole: bool
    html: bool
    date: str
    retry_after: str
    rate: tuple[float | None, float | None, float | None]
    latency: float


class NoAnswer(msgspec.Struct, frozen=True):
    """Why no answer came, in words and as a stable `code`. Only where `connected` is False is it certain that nothing
    arrived. `stale` says that a kept-alive connection was closed, perhaps before it was used: a read may be made again
    at once."""

    connected: bool
    why: str
    code: str
    latency: float = 0.0
    stale: bool = False


class Http:
    """An HTTP client that makes exactly the requests it is asked for: no redirect, no cookie, no credentials of its
    own (netrc), proxy and CA from the environment. With `fresh`, every request has a connection of its own.

    `connect_timeout` covers name, connection, TLS and proxy; `request_timeout` everything after; both in seconds.
    `tls` says which certificates to trust; True where no address is https.
    """

    def __init__(
        self, *, fresh: bool, tls: ssl.SSLContext | bool, connect_timeout: float, request_timeout: float
    ) -> None:
        self._fresh = fresh
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._request_timeout = request_timeout
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, dict[str, Any]] = {}  # by scheme and host: the environment is looked at once for each

    async def __aenter__(self) -> Http:
        trace = aiohttp.TraceConfig()
        # The end of a connection's creation is behind TLS and the proxy's consent: nothing of the request has left
        # yet, and from here on it is unknown what arrived.
        trace.on_connection_create_end.append(_connected)
        trace.on_connection_reuseconn.append(_reused)
        self._session = session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=self._fresh, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=None),  # the deadlines are ours, see `exchange`
            cookie_jar=aiohttp.DummyCookieJar(),
            # Not trust_env: it brings netrc along, which fails beside an Authorization header.
            trust_env=False,
            trace_configs=[trace],
            headers={"User-Agent": "streammig", "Accept-Encoding": "gzip, deflate"},
            # A cookie of 9 KB must not make a yes unreadable.
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            # Unpacked here: what is labelled as packed, and is not, is still an answer.
            auto_decompress=False,
        )
        # By itself aiohttp sends what it takes for idempotent again when a connection is dropped, a fresh one too: a
        # DELETE would arrive twice, and a read beside the pacing. There is no public switch.
        session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def exchange(
        self, method: str, url: str, headers: Callable[[], Mapping[str, str]], body: bytes | None = None, *,
        most: int = 65536, began: Callable[[], None] = lambda: None,
    ) -> Answer | NoAnswer:  # fmt: skip
        """Make one request. `headers` is a callable so that no frame of ours keeps a secret in a local."""
        assert self._session is not None, "enter the context first"
        loop = asyncio.get_running_loop()
        sent: list[float] = []
        left = _Pieces(body) if body else None
        stale = False
        head: aiohttp.ClientResponse | None = None
        content = bytearray()

        def connected(reused: bool) -> None:
            nonlocal stale
            stale = reused
            sent.append(loop.time())
            deadline.reschedule(loop.time() + self._request_timeout)
            began()

        length = {} if body is None else {"Content-Length": str(len(body))}
        options = {"data": left, "trace_request_ctx": connected, **self._proxied(url)}
        try:
            async with asyncio.timeout(self._connect_timeout) as deadline:
                async with self._session.request(
                    method,
                    URL(url, encoded=True),
                    headers={**headers(), **length},
                    allow_redirects=False,
                    **options,
                ) as head:
                    await _read(head.content, content, most)
                if not (left and left.rest and 200 <= head.status < 300):
                    return _answer(head, bytes(content[:most]), len(content) <= most, loop.time() - sent[0])
                # Whoever takes a request must have had it: of this one the rest is never sent.
                code, why = "answered-early", f"{head.status} came before all of the request had left"
        except asyncio.CancelledError as error:
            # The frames below hold the request's headers: a traceback that shows locals must not show the token.
            raise error.with_traceback(None) from None
        except TimeoutError:
            stale = False
            seconds = self._request_timeout if sent else self._connect_timeout
            code, why = "timeout", f"no {'answer' if sent else 'connection'} within {seconds:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            code, why = _reason(error, bool(sent))
        latency = loop.time() - sent[0] if sent else 0.0
        if head is not None and code != "answered-early":
            return _answer(head, bytes(content[:most]), False, latency)
        return NoAnswer(bool(sent), why, code, latency, stale)

    def _proxied(self, url: str) -> dict[str, Any]:
        key = "/".join(url.split("/", 3)[:3])
        if key not in self._proxies:
            proxy, consent = proxy_for(url)
            self._proxies[key] = {"proxy": proxy, "proxy_headers": consent}
        return self._proxies[key]


class _Pieces:
    """A body piece by piece, without a copy of it: of bytes aiohttp makes up to two, of a `BytesIO` one. `rest` is how
    much of it was not asked for yet."""

    def __init__(self, body: bytes) -> None:
        self._view = memoryview(body)
        self.rest = len(body)

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        while self.rest:
            at = len(self._view) - self.rest
            self.rest -= min(PIECE_BYTES, self.rest)
            yield self._view[at : at + PIECE_BYTES]


async def _connected(_: object, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx(False)


async def _reused(_: object, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx(True)


async def _read(stream: aiohttp.StreamReader, content: bytearray, most: int) -> None:
    """Add to `content` as it comes, so that what came before a break is kept; one byte more than `most` at most."""
    while len(content) <= most and (part := await stream.read(most + 1 - len(content))):
        content += part


def _answer(response: aiohttp.ClientResponse, content: bytes, whole: bool, latency: float) -> Answer:
    headers = response.headers
    limit, remaining, reset = (_number(headers.get(f"X-RateLimit-{name}")) for name in ("Limit", "Remaining", "Reset"))
    body, unpacked = _unpacked(content, headers.get("Content-Encoding", ""))
    return Answer(
        status=response.status,
        body=body,
        whole=whole and unpacked,
        html="html" in headers.get("Content-Type", "").lower() or body.lstrip()[:1] == b"<",
        date=headers.get("Date", "")[:64],
        retry_after=headers.get("Retry-After", "")[:64],
        rate=(limit, remaining, reset),
        latency=latency,
    )


def _unpacked(content: bytes, encoding: str) -> tuple[bytes, bool]:
    """The content unpacked as far as that goes, up to 32 MB, and whether that is all of it. What is no such packed data
    is taken as it is: proxies mislabel."""
    if encoding.strip().lower() not in ("gzip", "deflate", "x-gzip") or not content:
        return content, True
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # by its header: gzip or zlib
    try:
        return unpacking.decompress(content, LONGEST_UNPACKED), unpacking.eof
    except zlib.error:
        return content, True


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None


def _reason(error: Exception, connected: bool) -> tuple[str, str]:
    """A code and words, without what aiohttp puts into its messages: addresses of proxies, headers, bytes of the
    answer."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "dns", "the host's name is not known"
        case aiohttp.ClientConnectorCertificateError():
            return "tls", f"the host's certificate is not trusted ({error.certificate_error})"
        case aiohttp.ClientConnectorSSLError():
            return "tls", "no TLS could be agreed on"
        case aiohttp.ClientProxyConnectionError():
            return "proxy", f"the proxy can't be reached ({error.os_error.strerror})"
        case aiohttp.ClientHttpProxyError():
            return "proxy", f"the proxy refused to connect (HTTP {error.status})"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "connection-closed", "the connection was closed without an answer"
        case OSError(strerror=str(words)) if words:
            return "connection-refused" if not connected else "connection-lost", words
        case _ if connected:
            return "no-http", "the answer is no HTTP"
        case _:
            return "no-connection", f"no connection ({type(error).__name__})"


def proxy_for(url: str) -> tuple[URL | None, dict[str, str] | None]:
    """The proxy that the environment names for this address, and a header with the credentials in its URL. Raises
    `Unusable` where that is no address, and shows nothing of it."""
    parts = urlsplit(url)
    named = getproxies().get(parts.scheme)
    if not named or proxy_bypass(parts.netloc):
        return None, None
    try:
        proxy = URL(named if "://" in named else f"http://{named}")
        fits = proxy.scheme in ("http", "https") and bool(proxy.host) and bool(proxy.port)
    except ValueError:
        fits = False
    if not fits:
        raise Unusable(
            "proxy-invalid",
            f"the proxy that {parts.scheme}_proxy names in the environment is no http(s) address of a host",
            "Set it to http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with %40 for an @ in the password, or list"
            " the target's host in no_proxy. The address is not shown here, for it may hold a password.",
        )
    if proxy.user is None:
        return proxy, None
    pair = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return proxy.with_user(None), {"Proxy-Authorization": f"Basic {pair}"}


def retry_after(text: str, now: float) -> float | None:
    """Seconds that a `Retry-After` asks for, given as seconds or as an HTTP date; None where it can't be read.

    A date in the past is 0; more than a year is a year.
    """
    text = text.strip()
    if SECONDS.fullmatch(text):
        return min(float(text), YEAR)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return min(max(0.0, moment.timestamp() - now), YEAR)


def check_base_url(url: str) -> str:
    """The base URL without a trailing slash; `Unusable` where a key must not be sent there."""
    hint = "Give the address of the API with --base-url, such as https://app.masivo.ai/api/storefront/v1"
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise Unusable("base-url-invalid", "the base URL is no URL", hint) from None
    if parts.username is not None or parts.password is not None:
        raise Unusable(
            "base-url-invalid",
            "the base URL holds a user name or password",
            "Leave them out: the API key is all it takes.",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise Unusable("base-url-invalid", f"the base URL {url.strip()!r} is no http(s) address", hint)
    if parts.query or parts.fragment:
        raise Unusable("base-url-invalid", f"the base URL {url.strip()!r} has a query or a fragment", hint)
    if parts.scheme == "http" and not is_loopback(host):
        raise Unusable(
            "base-url-insecure",
            f"the base URL {url.strip()!r} is plain HTTP: the API key and the customers' data would travel readable",
            "Use https. Plain http is for this machine only (localhost, 127.0.0.1).",
        )
    return url.strip().rstrip("/")
