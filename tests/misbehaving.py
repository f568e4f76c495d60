"""A target on a real socket that misbehaves as a case says, and the table of the cases: one line each."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from tests.wire import answer, jwt

HANG = b"hang"
Say = bytes | tuple[bytes, ...]
"""What goes over the wire: an answer, `HANG` for none at all, or pieces behind which the connection is closed."""


class Then(NamedTuple):
    """What becomes of it: in words for the guide, and the exit code."""

    words: str
    exit: int


THEN = {
    "accepted": Then("The batch is accepted.", 0),
    "again": Then("The same batch is sent again.", 0),
    "waits": Then("Everything waits as long as asked, and goes on.", 0),
    "landed": Then("The batch is read back: it landed, and is not sent again.", 0),
    "proven": Then("The batch is read back: it did not land, and is sent again.", 0),
    "in-part": Then("Every customer of the batch is read back. Those missing become dead letters.", 3),
    "split": Then("The batch is split until its parts pass.", 0),
    "isolated": Then("The records that the target refuses are found, and become dead letters.", 3),
    "parked": Then("Nothing can be proven: the batch is parked for you to decide.", 4),
    "stops": Then("The run stops, and says why. The same command goes on.", 5),
}


@dataclass(frozen=True)
class Case:
    """A misbehaviour: `words` for the guide, what is said to the posts of these numbers (0: to all), whether the target
    takes that share of the batch all the same, and what follows."""

    words: str
    then: str
    say: Say = b""
    share: float = 0.0
    posts: tuple[int, ...] = (2,)
    auth: Sequence[Say] = ()  # to the first exchanges of the key
    read: Sequence[Say] = ()  # to the first reads of a customer that is not there; the last one for ever
    bad: frozenset[str] = frozenset()  # a body with one of these customers is met with `say`
    largest: int = 0  # bytes of a body beyond which it is met with `say`
    limits: str = "off"
    longest: float = 5000.0  # virtual seconds that it may take in all
    code: str = "target-refuses"  # of the problem that stops the run, where one does


def lost(status: int, *, share: float = 0.0, words: str = "", **headers: str) -> Case:
    taken = "the batch was taken" if share else "the batch was not taken"
    say = answer(status, {"error": "odd"}, **headers)
    return Case(f"{status}{words}; {taken}", "landed" if share else "proven", say, share)


def yes(words: str, say: Say) -> Case:
    return Case(words, "accepted", say, 1.0)


def no(words: str, status: int, body: Any, share: float = 0.75) -> Case:
    then = {0.0: "proven", 1.0: "landed"}.get(share, "in-part")
    text = {0.0: "nothing was taken", 1.0: "all was taken"}.get(share, "a part was taken")
    return Case(f"{words}; {text}", then, answer(status, json.dumps(body), Content_Type="application/json"), share)


def stops(words: str, say: Say, posts: tuple[int, ...] = (2,), **more: Any) -> Case:
    return Case(words, "stops", say, posts=posts, **more)


def counting(remaining: str, reset: str) -> bytes:
    return answer(201, X_RateLimit_Limit="500", X_RateLimit_Remaining=remaining, X_RateLimit_Reset=reset)


LONG = "retry-after-too-long"
PAGE = answer(200, "<html>Sign in</html>", Content_Type="text/html")
CASES = [
    *(lost(it, share=share) for it in (409, 499, 402, 418, 451, 301, 307, 500, 502, 504) for share in (0.0, 1.0)),
    *(lost(it, share=share, words=", `Retry-After: 100`", Retry_After="100") for it in (408, 425, 503)
      for share in (0.0, 1.0)),
    yes("201 without a body", answer(201)),
    yes("200, `{}`", answer(200, {})),
    yes("202, a field that nobody knows", answer(202, {"queued": "soon"})),
    yes("204", b"HTTP/1.1 204 No Content\r\n\r\n"),
    yes("201, a plain text", answer(201, "OK")),
    yes("201, as many taken as were sent", answer(201, {"accepted": 1000})),
    yes("201, headers of 9 KB", answer(201, Set_Cookie="x" * 9000)),
    yes("201, labelled as gzip though it is not", answer(201, {}, Content_Encoding="gzip")),
    yes("201 in chunks", b"HTTP/1.1 201 C\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    yes("201, `success: true`", answer(201, {"success": True, "errors": []})),
    no("200, `error`", 200, {"error": "Internal", "details": "queue full"}),
    no("200, `error`", 200, {"error": "Internal"}, 0.0),
    no("200, `error`", 200, {"error": "Internal"}, 1.0),
    no("201, `errors`", 201, {"errors": [{"detail": "queue full"}]}),
    no("207", 207, [{"status": 201}, {"status": 422}]),
    no("207", 207, [{"status": 422}], 0.0),
    no("200, `success: false`", 200, {"success": False}),
    no("200, `ok: false`", 200, {"ok": False}),
    no("200, `failed: 3`", 200, {"failed": 3}),
    no("200, `rejected` with a list", 200, {"rejected": ["x"]}),
    *(no(f"200, `{it}` below what was sent", 200, {it: 3}) for it in ("accepted", "saved", "saved_count")),
    *(no(f"202, `{it}` below what was sent", 202, {it: 3}) for it in ("enqueued", "imported", "processed")),
    no("201, JSON that is cut", 201, {"error": "x"}, 1.0),
    Case("201, text that is no JSON; all was taken", "landed", answer(200, "{oops"), 1.0),
    Case("the connection is closed; the batch was taken", "landed", (), 1.0),
    Case("the connection is closed; the batch was not taken", "proven", ()),
    Case("no answer within the time; the batch was taken", "landed", HANG, 1.0),
    Case("no answer within the time; the batch was not taken", "proven", HANG),
    Case("no HTTP; the batch was taken", "landed", (b"SSH-2.0-x\r\n\r\n",), 1.0),
    Case("no HTTP; the batch was not taken", "proven", (b"SSH-2.0-x\r\n\r\n",)),
    Case("201, and the connection breaks within the body; taken", "landed",
         (b"HTTP/1.1 201 C\r\nContent-Length: 90\r\n\r\n{",), 1.0),
    Case("201, and the connection breaks within the body; not taken", "proven",
         (b"HTTP/1.1 201 C\r\nContent-Length: 90\r\n\r\n{",)),
    Case("429, `Retry-After: 30`", "waits", answer(429, Retry_After="30")),
    Case("429, `Retry-After: 1.5`", "waits", answer(429, Retry_After="1.5"), longest=400.0),
    Case("429 without `Retry-After`: 60 s", "waits", answer(429)),
    Case("429, `Retry-After: soon`: 60 s", "waits", answer(429, Retry_After="soon")),
    Case("429, `Retry-After` as a date", "waits", answer(429, Retry_After="Tue, 14 Nov 2023 22:15:00 GMT")),
    Case("429, a body that is cut", "waits", (b"HTTP/1.1 429 T\r\nRetry-After: 1\r\nContent-Length: 64\r\n\r\n{",)),
    stops("429, `Retry-After: 90000`", answer(429, Retry_After="90000"), code=LONG),
    stops("503, `Retry-After: 90000`", answer(503, Retry_After="90000"), code=LONG),
    Case("401", "again", answer(401)),
    Case("401, a body that is cut", "again", (b"HTTP/1.1 401 U\r\nContent-Length: 64\r\n\r\n{",)),
    stops("401, also with a new token", answer(401), (2, 3), code="token-refused"),
    *(stops(f"{it}", answer(it, {"error": "no"})) for it in (403, 404, 405)),
    stops("403, a web page of a firewall", answer(403, "<html>Blocked</html>", Content_Type="text/html")),
    stops("200, a web page", PAGE),
    stops("201, a web page", PAGE.replace(b" 200 ", b" 201 ")),
    *(stops(f"{it} twice in a row", answer(it), (2, 3)) for it in (409, 302, 402)),
    stops("422 to many batches in a row", answer(422, {"error": "no brand"}), tuple(range(1, 6)), code="breaker-open"),
    Case("413 to what is larger than 4 KB", "split", answer(413), largest=4000, posts=()),
    Case("413, a web page, to what is larger than 4 KB", "split", answer(413, "<html>"), largest=4000, posts=()),
    stops("413 to every single customer", answer(413), tuple(range(1, 14)), code="breaker-open"),
    *(Case(f"{status} for one customer, who is {how}", "isolated", answer(status, {"error": f"bad{it}"}),
           bad=frozenset({"c33"}), posts=())
      for status in (400, 422) for how, it in (("named", " c33"), ("not named", ""))),
    Case("422 for two customers", "isolated", answer(422, "no"), bad=frozenset({"c3", "c70"}), posts=()),
    Case("413 for one customer alone", "isolated", answer(413), bad=frozenset({"c33"}), posts=()),
    Case("`Reset` as the moment instead of seconds", "waits", counting("0", "1700000030"), 1.0, limits="1/1s,500/1h",
         longest=400.0),
    Case("`Reset` in a hundred years", "accepted", counting("0", "3153600000"), 1.0, limits="1/1s,500/1h",
         longest=400.0),
    Case("`Reset` beyond every window of the limits", "waits", counting("0", "80000"), 1.0, limits="1/1s,500/1h",
         longest=4000.0),
    Case("`Remaining: 0` where the limits are off", "accepted", counting("0", "3000"), 1.0, longest=400.0),
    Case("the token call: 500 at first", "again", auth=(answer(500),), posts=()),
    Case("the token call: 503, `Retry-After: 20`", "waits", auth=(answer(503, Retry_After="20"),), posts=()),
    Case("the token call: no answer at first", "again", auth=((),), posts=()),
    stops("the token call: 429, `Retry-After: 90000`", b"", (), auth=(answer(429, Retry_After="90000"),), code=LONG),
    stops("the token call: 401", b"", (), auth=(answer(401),), code="key-refused"),
    stops("the token call: 200, a web page", b"", (), auth=(PAGE,), code="not-masivo"),
    stops("the token call: 200 without a token", b"", (), auth=(answer(200, {"data": None}),), code="token-missing"),
    *(Case(f"a read of a missing customer: {words}", "parked", answer(500), read=(say,))
      for words, say in (("200, `null`", answer(200, "null")), ("200, `{}`", answer(200, {})),
                         ("204", b"HTTP/1.1 204 N\r\n\r\n"), ("400", answer(400, {"error": "no"})))),
    Case("a read: 429, `Retry-After: 20`", "proven", answer(500), read=(answer(429, Retry_After="20"), answer(404))),
    Case("a read: 503 at first", "proven", answer(500), read=(answer(503), answer(404))),
    stops("a read: 429, `Retry-After: 90000`", answer(500), read=(answer(429, Retry_After="90000"), answer(404)),
          code=LONG),
    stops("a read: 403", answer(500), read=(answer(403), answer(404)), code="read-forbidden"),
]  # fmt: skip


@dataclass
class Rig:
    """The target: it takes customers at once, and shows them."""

    case: Case
    customers: collections.Counter[str] = field(default_factory=collections.Counter)
    bodies: dict[str, Any] = field(default_factory=dict)
    posts: int = 0
    reads: int = 0
    _auths: int = 0
    _missed: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = [it for it in head.split("\r\n") if it.lower().startswith("content-length:")]
                body = await reader.readexactly(int(length[0].split(":")[1]) if length else 0)
                method, path, _ = head.split(" ", 2)
                say = self._post(body) if method == "POST" else self._get(unquote(path))
                if say == HANG:
                    await reader.read()
                    break
                writer.writelines([say] if isinstance(say, bytes) else say)
                await writer.drain()
                if isinstance(say, tuple):
                    break
        writer.close()

    def _post(self, body: bytes) -> Say:
        self.posts += 1
        case, entries = self.case, json.loads(body)["customers"]
        odd = self.posts in case.posts or (case.largest and len(body) > case.largest)
        odd = odd or not case.bad.isdisjoint(it["id"] for it in entries)
        for each in entries[: round(len(entries) * (case.share if odd else 1.0))]:
            self.customers[each["id"]] += 1
            self.bodies[each["id"]] = each
        return case.say if odd else answer(201)

    def _get(self, path: str) -> Say:
        if path.endswith("/auth/authorize"):
            self._auths += 1
            scripted = self._auths <= len(self.case.auth)
            token = jwt(exp=2_000_000_000, n=self._auths)
            return self.case.auth[self._auths - 1] if scripted else answer(200, {"data": token})
        self.reads += 1
        if "/customers/" not in path:
            return answer(200, {"data": []})
        owner = path.rsplit("/", 1)[1]
        if owner not in self.customers:
            self._missed += 1
            return self.case.read[min(self._missed, len(self.case.read)) - 1] if self.case.read else answer(404)
        wallet = {"lines": self.bodies[owner]["balance"], "totals": []}
        return answer(200, {"data": {"customer": self.bodies[owner], "wallet": wallet}})
