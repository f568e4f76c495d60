"""The run's file: one SQLite database that makes a run resumable."""

from streammig.checkpoint.contents import Contents, spread
from streammig.checkpoint.fence import Fence, Fences, Mark, fenced, fences_path
from streammig.checkpoint.file import Checkpoint
from streammig.checkpoint.holdings import UNDECIDED, Books, StageRow
from streammig.checkpoint.journal import Journal
from streammig.checkpoint.letters import FIRST, Spot
from streammig.checkpoint.lock import is_held, locked
from streammig.checkpoint.outbox import outbox_path, write_body

__all__ = [
    "FIRST",
    "UNDECIDED",
    "Books",
    "Checkpoint",
    "Contents",
    "Fence",
    "Fences",
    "Journal",
    "Mark",
    "Spot",
    "StageRow",
    "fenced",
    "fences_path",
    "is_held",
    "locked",
    "outbox_path",
    "spread",
    "write_body",
]
