"""The account that a run sends to. Its limits and fences lie in the state folder, for all processes of this host."""

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
SMALLEST = 64  # bytes: a shorter file holds no valid record, and many such files are equal
READ_INTERVAL = 0.2  # seconds between two reads while a run sends


@dataclass(frozen=True, slots=True)
class SharedAccount:
    """An account of a target, shared by all processes of this host."""

    name: str  # in the state folder
    target: str  # base URL
    state_dir: Path
    limits: Limits
    hours: Hours | None = None  # timetable: when to send, and which share of the limits

    @property
    def binding(self) -> Mapping[str, Any]:
        """The values that bind a checkpoint to this account."""
        return {"target": self.target, "account": self.name}

    def fence(self, path: Path, ask: Ask) -> AbstractContextManager[Fence]:
        """Open the fence of the checkpoint at this path. Raises `Unusable` if the fence knows a newer copy."""
        return fenced(
            path,
            self.state_dir,
            Checkpoint.copy_at(path),
            ask.command,
            current=ask.current,
            lost=ask.newest_lost,
        )

    def claim(self, path: Path, fence: Fence | None, marks: Marks, again: bool, older: Path | None = None) -> None:
        """Record in the state folder which files this checkpoint sends. Does nothing without its fence.

        Raises `Unusable` if another checkpoint of this host claims one of these files, and has made a request or is
        running now. To this checkpoint every record is new, so it would send them all a second time. `again` allows
        that. A reverted checkpoint has no claim. Neither counts the `older` run, whose records this one leaves out.
        """
        if fence is None:
            return
        digests = [_digest(stage, mark) for stage, files in marks.items() for mark in files if mark["size"] >= SMALLEST]
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
            f"another checkpoint of this host has sent records of this export: {sent[0]}",
            f"Nothing was sent. Go on with that checkpoint, or look at it: streammig status {shlex.quote(sent[0])}\n"
            "To send its records a second time, run the same command once with --export-again.",
        )

    def limiter(
        self, stack: AsyncExitStack, clock: Clock, executor: Callable[[], Executor], notify: Notify = ignore,
        interval: float = READ_INTERVAL,
    ) -> RateLimiter:  # fmt: skip
        """Open the account's rate limiter until the stack is closed. `interval`: seconds between two reads."""
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
    """The account of a dry run: a folder has neither limits nor a fence."""

    binding: Mapping[str, Any] = {"account": "none", "dry_run": True}  # read only
    limits = OFF

    def fence(self, path: Path, ask: Ask) -> AbstractContextManager[None]:
        return nullcontext()

    def claim(self, path: Path, fence: Fence | None, marks: Marks, again: bool, older: Path | None = None) -> None:
        """Nothing is sent."""

    def limiter(
        self, stack: AsyncExitStack, clock: Clock, executor: Callable[[], Executor], notify: Notify = ignore,
        interval: float = READ_INTERVAL,
    ) -> Unlimited:  # fmt: skip
        return Unlimited()


def _digest(stage: str, mark: Mapping[str, Any]) -> str:
    """Hash of a stage and a file's fingerprint without its path: equal for two copies of one file."""
    return hashlib.sha256(json.dumps([stage, comparable([mark])], sort_keys=True).encode()).hexdigest()
