"""Settings of the sandbox: limits, delays, faults, and one choice for each open question of the documentation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """A duration in seconds: fixed if both ends are equal, else drawn evenly from the range."""

    low: float
    high: float

    @staticmethod
    def parse(text: str | float, what: str) -> Span:
        """Parse `2`, `0.5` or `0.1-0.3`. Raises ValueError, naming `what`, for anything else."""
        parts = str(text).split("-")
        try:
            ends = [float(part) for part in parts]
        except ValueError:
            ends = []
        if len(ends) not in (1, 2) or not 0 <= ends[0] <= ends[-1] < 1e9:
            raise ValueError(f"{what} {text!r} is neither seconds, like 0.5, nor a range of them, like 0.1-0.3")
        return Span(ends[0], ends[-1])

    def draw(self, dice: Random) -> float:
        return self.low if self.low == self.high else dice.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """Everything about one sandbox. The defaults are the strictest reading of the documents, without limits.

    `store` is a SQLite file that outlives the sandbox, None for a temporary one. `limits` is text like
    `1/5s,250/1h;general=1000/1d`, or `dev`, `prod`, `off`. `latency` is the wait before an answer, `queue_delay` the
    time from an acceptance to its effect. Both are seconds, or a range as `0.1-0.3`; a range also reorders the queue.
    `script` is a file of faults or its rules as dicts, see `streammig.sandbox.script`.

    `rewards` maps known reward ids to their brand (None: all brands). `tiers`, `stores` and `channels` are known ids.
    None means that every reference is known.
    """

    store: Path | str | None = None
    limits: str = "off"
    latency: str | float = 0.0
    queue_delay: str | float = 0.0
    script: Path | str | Sequence[Mapping[str, Any]] | None = None
    api_key: str = "sandbox-key"
    token_lifetime: float = 3600.0  # seconds
    max_body: int = 4 * MEBIBYTE  # bytes; a longer body gets 413
    repeat: Literal["double", "ignore"] = "double"  # a customer id that is migrated again
    duplicate_email: Literal["drop", "accept"] = "drop"  # an e-mail that another stored customer has
    balance_match: bool = True  # transactions must add up to the balance, else they are dropped in the queue
    once_only: bool = True  # a second transactions request for a customer is refused
    customer_must_exist: bool = True  # events and transactions of unknown customers are dropped in the queue
    migration_entry: bool = True  # a balance shows as transactions of type MIGRATION
    metrics: Literal["events", "sent"] = "events"  # which metrics win, for a customer with sent metrics and events
    history_moves_wallet: bool = False  # transactions change the wallet
    round_amounts: bool = False  # a wallet shows whole numbers
    partial_refusal: bool = False  # a 422 refuses only the bad customers, without saying so
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    name_offender: bool = False  # the details of a 422 name the customer's id
    rewards: Mapping[str, str | None] | None = None
    tiers: Collection[str] | None = None
    stores: Collection[str] | None = None
    channels: Collection[str] | None = None
    seed: int = 0
