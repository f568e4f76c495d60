"""Play a script of faults. It is checked before the server starts.

A script is a JSON list of rules, or NDJSON with one rule a line. The first rule that matches a request is played. A
request over the limits gets 429 before any rule.

Which requests a rule matches:

    "on"      customers, events, transactions, revert, auth, read, migration (the first four) or any; default any
    "nth"     the 3rd request of that kind, or a list of such numbers, counted from 1 over the server's life
    "every"   each N-th request
    "chance"  a probability from 0 to 1, drawn with the sandbox's seed
    "from", "until"   only the requests from this to that number of the kind, both included
    "times"   at most this many times

`nth`, `every` and `chance` exclude each other; with none of them every request of the kind matches.

What it does, `"do"`, with its own keys (and their defaults):

    "answer"    "status" instead of the right answer; "done" (false): the work is done first; "share": it is done for
                the first customers only, this share of them; "body": "error" (also in a 2xx), "html" (a proxy's
                page, a captive portal), "invalid-json", "empty" (error from 400 on, else empty), "count" (how many
                customers were enqueued, of how many) or "list" (a status for each of them); "json": any JSON instead;
                "retry_after": seconds, or any text sent as it is; "retry_after_date": seconds from now, sent as an
                HTTP date; "location": where a redirect leads (the same address)
    "revoke"    every token issued so far ends, so the request gets its 401
    "reset"     the connection is reset "at" the "head" (before the body is read), the "body" (half-way through it)
                or "done" (the work is done, the answer is not sent; the default)
    "hang"      no answer for "seconds" (60), then the connection closes; "done" (false)
    "slow"      the right answer, "seconds" (1) after the work is done
    "drip"      the right answer, byte by byte over "seconds" (1)
    "truncate"  the right answer, cut "at" the "head" or the "body" (default), then the connection closes
    "partial"   refused with 422, but the good part is taken; the first "bad" (1) customers count as bad
    "lose"      taken with the right answer, but the queue drops the customers at "records" (a list of indices from 0)
                or each with the probability "share" (1)
    "late"      taken with the right answer, applied "seconds" (60) later than the queue would
    "missing"   a read of a customer who is not there is answered "as" "404" (the default), "null", "object" (200 with
                `null` or `{}`), "204" or "400"

`partial`, `lose` and `late` are for customers, events and transactions, and `on` is migration where they leave it out;
`missing` is for reads. `share`, "count" and "list" are for customers, events and transactions, too.

Examples:

    {"on": "customers", "nth": 3, "do": "reset", "at": "done"}
    {"on": "migration", "every": 10, "do": "answer", "status": 429, "retry_after": 2}
    {"on": "any", "chance": 0.05, "do": "answer", "status": 502, "body": "html", "done": true}
    {"on": "events", "nth": 2, "do": "answer", "status": 207, "body": "list", "share": 0.75}
    {"on": "customers", "nth": 2, "do": "answer", "status": 200, "json": {"error": "Internal", "details": "queue full"}}
    {"do": "missing", "as": "null"}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

MIGRATIONS = ("customers", "events", "transactions", "revert")
BATCHES = MIGRATIONS[:3]
KINDS = (*MIGRATIONS, "auth", "read")
COUNTING = ("count", "list")  # bodies that tell how many were enqueued

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ScriptError(ValueError):
    """A script that can't be played; the message names the rule and its fault."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """Selects requests. The subclasses are the faults that these requests meet."""

    on: Literal["customers", "events", "transactions", "revert", "auth", "read", "migration", "any"] = "any"
    nth: Count | list[Count] | None = None
    every: Count | None = None
    chance: Share | None = None
    first: Count = msgspec.field(name="from", default=1)
    until: Count | None = None
    times: Count | None = None

    def meets(self, kind: str) -> bool:
        return self.on == "any" or self.on == kind or (self.on == "migration" and kind in MIGRATIONS)

    def strikes(self, number: int, dice: Random) -> bool:
        """Whether the rule is for the `number`-th request of its kind."""
        if number < self.first or (self.until is not None and number > self.until):
            return False
        if self.nth is not None:
            return number == self.nth if isinstance(self.nth, int) else number in self.nth
        if self.every is not None:
            return number % self.every == 0
        return self.chance is None or dice.random() < self.chance

    def problem(self) -> str:
        """Say what is wrong with the rule beyond its types; "" if nothing is."""
        if sum(choice is not None for choice in (self.nth, self.every, self.chance)) > 1:
            return "nth, every and chance exclude each other"
        return ""


class Answer(Rule, frozen=True, kw_only=True, tag="answer"):
    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    done: bool = False
    share: Share | None = None
    body: Literal["error", "html", "invalid-json", "empty", "count", "list"] | None = None
    json: Any = msgspec.UNSET
    retry_after: Seconds | str | None = None
    retry_after_date: float | None = None
    location: str | None = None

    def problem(self) -> str:
        texts = (self.location, self.retry_after if isinstance(self.retry_after, str) else None)
        if any(text is not None and not (text.isprintable() and text.isascii()) for text in texts):
            return "retry_after and location must be printable ASCII, as a header's value is"
        if (self.share is not None or self.body in COUNTING) and self.on not in (*BATCHES, "migration"):
            return "share, count and list are for customers, events, transactions or migration"
        if self.body is not None and self.json is not msgspec.UNSET:
            return "body and json exclude each other"
        return super().problem()

    @property
    def taken(self) -> float:
        """The share of the customers that is enqueued."""
        return float(self.done) if self.share is None else self.share

    @property
    def works(self) -> bool:
        """Whether the target handles the request."""
        return self.done or self.share is not None or self.body in COUNTING


