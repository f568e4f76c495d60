"""Answer requests: first the limits, then the faults of the script, then the target."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from random import Random
from urllib.parse import unquote

import orjson
from aiohttp import web
from msgspec import UNSET

from streammig.sandbox import script as faults
from streammig.sandbox.config import SandboxConfig, Span
from streammig.sandbox.forms import Refused
from streammig.sandbox.intake import Intake
from streammig.sandbox.ledger import holds, ledger
from streammig.sandbox.limits import Limiter
from streammig.sandbox.reads import Reads
from streammig.sandbox.store import Store
from streammig.sandbox.tokens import Tokens
from streammig.sandbox.wire import HTML, Gone, Reply, Wire
from streammig.sandbox.worker import Pump, Worker

PREFIX = "/api/storefront/v1"
OWN = "_sandbox"
DRAIN_SECONDS = 60.0
TITLES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not found",
    405: "method not allowed",
    413: "payload too large",
    415: "unsupported media type",
    422: "invalid customer entry",
    429: "too many requests",
}
PAGE = b"<!DOCTYPE html><html><head><title>%d</title></head><body><h1>%d</h1><p>nginx</p></body></html>\n"
ROUTES = {
    ("POST", ("customers", "migrate")): "customers",
    ("POST", ("customers", "migrate", "events")): "events",
    ("POST", ("customers", "migrate", "transactions")): "transactions",
    ("DELETE", ("customers", "migrate")): "revert",
    ("GET", ("auth", "authorize")): "auth",
}


MISSING = {
    "null": Reply(200, b"null"),
    "object": Reply(200, b"{}"),
    "204": Reply(204),
    "400": Reply(400, b'{"error":"bad request","details":"there is no such customer"}'),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One request whose headers have arrived."""

    request: web.BaseRequest
    at: float
    method: str
    path: tuple[str, ...]

    @property
    def kind(self) -> str:
        return ROUTES.get((self.method, self.path), "read")


def error(status: int, details: str) -> Reply:
    return Reply(status, orjson.dumps({"error": TITLES.get(status, f"error {status}"), "details": details}))


