"""What one call of `run` asks for beside the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streammig.checkpoint import Fence


@dataclass(frozen=True, slots=True)
class Ask:
    """What one call of `run` asks for beside the settings."""

    command: str  # the command line that goes on from here
    first: int | None = None  # a pilot: so many source records of each stage
    unchecked: bool = False  # do not look for duplicate customers
    dry_run: Path | None = None  # a folder for the bodies, instead of the target; the checkpoint lies in it
    current: bool = False  # the checkpoint is the newest copy, though the state folder has no fence for it
    newest_lost: bool = False  # the newest copy is lost: go on from this older one
    accept_doubles: tuple[str, ...] = ()  # the stages, by name, whose unknown batches may be sent again unproven
    bodies_lost: bool = False  # batches whose bodies are lost become dead letters
    accept_broken: bool = False  # where a file breaks off, deliver what stands before that, and call it the end
    export_again: bool = False  # the export may be another checkpoint's of this host
    held: bool = False  # the caller holds the checkpoint's lock
    aside: bool = False  # a command beside the run: what goes on from here is still the run's command

    def passes_look(self, fence: Fence | None) -> bool:
        """Whether the operator's word passes the look at the target. Where it answers for a lost fence, it does not."""
        return self.export_again or (self.current and (fence is None or fence.known))