class Revoke(Rule, frozen=True, kw_only=True, tag="revoke"):
    pass


class Reset(Rule, frozen=True, kw_only=True, tag="reset"):
    at: Literal["head", "body", "done"] = "done"


class Hang(Rule, frozen=True, kw_only=True, tag="hang"):
    seconds: Seconds = 60.0
    done: bool = False


class Slow(Rule, frozen=True, kw_only=True, tag="slow"):
    seconds: Seconds = 1.0


class Drip(Rule, frozen=True, kw_only=True, tag="drip"):
    seconds: Seconds = 1.0


class Truncate(Rule, frozen=True, kw_only=True, tag="truncate"):
    at: Literal["head", "body"] = "body"


class Taken(Rule, frozen=True, kw_only=True):
    """A fault in the content of a batch."""

    on: Literal["customers", "events", "transactions", "migration"] = "migration"

    def meets(self, kind: str) -> bool:
        return kind in BATCHES and super().meets(kind)


class Partial(Taken, frozen=True, kw_only=True, tag="partial"):
    bad: Annotated[int, msgspec.Meta(ge=0)] = 1


class Lose(Taken, frozen=True, kw_only=True, tag="lose"):
    records: list[Annotated[int, msgspec.Meta(ge=0)]] | None = None
    share: Share = 1.0

    def chosen(self, count: int, dice: Random) -> list[int]:
        """Choose the indices of the lost customers, out of `count`."""
        if self.records is not None:
            return [index for index in self.records if index < count]
        return [index for index in range(count) if dice.random() < self.share]


class Missing(Rule, frozen=True, kw_only=True, tag="missing"):
    on: Literal["read"] = "read"
    say: Literal["404", "null", "object", "204", "400"] = msgspec.field(name="as", default="404")


class Late(Taken, frozen=True, kw_only=True, tag="late"):
    seconds: Seconds = 60.0


Fault = Answer | Revoke | Reset | Hang | Slow | Drip | Truncate | Partial | Lose | Late | Missing


def load_script(script: Path | str | Sequence[Mapping[str, Any]] | None) -> tuple[Fault, ...]:
    """Load the rules of a script. Raises ScriptError, naming the file and the rule, if it can't be played."""
    if script is None:
        return ()
    if not isinstance(script, (Path, str)):
        return tuple(_rule(rule, f"script: rule {number}") for number, rule in enumerate(script, 1))
    try:
        data = Path(script).read_bytes()
    except OSError as error:
        raise ScriptError(f"script {script} can't be read: {error.strerror}") from error
    try:
        if data.lstrip().startswith(b"["):
            rules = [(f"rule {number}", rule) for number, rule in enumerate(msgspec.json.decode(data), 1)]
        else:
            lines = enumerate(data.splitlines(), 1)
            rules = [(f"line {number}", msgspec.json.decode(line)) for number, line in lines if line.strip()]
    except ValueError as error:  # also for invalid UTF-8
        raise ScriptError(f"script {script} is neither a JSON list nor NDJSON: {error}") from error
    if not rules:
        raise ScriptError(f"script {script} holds no rule")
    return tuple(_rule(rule, f"script {script}: {place}") for place, rule in rules)


def _rule(rule: Any, where: str) -> Fault:
    try:
        fault: Fault = msgspec.convert(rule, Fault)
    except msgspec.ValidationError as error:
        raise ScriptError(f"{where}: {error}; {_valid(rule)}") from error
    if problem := fault.problem():
        raise ScriptError(f"{where}: {problem}")
    return fault


def _valid(rule: Any) -> str:
    """List the valid keys for the "do" of this rule, or the valid values of "do"."""
    faults = {fault.__struct_config__.tag: fault for fault in get_args(Fault)}
    do = rule.get("do") if isinstance(rule, Mapping) else None
    if not isinstance(do, str) or do not in faults:
        return f'a rule is an object, and its "do" one of {", ".join(faults)}'
    keys = []
    for key in msgspec.structs.fields(faults[do]):
        kinds = [kind for kind in (key.type, *get_args(key.type)) if get_origin(kind) is Literal]
        values = ", ".join(str(value) for kind in kinds for value in get_args(kind))
        keys.append(f"{key.encode_name} ({values})" if values else key.encode_name)
    return f'"{do}" takes {", ".join(keys)}'


class Script:
    """Counts the requests of each kind, and chooses the fault for each request."""

    def __init__(self, rules: Sequence[Fault], dice: Random) -> None:
        self._rules = rules
        self._dice = dice
        self._seen: Counter[str] = Counter()
        self._played: Counter[int] = Counter()

    def fault(self, kind: str) -> Fault | None:
        """Choose the fault for a request. Call it once for each: a request counts for `kind`, its group and any."""
        groups = {kind, "any", *(("migration",) if kind in MIGRATIONS else ())}
        self._seen.update(groups)
        for index, rule in enumerate(self._rules):
            if rule.times is not None and self._played[index] >= rule.times:
                continue
            if rule.meets(kind) and rule.strikes(self._seen[rule.on], self._dice):
                self._played[index] += 1
                return rule
        return None
