"""Moves a very large export into a rate-limited HTTP API. The totals prove that no record is lost or sent twice.

The library is what this module exports; nothing else is public. `Migration(settings, key=...).run()` runs in the
caller's event loop. It raises the `Problem` with which the command would end. `Migration.telemetry()` yields the
notices of a run. `Report.read(path)` returns the report of a checkpoint.
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
    """Import a name on first use: a command starts faster without all of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "streammig.errors")), name)
