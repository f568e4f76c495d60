"""Masivo's side of sending: one POST to a migration endpoint, and what its answer means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from streammig.clock import Clock
from streammig.errors import TargetStop
from streammig.masivo.answers import Conditions, classify
from streammig.masivo.http import NoAnswer
from streammig.masivo.redact import redact
from streammig.masivo.session import Secret, Session, bearer
from streammig.model import Kind, Receipt

PATHS = {
    "customers": "/customers/migrate",
    "events": "/customers/migrate/events",
    "transactions": "/customers/migrate/transactions",
}
REVERT = "/customers/migrate"
LONGEST_WINDOW = 86_400.0  # seconds of a rate limit
Observe = Callable[[float | None, float | None, float | None, float], Awaitable[None]]


class MasivoClient:
    """Implements `Client` on an entered session. `observe` is given the rate headers of every answer that has them,
    `rules` are what the settings say of answers."""

    def __init__(
        self, session: Session, clock: Clock, observe: Observe | None = None, rules: Conditions | None = None
    ) -> None:
        self._session = session
        self._clock = clock
        self._observe = observe
        self._rules = rules or Conditions()
        self._refused: Secret | None = None
        self._stop: TargetStop | None = None

    async def send(self, stage: str, body: bytes, began: Callable[[], None] = lambda: None) -> Receipt:
        return await self._exchange("POST", PATHS[stage], body, began, self._rules)

    async def revert(self, start: float, end: float, began: Callable[[], None] = lambda: None) -> Receipt:
        """As `Reverts`. The whole account's customers of that window are meant: no id can be given."""
        body = msgspec.json.encode({"start_date": _moment(start), "end_date": _moment(end)})
        return await self._exchange("DELETE", REVERT, body, began, Conditions())

    async def _exchange(
        self, method: str, path: str, body: bytes, began: Callable[[], None], rules: Conditions
    ) -> Receipt:
        try:
            token = await self._session.token()
        except TargetStop as stop:
            self._stop = stop  # raised by `renew`
            return Receipt(Kind.UNAUTHORIZED, message=stop.what, code="no-token")
        if isinstance(token, NoAnswer):
            return Receipt(Kind.NOT_SENT, message=f"no token: {token.why}", code=token.code)
        answer = await self._session.writes.exchange(
            method,
            self._session.base_url + path,
            lambda: {**bearer(token)(), "Content-Type": "application/json"},
            body,
            began=began,
        )
        if isinstance(answer, NoAnswer):
            kind = Kind.UNKNOWN if answer.connected else Kind.NOT_SENT
            return Receipt(kind, message=answer.why, latency=answer.latency, code=answer.code)
        if answer.status == 401:
            self._refused = token
        if self._observe is not None and any(number is not None for number in answer.rate):
            limit, remaining, reset = answer.rate
            await self._observe(limit, remaining, _from_now(reset, self._clock.time()), answer.latency)
        return classify(
            answer,
            self._clock.time(),
            lambda text: self._session.without_secrets(text, token),
            body=body,
            rules=rules,
        )

    def redact(self, said: str) -> str:
        return redact(said)

    async def renew(self) -> None:
        if self._stop is not None:
            raise self._stop
        await self._session.renew(self._refused)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _from_now(reset: float | None, now: float) -> float | None:
    """Seconds until a window resets. Some servers give the moment instead, in seconds or milliseconds since the epoch;
    what is neither says nothing."""
    if reset is None or reset <= LONGEST_WINDOW:
        return reset
    for moment in (reset, reset / 1000):
        if abs(moment - now) <= LONGEST_WINDOW:
            return max(0.0, moment - now)
    return None