@dataclass(frozen=True, slots=True)
class Front:
    """Handles requests on the event loop. The worker does all work on JSON and the store."""

    config: SandboxConfig
    clock: Callable[[], float]
    dice: Random
    limiter: Limiter
    script: faults.Script
    tokens: Tokens
    store: Store
    worker: Worker
    pump: Pump
    intake: Intake
    reads: Reads
    latency: Span
    queue_delay: Span
    stopping: asyncio.Event

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        at = self.clock()  # before any await: the limits judge this time of arrival
        call = Call(request, at, request.method, _segments(request.rel_url.raw_path))
        if call.path[:1] == (OWN,):
            return self._response(await self._own_route(call))
        verdict = self.limiter.judge(at, call.kind in faults.MIGRATIONS)
        broken = " ".join(window.text for window in verdict.broken)
        answer = "error"
        try:
            if broken:
                reply = error(429, "rate limit exceeded")
            else:
                reply = await self._play(call)
            reply = replace(reply, headers={**verdict.headers, **reply.headers})
            await self._discard(request)
            answer = str(reply.status)
            return self._response(reply)
        except Gone as gone:
            answer = str(gone)
            return web.Response()  # goes to a closed connection
        except ConnectionError:
            answer = "client-gone"
            return web.Response()
        finally:
            await self.worker.note(at, call.kind, answer, broken)

    def _response(self, reply: Reply) -> web.Response:
        head = {**reply.head(), "Date": formatdate(self.clock(), usegmt=True)}
        return web.Response(status=reply.status, body=reply.body, headers=head)

    async def _play(self, call: Call) -> Reply:
        """Play the script's fault, if any, and return the reply. Raises Gone if no reply is sent."""
        wire = Wire(call.request)
        fault = self.script.fault(call.kind)
        match fault:
            case faults.Answer():
                right = await self._work(call, fault) if fault.works else None
                return self._scripted(fault, call, right)
            case faults.Revoke():
                self.tokens.revoke()
            case faults.Reset(at="head"):
                raise wire.reset()
            case faults.Reset(at="body"):
                await self._half(call.request)
                raise wire.reset()
            case faults.Hang():
                if fault.done:
                    await self._work(call)
                await self._pause(fault.seconds)
                raise wire.close("hang")
        reply = await self._work(call, fault)
        await self._pause(self.latency.draw(self.dice))
        match fault:
            case faults.Missing() if reply.status == 404 and len(call.path) == 2 and call.path[0] == "customers":
                return MISSING.get(fault.say, reply)
            case faults.Reset():
                raise wire.reset()
            case faults.Slow():
                await self._pause(fault.seconds)
            case faults.Drip():
                raise await wire.drip(self._dated(reply), fault.seconds)
            case faults.Truncate():
                raise await wire.truncate(self._dated(reply), fault.at)
        return reply

    def _scripted(self, fault: faults.Answer, call: Call, right: Reply | None) -> Reply:
        status = fault.status
        headers = {}
        if fault.retry_after is not None:
            text = fault.retry_after
            headers["Retry-After"] = text if isinstance(text, str) else f"{text:g}"
        if fault.retry_after_date is not None:
            headers["Retry-After"] = formatdate(self.clock() + fault.retry_after_date, usegmt=True)
        if fault.location is not None or 300 <= status < 400:
            headers["Location"] = fault.location or str(call.request.rel_url)
        body = fault.body or ("error" if status >= 400 else "empty")
        if fault.json is not UNSET:
            return Reply(status, orjson.dumps(fault.json), headers=headers)
        if body == "html":
            return Reply(status, PAGE % (status, status), HTML, headers)
        if body == "invalid-json":
            return Reply(status, b'{"data": ', headers=headers)
        if body == "error":
            return replace(error(status, "played by the script"), headers=headers)
        return Reply(status, right.body if right is not None and right.status < 300 else b"", headers=headers)

    async def _work(self, call: Call, fault: faults.Fault | None = None) -> Reply:
        """Do the work of the target, and return its answer."""
        try:
            return await self._target(call, fault)
        except Refused as refused:
            return error(refused.status, refused.details)

    async def _target(self, call: Call, fault: faults.Fault | None) -> Reply:
        headers = call.request.headers
        if call.kind == "auth":
            token = self.tokens.issue(headers.get("x-api-key", ""), call.at)
            if token is None:
                raise Refused("the API key is missing or not known", 401)
            return Reply(200, orjson.dumps({"data": token}))
        read = self._read(call) if call.kind == "read" else None  # first, for a wrong path is 404 with any token
        if not self.tokens.valid(headers.get("Authorization", ""), call.at):
            raise Refused("the token is missing, not known or has ended", 401)
        if read is not None:
            return Reply(200, await read())
        if headers.get("Content-Encoding", "identity") != "identity":
            raise Refused("Content-Encoding: plain JSON was expected", 415)
        body = await self._body(call.request)
        delay = self.queue_delay.draw(self.dice)
        try:
            if call.kind == "revert":
                await self.worker.run(self.intake.revert, body, call.at, delay)
                found = {"message": "Revert enqueued", "details": "Customers are reverted in the background"}
                return Reply(200, orjson.dumps(found))
            taken, sent = await self.worker.run(self.intake.take, call.kind, body, call.at, delay, fault)
            return Reply(201, _counted(fault, taken, sent))
        finally:
            self.pump.wake()  # a refusal may have been partial

    def _read(self, call: Call) -> Callable[[], Awaitable[bytes]]:
        """Return the function that answers a read. Raises Refused for an unknown path."""
        reads, run, query = self.reads, self.worker.run, call.request.query
        match (call.method, *call.path):
            case ("GET", "customers", id_):
                return partial(run, reads.customer, id_, call.at)
            case ("GET", "customers", id_, "transactions"):
                return partial(run, reads.transactions_of, id_, query, call.at)
            case ("GET", "customers", id_, "consent"):
                return partial(run, reads.consent, id_)
            case ("PATCH", "customers", id_, "consent"):
                return partial(self._change_consent, id_, call)
            case ("GET", "transactions"):
                return partial(run, reads.transactions, query)
            case ("GET", "rewards"):
                return partial(run, reads.rewards, query)
            case ("GET", "rewards", id_):
                return partial(run, reads.reward, id_)
            case ("GET", "tiers"):
                return partial(run, reads.tiers)
            case _:
                raise Refused("there is no such route", 404)

    async def _change_consent(self, id_: str, call: Call) -> bytes:
        return await self.worker.run(self.reads.change_consent, id_, await self._body(call.request))

    async def _own_route(self, call: Call) -> Reply:
        """Answer the sandbox's own routes. They have no limits and no authorization, and are not counted."""
        query = call.request.query
        try:
            match (call.method, *call.path[1:]):
                case ("GET", "ledger"):
                    found = await self.worker.run_flushed(ledger, self.store)
                case ("GET", "holds"):
                    entity, after = query.get("entity", "customers"), query.get("after", "")
                    found = await self.worker.run_flushed(
                        holds, self.store, entity, after, int(query.get("limit", "1000"))
                    )
                case ("GET", "drain"):
                    drained = await self.pump.empty(float(query.get("timeout", DRAIN_SECONDS)))
                    found = {"drained": drained, "waiting": await self.worker.run(self.store.waiting)}
                case _:
                    return error(404, "ledger, holds and drain are what there is")
        except ValueError as problem:
            return error(422, str(problem))
        return Reply(200, orjson.dumps(found))

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Read the whole body. Raises Refused (413) if it is too long, at once if the header says so."""
        most = self.config.max_body
        too_large = Refused(f"body: at most {most} bytes were expected", 413)
        if (request.content_length or 0) > most:
            raise too_large
        parts = []
        size = 0
        async for part in request.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > most:
                raise too_large
        return b"".join(parts)

    async def _half(self, request: web.BaseRequest) -> None:
        """Read about half of the body, whatever its length."""
        half = (request.content_length or 2) // 2
        while half > 0 and (part := await request.content.read(half)):
            half -= len(part)

    async def _discard(self, request: web.BaseRequest) -> None:
        """Read and drop the rest of a body. Without this the connection is reset, and the answer is lost."""
        left = self.config.max_body
        while left > 0 and (part := await request.content.readany()):
            left -= len(part)

    async def _pause(self, seconds: float) -> None:
        """Wait, at most until the server stops."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self.stopping.wait()
            except TimeoutError:
                pass

    def _dated(self, reply: Reply) -> Reply:
        return replace(reply, headers={"Date": formatdate(self.clock(), usegmt=True), **reply.headers})


def _counted(fault: faults.Fault | None, taken: int, sent: int) -> bytes:
    """Return the body of an answer that counts the enqueued customers; an empty body if the fault asks for none."""
    match fault:
        case faults.Answer(body="count"):
            return orjson.dumps({"success": taken == sent, "saved_count": taken, "requested_count": sent})
        case faults.Answer(body="list"):
            return orjson.dumps([{"index": index, "status": 201 if index < taken else 422} for index in range(sent)])
    return b""


def _segments(raw_path: str) -> tuple[str, ...]:
    """Split a path after the prefix. Each part is decoded by itself, so that an id may hold an encoded slash."""
    if raw_path.startswith(PREFIX + "/"):
        raw_path = raw_path[len(PREFIX) :]
    return tuple(unquote(part) for part in raw_path.strip("/").split("/"))
