"""What the processes that send to one account share in the state folder: its limits, and the fences of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streammig.ask import Ask
from streammig.checkpoint import Checkpoint, Fence, fenced
from streammig.context import Clock
from streammig.delivery.folder import Unlimited
from streammig.ratelimit import OFF, AccountState, Hours, Limits, RateLimiter, account_path
from streammig.telemetry import Notify, ignore

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

    def limiter(
        self, stack: AsyncExitStack, clock: Clock, executor: Callable[[], Executor], notify: Notify = ignore,
        interval: float = BESIDE,
    ) -> Unlimited:  # fmt: skip
        return Unlimited()
