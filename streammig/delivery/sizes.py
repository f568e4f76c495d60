"""What size of a body the target takes, as far as its answers show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streammig.batching import halves
from streammig.model import Record

NEAR = 1.1  # how many times the size that passed may the refused one be for no size between them to be tried


@dataclass(slots=True)
class Sizes:
    """The smallest body that was answered with 413, and the largest that was accepted, in bytes; 0 without one."""

    refused: int = 0
    passed: int = 0

    def takes(self, size: int) -> bool:
        """Whether the target may take a body of this size."""
        return not self.refused or size < self.refused

    def refuse(self, size: int) -> None:
        self.refused = min(size, self.refused or size)
        if self.passed >= self.refused:
            self.passed = 0  # the target has changed its mind

    def accept(self, size: int) -> None:
        self.passed = max(size, self.passed)
        if self.passed >= self.refused:
            self.refused = 0

    def parts(self, size: int) -> int:
        """Into how many parts to cut a body that is too large: halves of what was refused, until one passes; then the
        middle of what passed and what was refused, so that few requests find the largest size that passes."""
        if not self.passed:
            aim = self.refused / 2
        else:
            aim = self.passed if self.refused <= NEAR * self.passed else (self.passed + self.refused) / 2
        return max(2, math.ceil(size / aim))


def shares(records: Sequence[Record], count: int) -> list[list[Record]]:
    """The records of a batch by owner in up to `count` groups of about the same size; one group where there is one
    owner, who can't be split further."""
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
