"""Scan an export before the first request, for problems of the export as a whole.

A scan reads a stage once: a pure map over its spans, and a merge by key hash. Its findings are kept for later calls,
bound to the export. `forget` deletes them.
"""

from streammig.scan.progress import ScanProgress
from streammig.scan.stage import StageScan, scan_stage
from streammig.scan.stages import OUTLINES, forget, problems_of, scan_folder, scan_stages
from streammig.scan.tasks import Halted, Task, Tasks
from streammig.scan.verdict import Policies
from streammig.scan.workers import Cluster, Processes, Workers, hired

__all__ = [
    "OUTLINES",
    "Cluster",
    "Halted",
    "Policies",
    "Processes",
    "ScanProgress",
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
