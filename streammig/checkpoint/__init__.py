"""The run's file: one SQLite database that makes a run resumable."""

from streammig.checkpoint.contents import Contents, spread
from streammig.checkpoint.fence import Fence, Fences, Mark, fenced, fences_path
from streammig.checkpoint.file import Checkpoint
from streammig.checkpoint.letters import FIRST, Becomes, Spot
from streammig.checkpoint.lock import is_held, locked
from streammig.checkpoint.outbox import outbox_path, write_body
from streammig.checkpoint.queries import UNDECIDED, Books, StageRow
from streammig.checkpoint.store import CheckpointReader, Store
from streammig.checkpoint.work import WorkFile, forget_work, work_path
from streammig.checkpoint.writer import CheckpointWriter

__all__ = [
    "FIRST",
    "UNDECIDED",
    "Becomes",
    "Books",
    "Checkpoint",
    "CheckpointReader",
    "CheckpointWriter",
    "Contents",
    "Fence",
    "Fences",
    "Mark",
    "Spot",
    "StageRow",
    "Store",
    "WorkFile",
    "fenced",
    "fences_path",
    "forget_work",
    "is_held",
    "locked",
    "outbox_path",
    "spread",
    "work_path",
    "write_body",
]
