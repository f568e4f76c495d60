"""What the processes that send to one account share in the state folder: its limits, and the fences of checkpoints."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, AsyncExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streammig.ask import Ask
from streammig.checkpoint import Checkpoint, Fence, fenced, has_sent
from streammig.clock import Clock
from streammig.delivery.folder import Unlimited
from streammig.errors import Unusable
from streammig.ratelimit import OFF, AccountState, Hours, Limits, RateLimiter, account_path
from streammig.sources import comparable
from streammig.telemetry import Notify, ignore

Marks = Mapping[str, Sequence[Mapping[str, Any]]]
LEAST = 64  # bytes: a shorter file holds no record that a target takes, and many are alike
BESIDE = 0.2  # seconds between two reads beside the requests of a run


@dataclass(frozen=True, slots=True)
class SharedAccount:
    """An account of a target, by its name in the state folder."""

    name: str
    target: str  # base URL
    state_dir: Path
    limits: Limits
    hours: Hours | None = None  # when to send, and at which share of the limits

    @property
    def binding(self) -> Mapping[str, Any]:
        """What binds a checkpoint to it."""
        return {"target": self.target, "account": self.name}

    def fence(self, path: Path, ask: Ask) -> AbstractContextManager[Fence]:
        """The fence of the checkpoint at this path; raises `Unusable` where it knows of a newer copy."""
        return fenced(
            path,
            self.state_dir,
            Checkpoint.copy_at(path),
            ask.command,
            current=ask.current,
            lost=ask.newest_lost,
        )

    def claim(self, path: Path, fence: Fence | None, marks: Marks, again: bool, older: Path | None = None) -> None:
        """Note which files the checkpoint at this path is to send; nothing without its fence.

        Raises `Unusable` where another checkpoint of this host has made a request and was given one of them, or is
        being run: to a new checkpoint every record is new. `again` passes that, and so does a revert of that one, or
        that it is the `older` run whose records this one leaves out.
        """
        if fence is None:
            return
        digests = [_digest(stage, mark) for stage, found in marks.items() for mark in found if mark["size"] >= LEAST]
        with closing(AccountState(account_path(self.state_dir, self.name))) as state:
            before = state.claims(fence.run_id)
            others = state.claim(fence.run_id, str(path.absolute()), digests)
            known = Checkpoint.copy_at(older) if others and older is not None else None
            left_out = known[0] if known is not None else ""
            sent = [name for run_id, name in others if run_id != left_out and has_sent(self.state_dir, run_id)]
            if not sent or again:
                return
            state.release(fence.run_id, kept=before)
        raise Unusable(
            "export-sent-before",
            f"the export was given to another checkpoint of this host, which has sent from it: {sent[0]}",
            f"Nothing was sent. Go on with that one, or look at it: streammig status {shlex.quote(sent[0])}\n"
            "If its records are to be sent once more, run the same command once with --export-again.",
        )

    def limiter(
        self, stack: AsyncExitStack, clock: Clock, executor: Callable[[], Executor], notify: Notify = ignore,
        interval: float = BESIDE,
    ) -> RateLimiter:  # fmt: skip
        """The permits of the account, until the stack is closed. `interval` spreads reads, in seconds."""
        state = AccountState(account_path(self.state_dir, self.name))
        stack.callback(state.close)
        limiter = RateLimiter(
            state,
            self.limits,
            clock,
            stack.enter_context(executor()),
            interval=interval,
            notify=notify,
            orders=self.state_dir,
            hours=self.hours,
        )
        stack.push_async_callback(limiter.close)
        return limiter


class NoAccount:
    """That of a folder, which has neither limits nor a copy that could be older."""

    binding: Mapping[str, Any] = {"account": "none", "dry_run": True}  # read only
    limits = OFF

    def fence(self, path: Path, ask: Ask) -> AbstractContextManager[None]:
        return nullcontext()

    def claim(self, path: Path, fence: Fence | None, marks: Marks, again: bool, older: Path | None = None) -> None:
        """Nothing is sent."""

    def limiter(
        self, stack: AsyncExitStack, clock: Clock, executor: Callable[[], Executor], notify: Notify = ignore,
        interval: float = BESIDE,
    ) -> Unlimited:  # fmt: skip
        return Unlimited()


def _digest(stage: str, mark: Mapping[str, Any]) -> str:
    """What tells that two checkpoints were given the same file for a stage, wherever it lies."""
    return hashlib.sha256(json.dumps([stage, comparable([mark])], sort_keys=True).encode()).hexdigest()
