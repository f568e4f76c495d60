"""The largest body that the target accepts, learnt from its answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streammig.batching import halves
from streammig.model import Record

NEAR = 1.1  # up to this ratio of the refused size to the passed one, no size between them is tried


@dataclass(slots=True)
class Sizes:
    """The smallest body that 413 refused, and the largest that was accepted, in bytes; 0 for none."""

    refused: int = 0
    passed: int = 0

    def takes(self, size: int) -> bool:
        """Tell whether the target may accept a body of this size."""
        return not self.refused or size < self.refused

    def refuse(self, size: int) -> None:
        self.refused = min(size, self.refused or size)
        if self.passed >= self.refused:
            self.passed = 0  # the target's limit has changed

    def accept(self, size: int) -> None:
        self.passed = max(size, self.passed)
        if self.passed >= self.refused:
            self.refused = 0

    def parts(self, size: int) -> int:
        """Return the number of parts for a body that is too large.

        The aim is half of the refused size until one size passes, and then the middle of the passed and the refused
        size: so few requests find the largest size that passes.
        """
        if not self.passed:
            aim = self.refused / 2
        else:
            aim = self.passed if self.refused <= NEAR * self.passed else (self.passed + self.refused) / 2
        return max(2, math.ceil(size / aim))


def shares(records: Sequence[Record], count: int) -> list[list[Record]]:
    """Divide the records of a batch by owner into up to `count` groups of similar size. One owner is never divided."""
    first, second = halves(records)
    by_owner: dict[str, list[Record]] = {}
    for record in first + second:
        by_owner.setdefault(record.owner, []).append(record)
    whole = sum(len(record.body) for record in first + second)
    groups: list[list[Record]] = []
    before = 0
    for mine in by_owner.values():
        if not groups or (len(groups) < count and before >= whole * len(groups) / count):
            groups.append([])
        groups[-1] += mine
        before += sum(len(record.body) for record in mine)
    return groups
