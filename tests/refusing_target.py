"""A target in memory that refuses, in the ways that a real one may: whole or in part, naming somebody or nobody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from streammig.model import Kind, Receipt, Record
from streammig.target import Seen
from tests.memory_target import MemoryTarget, _owners


def nobody(poison: list[str]) -> str:
    return "invalid customer entry"


@dataclass
class RefusingTarget(MemoryTarget):
    """`bad` holds (stage, owner) pairs that make a request be refused; `says` words the answer."""

    bad: frozenset[tuple[str, str]] = frozenset()
    says: Callable[[list[str]], str] = nobody
    closed: bool = False  # refuses everything: the world is wrong, not a record
    partial: bool = False  # takes the healthy part of what it refuses
    blind: int = 0  # so many reads say nothing
    took: set[bytes] = field(default_factory=set)  # SHA-256 of each body that it took

    async def _send(self, stage: str, body: bytes, began: Callable[[], None]) -> Receipt:
        receipt = await super()._send(stage, body, began)
        if receipt.kind is not Kind.REJECTED:
            return receipt
        if self.partial:
            healthy = [it for it in json.loads(body)["customers"] if (stage, it["id"]) not in self.bad]
            self._take(stage, json.dumps({"customers": healthy}).encode())
        return Receipt(Kind.REJECTED, 422, self.says([it for it in _owners(body) if (stage, it) in self.bad]))

    async def visible(self, stage: str, record: Record) -> Seen:
        if self.blind > 0:
            self.blind -= 1
            return Seen.CANT_TELL
        return await super().visible(stage, record)

    def _refused(self, stage: str, body: bytes) -> bool:
        return self.closed or any((stage, owner) in self.bad for owner in _owners(body))

    def _take(self, stage: str, body: bytes) -> None:
        self.took.add(hashlib.sha256(body).digest())
        super()._take(stage, body)
