"""The run's file: one SQLite database that makes a run resumable."""

from streammig.checkpoint.codec import hash_owner
from streammig.checkpoint.contents import Contents, spread
from streammig.checkpoint.fence import Fence, Fences, Mark, fenced, fences_path
from streammig.checkpoint.file import Checkpoint
from streammig.checkpoint.lock import is_held, locked
from streammig.checkpoint.outbox import outbox_path, write_body
from streammig.checkpoint.queries import FIRST, UNDECIDED, Attempt, Spot, StageRow, Totals
from streammig.checkpoint.reverts import Window
from streammig.checkpoint.sqlite import Role, SharedFile
from streammig.checkpoint.store import Store
from streammig.checkpoint.timeline import Timeline
from streammig.checkpoint.units import Accepted, Beside, Finding
from streammig.checkpoint.writer import CheckpointWriter

__all__ = [
    "FIRST",
    "UNDECIDED",
    "Accepted",
    "Attempt",
    "Beside",
    "Checkpoint",
    "CheckpointWriter",
    "Contents",
    "Fence",
    "Fences",
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
    "fenced",
    "fences_path",
    "hash_owner",
    "is_held",
    "locked",
    "outbox_path",
    "spread",
    "write_body",
]
