"""An entered session on a scripted server, with everything it was asked to do written down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from streammig.clock import SystemClock
from streammig.masivo.session import Secret, Session

KEY = "key-which-nobody-may-see"


class WallClock(SystemClock):
    pass


@dataclass
class Log:
    paced: int = 0
    held: list[float] = field(default_factory=list)
    waited: list[tuple[str, float]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    async def pace(self) -> None:
        self.paced += 1

    async def hold(self, seconds: float, status: int) -> None:
        self.held.append(seconds)

    def waiting(self, why: str, seconds: float) -> None:
        self.waited.append((why, seconds))


class NoDice(Random):
    """Backs off by nothing, so that tests wait for nothing."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


@asynccontextmanager
async def session_on(url: str, log: Log | None = None, **options: float | str) -> AsyncIterator[Session]:
    log = log or Log()
    session = Session(
        url, Secret(KEY), clock=WallClock(), rng=NoDice(), pace=log.pace, hold=log.hold, waiting=log.waiting,
        **{"connect_timeout": 2.0, "request_timeout": 2.0, **options},  # type: ignore[arg-type]
    )  # fmt: skip
    async with session:
        yield session
