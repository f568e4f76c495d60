"""Judges an answer to a migration request: status and body make a receipt, row by row as the design has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streammig.errors import Unusable
from streammig.masivo.http import Answer, retry_after
from streammig.masivo.redact import CUT
from streammig.model import Kind, Receipt

LONGEST_MESSAGE = 1000  # characters
SAYS_NO = "it says that not all of it was taken"
MOST_UNJUDGED = 20  # fields of an answer that are told

_BY_STATUS = {
    400: Kind.REJECTED, 401: Kind.UNAUTHORIZED, 413: Kind.TOO_LARGE, 422: Kind.REJECTED, 429: Kind.THROTTLED,
}  # fmt: skip
_NOT_PROCESSED = (403, 404, 405)  # of which no record is the cause
_YES = (200, 201, 202, 204)
_GAVE_UP = (408, 425)  # a proxy or the target gave up waiting
_SAYS_NOTHING = (401, 403, 408, 425, 429)  # of whether a customer is there
_WAITED_FOR = (408, 425, 429, 503)

_ERRORS = ("error", "errors")
_FLAGS = ("success", "ok")
_LOST = ("failed", "rejected")
_COUNTS = ("accepted", "saved", "saved_count", "enqueued", "imported", "processed")
_JUDGED = frozenset((*_ERRORS, *_FLAGS, *_LOST, *_COUNTS))


class Condition(msgspec.Struct, frozen=True):
    """A place in an answer's JSON, and the text that stands there; None: anything but nothing."""

    path: tuple[str, ...]
    value: str | None

    def holds(self, said: Any) -> bool:
        for name in self.path:
            if isinstance(said, dict) and name in said:
                said = said[name]
            elif isinstance(said, list) and name.isdigit() and int(name) < len(said):
                said = said[int(name)]
            else:
                return False
        return bool(said) if self.value is None else _as_text(said) == self.value


class Conditions(msgspec.Struct, frozen=True):
    """What the settings say of a 2xx with JSON: it is a no where any of `refused_if` holds; else, where `accepted_if`
    is given, a yes if any of it holds and a no if none does."""

    accepted_if: tuple[Condition, ...] = ()
    refused_if: tuple[Condition, ...] = ()

    def say(self, said: Any) -> bool | None:
        if any(each.holds(said) for each in self.refused_if):
            return False
        return any(each.holds(said) for each in self.accepted_if) if self.accepted_if else None


def conditions(accepted_if: Sequence[str] = (), refused_if: Sequence[str] = ()) -> Conditions:
    """Conditions from texts: `path=value` or `path`, names and indices joined by dots. Raises `Unusable`."""
    return Conditions(
        tuple(_condition("accepted_if", text) for text in accepted_if),
        tuple(_condition("refused_if", text) for text in refused_if),
    )


def _condition(setting: str, text: str) -> Condition:
    path, equals, value = text.partition("=")
    names = tuple(name.strip() for name in path.split("."))
    if not all(names):
        raise Unusable(
            "settings-invalid",
            f"{setting} holds {text!r}, which names no field of an answer",
            f'Write it as path=value, like {setting} = ["result.state=done"], or as a path alone.',
        )
    return Condition(names, value.strip() if equals else None)


class Absence(msgspec.Struct, frozen=True):
    """An answer to a read that says that there is no such customer: a status, and the JSON of its body if that
    matters."""

    status: int
    body: msgspec.Raw | None = None

    def is_said(self, answer: Answer) -> bool:
        if answer.status != self.status or answer.html or not answer.whole:
            return False
        return self.body is None or _decoded(answer.body) == _decoded(bytes(self.body))


NOT_THERE = (Absence(404),)


def absences(answers: Sequence[int | str]) -> tuple[Absence, ...]:
    """What the setting `not_there` names: statuses, and texts of a status and a JSON body. Raises `Unusable`."""
    return tuple(map(_absence, answers))


def _absence(answer: int | str) -> Absence:
    status, _, body = str(answer).partition(" ")
    number = int(status) if status.isascii() and status.isdigit() else 0
    # A body must be named where a customer who is there gets the same status.
    if (number == 204 or number in range(400, 500)) and number not in _SAYS_NOTHING and not body:
        return Absence(number)
    if number in (200, 204, *range(400, 500)) and number not in _SAYS_NOTHING and _decoded(body.encode()) is not None:
        return Absence(number, msgspec.Raw(body.encode()))
    raise Unusable(
        "settings-invalid",
        f"not_there holds {answer!r}, which no read of a customer who is not there answers",
        'Write a status, like not_there = [404], or a status and the JSON of the body, like "200 null".',
    )


