"""The session with Masivo: an API key becomes a token, and authenticated reads are made with it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from streammig.clock import Clock
from streammig.errors import Problem, TargetStop, Unusable
from streammig.masivo.http import Answer, Http, NoAnswer, check_base_url, retry_after
from streammig.masivo.redact import unescaped

LIFETIME = 3600.0  # of a token that does not say its own
AHEAD = 300.0  # a token is renewed so long before it expires: a request may be under way for minutes
BLIND_WAIT = 60.0  # a 429 that does not say how long
LONGEST_READ = 32 * 1024 * 1024  # a customer's transactions of a year come without paging

KEY_HINT = "The key is in Masivo's dashboard: Settings, then Advanced Settings. Check that it is the whole key."
URL_HINT = "Check --base-url, the network, and the proxy in the environment (https_proxy, no_proxy)."


class Secret:
    """A text that shows itself nowhere: not in a repr, a log line or a pickle."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


class Session:
    """One account's way in, for all workers of a run: enter it, then `token`, `renew` and `get` at will.

    `pace` is awaited before every request made here (the general limit); `hold` with the seconds that an answer asks
    to wait and its status, and may end the run;
    `waiting` is told in words what is waited for, and for how many seconds. Makes no request by itself.
    """

    def __init__(
        self,
        base_url: str,
        key: Secret,
        *,
        clock: Clock,
        rng: Random,
        pace: Callable[[], Awaitable[None]],
        hold: Callable[[float, int], Awaitable[None]],
        waiting: Callable[[str, float], None] = lambda why, seconds: None,
        auth_url: str = "",
        connect_timeout: float = 10.0,
        request_timeout: float = 60.0,
    ) -> None:
        self.base_url = check_base_url(base_url)
        self._auth_url = check_base_url(auth_url or base_url)
        self._key = key
        self._clock = clock
        self._rng = rng
        self._pace = pace
        self._hold = hold
        self._waiting = waiting
        # One for both: reading the machine's certificates takes 75 ms. Made here, so that SSL_CERT_FILE counts.
        secure = "https" in (urlsplit(self.base_url).scheme, urlsplit(self._auth_url).scheme)
        tls = ssl.create_default_context() if secure else True
        self.writes = Http(fresh=True, tls=tls, connect_timeout=connect_timeout, request_timeout=request_timeout)
        self._reads = Http(fresh=False, tls=tls, connect_timeout=connect_timeout, request_timeout=request_timeout)
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._token: Secret | None = None
        self._stale_at = self._expires_at = 0.0
        self._begun = False

    async def __aenter__(self) -> Session:
        await self._stack.enter_async_context(self.writes)
        await self._stack.enter_async_context(self._reads)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def token(self) -> Secret | NoAnswer:
        """A token to use now, renewed ahead of its end by one caller for all; NoAnswer where none can be had now.

        Raises `TargetStop` where the key is refused.
        """
        loop = asyncio.get_running_loop()
        if self._token is not None and loop.time() < self._stale_at:
            return self._token
        async with self._lock:
            if self._token is not None and loop.time() < self._stale_at:
                return self._token
            token = await self._authorize()
            if isinstance(token, NoAnswer) and self._token is not None and loop.time() < self._expires_at:
                return self._token
            return token

    async def renew(self, refused: Secret | None = None) -> None:
        """Replace a token that was refused, once for all who were refused with it.

        Before the first token this tries on where time may help, and raises `Unusable` where no connection can be
        made: that is a mistake in the address. Later it tries once; `token` then says what is wrong, so that the
        caller waits, who knows when to stop. Raises `TargetStop` where the key is refused.
        """
        async with self._lock:
            if self._token is not None and self._token is not refused:
                return
            self._token = None
            attempt = 0
            while isinstance(trouble := await self._authorize(), NoAnswer) and not self._begun:
                if not trouble.connected:
                    raise Unusable("no-connection", f"no connection to {self._auth_url}: {trouble.why}", URL_HINT)
                attempt += 1
                seconds = self._rng.uniform(0.0, min(60.0, 2.0 ** min(attempt, 6)))
                self._waiting(f"no token from {self._auth_url} yet: {trouble.why}", seconds)
                await asyncio.sleep(seconds)

    def now(self) -> float:
        """Seconds since the epoch, by the clock that was passed in."""
        return self._clock.time()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Answer | NoAnswer:
        """One authenticated read. A 401 gets a new token and one more try; the next request waits as long as a 429 or
        503 asks for.

        Raises `TargetStop` for a 401 with a new token and for a 403.
        """
        url = f"{self.base_url}{path}" + (f"?{urlencode(query)}" if query else "")
        for _ in range(2):
            token = await self.token()
            if isinstance(token, NoAnswer):
                return token
            answer = await self._read(url, bearer(token), LONGEST_READ)
            if isinstance(answer, NoAnswer):
                return answer
            if answer.status == 403:
                raise TargetStop(
                    "read-forbidden",
                    "the target answered 403 to a read: the key may not see what was migrated",
                    "Ask Masivo to allow it.",
                )
            if answer.status != 401:
                return answer
            await self.renew(token)
        raise TargetStop("token-refused", "the target answered 401 to a read, also with a new token", KEY_HINT)

    def without_secrets(self, text: str, token: Secret) -> str:
        """What the target said, unescaped, with the API key and this token blotted out: some servers repeat a request's
        headers, and escape what stands in them."""
        for form in (str, unescaped):
            text = form(text)
            for secret in (token, self._key):
                text = text.replace(form(secret.reveal()), "***")
        return text

    async def _read(self, url: str, headers: Callable[[], Mapping[str, str]], most: int) -> Answer | NoAnswer:
        await self._pace()
        answer = await self._reads.exchange("GET", url, headers, most=most)
        if isinstance(answer, NoAnswer) and answer.stale:
            await self._pace()
            answer = await self._reads.exchange("GET", url, headers, most=most)
        if isinstance(answer, Answer) and answer.status in (429, 503):
            seconds = retry_after(answer.retry_after, self._clock.time())
            if seconds is not None or answer.status == 429:
                await self._hold(BLIND_WAIT if seconds is None else seconds, answer.status)
        return answer

    async def _authorize(self) -> Secret | NoAnswer:
        """One exchange of the key for a token, which is kept."""
        answer = await self._read(f"{self._auth_url}/auth/authorize", lambda: {"x-api-key": self._key.reveal()}, 65536)
        if isinstance(answer, NoAnswer):
            return answer
        if answer.status == 429 or answer.status >= 500:
            return NoAnswer(True, f"HTTP {answer.status}", f"http-{answer.status}")
        token = _token_in(answer)
        if token is None:
            raise self._refused(answer)
        issued, (ahead, lifetime) = asyncio.get_running_loop().time(), _lifetime(token, self._clock.time())
        self._token, self._stale_at, self._expires_at = token, issued + ahead, issued + lifetime
        self._begun = True
        return token

    def _refused(self, answer: Answer) -> Problem:
        said = f"the target answered {answer.status} to the exchange of the API key at {self._auth_url}"
        if answer.status in (401, 403):
            return TargetStop("key-refused", f"{said}: the key is not valid", KEY_HINT)
        if answer.html or answer.status >= 300:
            return TargetStop("not-masivo", f"{said}, which Masivo would not", URL_HINT)
        return TargetStop("token-missing", f"{said}, but sent no token", URL_HINT)


