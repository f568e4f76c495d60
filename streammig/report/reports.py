"""A report on a checkpoint, read without changing it, while a run is on or not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streammig.checkpoint import Checkpoint, is_held
from streammig.ratelimit import Use, account_path, parse_limits, usage_of
from streammig.report.document import document
from streammig.report.text import summary


@dataclass(frozen=True, slots=True)
class Report:
    """What a checkpoint holds: `document` is JSON-ready, as `streammig status --json` prints it; as text, what people
    are shown."""

    document: dict[str, Any]

    @classmethod
    def read(cls, checkpoint: Path) -> Report:
        """The report on a checkpoint as of now. Raises `Unusable` where there is none, or it is damaged."""
        file = Checkpoint.open(checkpoint, read_only=True)
        try:
            file.verify(quick=True)
            now = time.time()
            return cls(document(file, running=is_held(checkpoint), budget=_budget(file.run, now), now=now))
        finally:
            file.close()

    def __str__(self) -> str:
        return summary(self.document)


def _budget(run: Mapping[str, Any], now: float) -> list[Use]:
    context, account = run["context"], run["binding"].get("account", "")
    if run["binding"].get("dry_run") or "limits" not in context:
        return []
    limits = parse_limits(context["limits"], {})
    return usage_of(account_path(Path(context["state_dir"]), account), limits, now)