def classify(
    answer: Answer,
    now: float,
    blot: Callable[[str], str] = str,
    *,
    body: bytes = b"",
    rules: Conditions = Conditions(),  # noqa: B008  # frozen
) -> Receipt:
    """The receipt of an answer to `body`; `now` is the wall time that a `Retry-After` date counts from, and `blot`
    takes secrets out of what the target said."""
    status = answer.status
    if 200 <= status < 300:
        found = _success(answer, blot, body, rules)
    elif kind := _BY_STATUS.get(status):
        found = Receipt(kind)
    elif status in _NOT_PROCESSED:
        found = Receipt(Kind.REJECTED, stop_after=1)
    else:
        odd = status < 500 and status not in _GAVE_UP
        found = Receipt(Kind.UNKNOWN, stop_after=2 if odd else 0)
    return msgspec.structs.replace(
        found,
        status=status,
        message=found.message or ("" if found.kind is Kind.ACCEPTED else _message(answer, blot)),
        retry_after=retry_after(answer.retry_after, now) if status in _WAITED_FOR else None,
        date=answer.date,
        latency=answer.latency,
        code=found.code or f"http-{status}",
    )


def _success(answer: Answer, blot: Callable[[str], str], sent: bytes, rules: Conditions) -> Receipt:
    """The receipt of a 2xx, which is a yes unless its body speaks against it, or can't be read."""
    if answer.html:
        return Receipt(
            Kind.UNKNOWN,
            message="a web page came where Masivo's answer should: a proxy or a portal is in between",
            stop_after=1,
            code="html-in-2xx",
            ours=True,
        )
    if not answer.whole and answer.status != 207:
        return _unclear("answer-cut", f"the answer can't be read beyond {len(answer.body):,} bytes", answer, blot)
    found = _decoded(answer.body)
    if found is not None and (ruled := rules.say(found[0])) is not None:
        return Receipt(Kind.ACCEPTED) if ruled else _unclear("says-no", SAYS_NO, answer, blot)
    if answer.status == 207 or (found is not None and _speaks_against(found[0], sent)):
        return _unclear("says-no", SAYS_NO, answer, blot)
    if answer.status not in _YES:
        return Receipt(Kind.UNKNOWN, stop_after=2)
    if found is not None and isinstance(found[0], dict):
        unjudged = [blot(name) for name in found[0] if name not in _JUDGED]
        return Receipt(Kind.ACCEPTED, unjudged=tuple(unjudged[:MOST_UNJUDGED]))
    text = answer.body.strip()
    if found is not None or not text or (answer.status == 201 and text[:1] not in (b"{", b"[")):
        return Receipt(Kind.ACCEPTED)
    return _unclear("not-json", "the answer is no valid JSON", answer, blot)


def _unclear(code: str, why: str, answer: Answer, blot: Callable[[str], str]) -> Receipt:
    """The receipt of a 2xx that is no clear yes: its words, or why, where it has none."""
    said = _one_line(blot(answer.body.decode("utf-8", "replace")))
    return Receipt(Kind.UNKNOWN, message=said or why, code=code, in_part=True, ours=not said)


def _speaks_against(said: Any, sent: bytes) -> bool:
    """Whether an answer's JSON says that something was not taken in."""
    if not isinstance(said, dict):
        return False
    if any(said.get(name) for name in _ERRORS) or any(said.get(name) is False for name in _FLAGS + _COUNTS):
        return True
    if any(_amount(said.get(name)) for name in _LOST):
        return True
    counts = [count for name in _COUNTS if (count := _amount(said.get(name))) is not None]
    # An owner stands in a body once and holds at least a record and a unit: who counts those, counts no fewer.
    return bool(counts) and min(counts) < _entries(sent)


def _amount(value: Any) -> float | None:
    """How many a field speaks of, as a number or as a list of them; None for what is neither."""
    if isinstance(value, list | dict):
        return len(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


class _Body(msgspec.Struct):
    customers: list[msgspec.Raw] = []


def _entries(body: bytes) -> int:
    try:
        return len(msgspec.json.decode(body, type=_Body).customers)
    except (msgspec.MsgspecError, ValueError):
        return 0


def _decoded(body: bytes) -> tuple[Any] | None:
    try:
        return (msgspec.json.decode(body),)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _message(answer: Answer, blot: Callable[[str], str]) -> str:
    """What the target said: its `error`, `errors` and `details`, else the beginning of its text; nothing of a web
    page."""
    decoded = _decoded(answer.body)
    if decoded is not None and isinstance(decoded[0], dict):
        parts = [decoded[0].get(name) for name in ("error", "errors", "details", "message")]
        text = ": ".join(_as_text(part) for part in parts if part)
    elif answer.html:
        text = "a web page"
    else:
        text = answer.body.decode("utf-8", "replace")
    return _one_line(blot(text))  # blotted before anything is cut off: nobody would know the half of a secret


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _one_line(text: str) -> str:
    text = " ".join("".join(each if each.isprintable() else " " for each in text[: 4 * LONGEST_MESSAGE]).split())
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + CUT
