"""Masivo's side of sending: one POST to a migration endpoint, and what its answer means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from streammig.errors import TargetStop
from streammig.masivo.http import Answer, NoAnswer, retry_after
from streammig.masivo.redact import CUT
from streammig.masivo.session import Secret, Session, bearer
from streammig.ports import Clock
from streammig.records import Kind, Receipt

PATHS = {
    "customers": "/customers/migrate",
    "events": "/customers/migrate/events",
    "transactions": "/customers/migrate/transactions",
}
LONGEST_MESSAGE = 1000  # characters

Observe = Callable[[float | None, float | None, float | None], Awaitable[None]]


class MasivoSink:
    """Implements `Sink` on an entered session. `observe` is given the rate headers of every answer that has them."""

    def __init__(self, session: Session, clock: Clock, observe: Observe | None = None) -> None:
        self._session = session
        self._clock = clock
        self._observe = observe
        self._refused: Secret | None = None

    async def send(self, stage: str, body: bytes, began: Callable[[], None] = lambda: None) -> Receipt:
        try:
            token = await self._session.token()
        except TargetStop as stop:
            # Said again, and raised, by `renew`.
            return Receipt(Kind.UNAUTHORIZED, message=stop.what)
        if isinstance(token, NoAnswer):
            return Receipt(Kind.NOT_SENT, message=f"no token: {token.why}")
        answer = await self._session.writes.exchange(
            "POST",
            self._session.base_url + PATHS[stage],
            lambda: {**bearer(token)(), "Content-Type": "application/json"},
            body,
            began=began,
        )
        if isinstance(answer, NoAnswer):
            kind = Kind.UNKNOWN if answer.connected else Kind.NOT_SENT
            return Receipt(kind, message=answer.why, latency=answer.latency)
        if answer.status == 401:
            self._refused = token
        if self._observe is not None and any(number is not None for number in answer.rate):
            await self._observe(*answer.rate)
        return classify(answer, self._clock.time(), lambda text: self._session.without_secrets(text, token))

    async def renew(self) -> None:
        await self._session.renew(self._refused)


_BY_STATUS = {401: Kind.UNAUTHORIZED, 413: Kind.TOO_LARGE, 422: Kind.REFUSED, 429: Kind.THROTTLED}


def classify(answer: Answer, now: float, blot: Callable[[str], str] = str) -> Receipt:
    """What an answer to a migration request means; `now` is the wall time that a `Retry-After` date counts from, and
    `blot` takes secrets out of what the target said."""
    status, stop, wait = answer.status, False, None
    message = _message(answer, blot)
    if 200 <= status < 300:
        kind, message, stop = _success(answer)
    elif status >= 500:
        kind = Kind.UNKNOWN
    else:
        kind = _BY_STATUS.get(status, Kind.WRONG_WORLD)
        if kind is Kind.THROTTLED:
            wait = retry_after(answer.retry_after, now)
    return Receipt(kind, status, message, wait, answer.date, stop, answer.latency)


def _success(answer: Answer) -> tuple[Kind, str, bool]:
    """Kind, message and stop of a 2xx: it is Masivo's word only if it is JSON or nothing, or a plain 201."""
    if not answer.body.strip():
        return Kind.ACCEPTED, "", False
    if answer.html:
        return Kind.UNKNOWN, "a web page came where Masivo's answer should: a proxy or a portal is in between", True
    if not answer.whole:
        return Kind.UNKNOWN, f"the answer is longer than {len(answer.body)} bytes", False
    if _decoded(answer.body) is not None:
        return Kind.ACCEPTED, "", False
    if answer.status == 201 and answer.body.lstrip()[:1] not in (b"{", b"["):
        return Kind.ACCEPTED, "", False
    return Kind.UNKNOWN, "the answer is no valid JSON", False


def _decoded(body: bytes) -> tuple[object] | None:
    try:
        return (msgspec.json.decode(body),)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _message(answer: Answer, blot: Callable[[str], str]) -> str:
    """What the target said: its `error` and `details`, else the beginning of its text; nothing of a web page."""
    decoded = _decoded(answer.body)
    if decoded is not None and isinstance(decoded[0], dict):
        parts = [decoded[0].get(name) for name in ("error", "details", "message")]
        text = ": ".join(part if isinstance(part, str) else str(part) for part in parts if part)
    elif answer.html:
        text = "a web page"
    else:
        text = answer.body.decode("utf-8", "replace")
    text = blot(text)  # before anything is cut off: nobody would know the half of a secret
    text = " ".join("".join(each if each.isprintable() else " " for each in text[: 4 * LONGEST_MESSAGE]).split())
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + CUT
