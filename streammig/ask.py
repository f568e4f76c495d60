"""The options of one command that are not settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streammig.checkpoint import Fence


@dataclass(frozen=True, slots=True)
class Ask:
    """The options of one command that are not settings."""

    command: str  # the command line that resumes
    first: int | None = None  # pilot: number of source records of each stage
    unchecked: bool = False  # do not look for duplicate customers
    dry_run: Path | None = None  # write bodies to this folder instead of sending; the checkpoint lies in it
    current: bool = False  # the operator says: this checkpoint is the newest copy, though it has no fence
    newest_lost: bool = False  # the operator says: the newest copy is lost, go on from this older one
    accept_doubles: tuple[str, ...] = ()  # stages whose unknown batches may be sent again without proof
    bodies_lost: bool = False  # turn batches without a body into dead letters
    accept_broken: bool = False  # if a file breaks off, send what comes before the break and end there
    export_again: bool = False  # send the export even if another checkpoint of this host has sent it
    held: bool = False  # the caller holds the checkpoint's lock
    aside: bool = False  # a command such as `verify`: the checkpoint keeps the run's own command line

    def passes_look(self, fence: Fence | None) -> bool:
        """Whether the operator's word replaces the look at the target before the first request.

        If the fence is lost, `current` only replaces the fence. Then the look is still made, as the last safeguard.
        """
        return self.export_again or (self.current and (fence is None or fence.known))
