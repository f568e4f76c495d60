"""The names of the stages, for settings and the command line: they know no target and must load fast."""

from __future__ import annotations

from streammig.masivo.stages import STAGES as _TABLE

STAGES = tuple(stage.name for stage in _TABLE)
ONCE = frozenset(stage.name for stage in _TABLE if stage.once)
