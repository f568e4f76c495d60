"""The scan before the first request: what is wrong with an export as a whole, found before any of it is sent.

A scan reads a stage once: a pure map over its spans, and a merge by key hash. Its findings are kept for later calls,
bound to the export. `forget` deletes them.
"""

from streammig.scan.findings import Break, Found
from streammig.scan.progress import Pace
from streammig.scan.stage import Scanned, StageScan, scan_stage
from streammig.scan.stages import OUTLINES, forget, problems_of, scan_folder, scan_stages
from streammig.scan.tasks import Halted, Task, Tasks
from streammig.scan.verdict import Policies
from streammig.scan.workers import Cluster, Processes, Workers, hired

__all__ = [
    "OUTLINES",
    "Break",
    "Cluster",
    "Found",
    "Halted",
    "Pace",
    "Policies",
    "Processes",
    "Scanned",
    "StageScan",
    "Task",
    "Tasks",
    "Workers",
    "forget",
    "hired",
    "problems_of",
    "scan_folder",
    "scan_stage",
    "scan_stages",
]
