"""What a proof found: points tried, violations with the shortest script that shows each, unknowns, refusals."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
MEMORY = Path("/dev/shm")


@dataclass
class Found:
    """`unknowns` counts units that were left to the operator, `refusals` runs that ended with a clear refusal."""

    points: int = 0
    violations: list[str] = field(default_factory=list)
    unknowns: int = 0
    refusals: int = 0

    def must_hold(self) -> None:
        assert not self.violations, f"{len(self.violations)} violations\n" + "\n".join(self.violations[:5])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one try; in memory where there is such a place, for what is killed here is never the machine."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


def shortest(script: tuple[T, ...], still: Callable[[tuple[T, ...]], bool]) -> tuple[T, ...]:
    """The script without every step that it shows the same without."""
    at = 0
    while at < len(script):
        less = script[:at] + script[at + 1 :]
        if still(less):
            script = less
        else:
            at += 1
    return script