def bearer(token: Secret) -> Callable[[], Mapping[str, str]]:
    """The header of an authenticated request, made when it is needed."""
    return lambda: {"Authorization": f"Bearer {token.reveal()}"}


def _token_in(answer: Answer) -> Secret | None:
    if not 200 <= answer.status < 300:
        return None
    try:
        data = msgspec.json.decode(answer.body)["data"]
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
        return None
    # What can't stand in a header would raise within aiohttp, with the token in its message.
    fits = isinstance(data, str) and data.isascii() and data.isprintable() and 0 < len(data) < 8000
    return Secret(data) if fits else None


def _lifetime(token: Secret, now: float) -> tuple[float, float]:
    """Seconds until a token issued now should be renewed, and until it expires; an hour for one that does not say."""
    claims = _claims(token.reveal())
    # Two moments of the target's own clock are better than one of each: ours may be wrong.
    begin, end = _moment(claims.get("iat")) or now, _moment(claims.get("exp"))
    lifetime = end - begin if end > begin else LIFETIME
    # Half-way where five minutes ahead would be at once, else every request would ask for a token.
    return max(lifetime / 2, min(lifetime, LIFETIME) - AHEAD), lifetime


def _moment(value: object) -> float:
    """Seconds since the epoch, or 0 for what can't be that."""
    return float(value) if isinstance(value, int | float) and 0 < value < 1e11 else 0.0


def _claims(token: str) -> dict[str, Any]:
    try:
        middle = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (IndexError, binascii.Error, ValueError, msgspec.MsgspecError):
        return {}
    return claims if isinstance(claims, dict) else {}
