"""The target of a dry run: a folder with one file for each body. It needs neither permits nor a fence."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from streammig.disk import create
from streammig.errors import MachineFault, Unusable
from streammig.model import Kind, Receipt, Record
from streammig.target import Client, Difference, ReadBack, Rules, Seen, Stage, Target

CHECKPOINT = "dry-run.checkpoint"
LEFT = {CHECKPOINT + end for end in (".lock", ".scan", ".grouped")}


def dry_checkpoint(folder: Path) -> Path:
    """Make the folder of a dry run, and return the path of its checkpoint.

    Raises `Unusable` if the folder holds other files than those of a dry run that was stopped before its first body.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = not LEFT.issuperset(path.name for path in folder.iterdir())
    except OSError as error:
        raise Unusable(
            "folder-unusable", f"{folder}: {error.strerror}", "Name a folder that can be made with --dry-run."
        ) from None
    if taken:
        raise Unusable(
            "folder-not-empty", f"{folder} is not empty", "Name a new folder for the dry run: it will hold every body."
        )
    return folder / CHECKPOINT


@dataclass(frozen=True, slots=True)
class FolderTarget:
    """Implements `Target` with the rules of another target and a folder to send to."""

    target: Target
    folder: Path
    queued = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.target.stages

    def rules(self, stage: str) -> Rules:
        return self.target.rules(stage)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Client, ReadBack]]:
        yield FolderClient(self.folder), NoReadBack()


class FolderClient:
    """Writes each body to `<stage>-<number>.json`, owner-only: a body holds personal data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, int] = {}

    async def send(self, stage: str, body: bytes, began: Callable[[], None] = lambda: None) -> Receipt:
        began()
        number = self._written[stage] = self._written.get(stage, 0) + 1
        path = self._folder / f"{stage}-{number:06d}.json"
        await asyncio.to_thread(_write, path, body)
        return Receipt(Kind.ACCEPTED)

    def redact(self, said: str) -> str:
        return said

    async def renew(self) -> None:
        """Do nothing: a folder needs no credentials."""


def _write(path: Path, body: bytes) -> None:
    try:
        with create(path) as file:
            file.write(body)
    except OSError as error:
        raise MachineFault(
            "output-failed", f"{path}: {error.strerror}", "Make room, then run again with a new folder."
        ) from None


class NoReadBack:
    """Implements `ReadBack`: every record counts as visible, so a dry run never waits or warns."""

    misread = ""

    async def visible(self, stage: str, record: Record) -> Seen:
        return Seen.ALL

    async def differences(self, stage: str, record: Record, counted: int = 0) -> list[Difference] | None:
        return []

    def counted(self, stage: str, record: Record) -> int:
        return 0

    def can_tell(self, stage: str, record: Record) -> bool:
        return True

    def proves(self, stage: str) -> bool:
        return True

    async def reachable(self) -> bool:
        return True


class Unlimited:
    """Implements `Permits`, and is a `Permit`, without limits."""

    async def acquire(self) -> Unlimited:
        return self

    def sent(self) -> None:
        pass

    def unsent(self) -> None:
        pass

    def answered(self, latency: float) -> None:
        pass

    async def pause_for(self, seconds: float, status: int = 429) -> None:
        pass

    async def on_429(self) -> None:
        pass

    async def enter(self, run_id: str, starts: Sequence[float] = ()) -> str:
        return ""

    async def read(self) -> None:
        pass

    async def release(self, run_id: str) -> None:
        pass

    def all_sent(self) -> None:
        pass

    async def spare(self) -> float:
        return math.inf

    async def observe(
        self, limit: float | None, remaining: float | None, reset: float | None, age: float = 0.0
    ) -> None:
        pass
