"""The run's file: one SQLite database that makes a run resumable."""

from streammig.checkpoint.codec import describe, described
from streammig.checkpoint.file import Checkpoint
from streammig.checkpoint.holdings import Books, StageRow
from streammig.checkpoint.journal import Journal
from streammig.checkpoint.lock import is_held, locked

__all__ = ["Books", "Checkpoint", "Journal", "StageRow", "describe", "described", "is_held", "locked"]
