"""The checkpoint: one SQLite database, with its outbox, that makes a run resumable."""

import importlib
from typing import TYPE_CHECKING

from streammig.checkpoint.codec import hash_owner
from streammig.checkpoint.contents import Contents, spread
from streammig.checkpoint.fence import Fence, FenceFile, Mark, fence_path, fenced, has_sent, refuse_stale
from streammig.checkpoint.file import Checkpoint
from streammig.checkpoint.lock import is_held, locked
from streammig.checkpoint.outbox import at_once, outbox_path, write_body
from streammig.checkpoint.queries import FIRST, UNDECIDED, Attempt, Spot, StageRow, Totals
from streammig.checkpoint.reverts import Window
from streammig.checkpoint.sqlite import Role, SharedFile
from streammig.checkpoint.timeline import Timeline
from streammig.checkpoint.units import MISSED, Accepted, Beside, Finding

if TYPE_CHECKING:
    from streammig.checkpoint.store import Store
    from streammig.checkpoint.writer import CheckpointWriter

# These two import asyncio, so they load on first use: `status` must start fast.
_LATER = {"Store": "streammig.checkpoint.store", "CheckpointWriter": "streammig.checkpoint.writer"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(_LATER[name]), name)


__all__ = [
    "FIRST",
    "MISSED",
    "UNDECIDED",
    "Accepted",
    "Attempt",
    "Beside",
    "Checkpoint",
    "CheckpointWriter",
    "Contents",
    "Fence",
    "FenceFile",
    "Finding",
    "Mark",
    "Role",
    "SharedFile",
    "Spot",
    "StageRow",
    "Store",
    "Timeline",
    "Totals",
    "Window",
    "at_once",
    "fence_path",
    "fenced",
    "has_sent",
    "hash_owner",
    "is_held",
    "locked",
    "outbox_path",
    "refuse_stale",
    "spread",
    "write_body",
]
