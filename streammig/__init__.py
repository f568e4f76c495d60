"""Moves a very large JSON export into a rate-limited HTTP API, exactly once in the totals.

The library is what this module exports; nothing else is public. `Migration(settings, key=...).run()` is a run in the
caller's event loop; it raises a `Problem` as the command would end with one. `Migration.telemetry()` tells what
happens meanwhile, `Report.read(path)` what a checkpoint holds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streammig.errors import (
        BrokenExport,
        Held,
        MachineFault,
        Problem,
        SamplesMissing,
        TargetStop,
        TooManyDead,
        UnknownOutcome,
        Unusable,
    )
    from streammig.migration import Migration
    from streammig.report.reports import Report
    from streammig.settings import Settings
    from streammig.telemetry import Notice

__all__ = [
    "BrokenExport",
    "Held",
    "MachineFault",
    "Migration",
    "Notice",
    "Problem",
    "Report",
    "SamplesMissing",
    "Settings",
    "TargetStop",
    "TooManyDead",
    "UnknownOutcome",
    "Unusable",
]

_HOMES = {
    "Migration": "streammig.migration", "Notice": "streammig.telemetry", "Report": "streammig.report.reports",
    "Settings": "streammig.settings",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: the command must start without all of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "streammig.errors")), name)
