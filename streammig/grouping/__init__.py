"""Grouping: bring single rows, each with a field that names its customer, together into records of whole customers.

The rows go out of core into an owner-only work file, ordered by each customer's first row. That row is the place of the
record, so a checkpoint, a message and a dead letter name files and lines of the export itself.
"""

from streammig.grouping.rows import OfRows
from streammig.grouping.source import GroupedSource, forget, grouped_folder

__all__ = ["GroupedSource", "OfRows", "forget", "grouped_folder"]
