"""Limit the dead letters of a stage, so that a wrong mapping stops the run early."""

from __future__ import annotations

import re
from typing import NamedTuple

from streammig.errors import TooManyDead, Unusable, counted
from streammig.model import Tally

LEAST = 1_000  # units; a share is taken of at least so many, so that the first bad record is not 100 %
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")


class DeadLimit(NamedTuple):
    """The most dead letters of a stage, in units: a number, or a share of the units read so far (0 to 1)."""

    units: int | None = None
    share: float | None = None

    def check(self, stage: str, dead: Tally, read: Tally, show: str) -> None:
        """Raise `TooManyDead` if a stage has more. `show` is the command that shows them."""
        most = self.units if self.share is None else self.share * max(read.units, LEAST)
        if most is not None and dead.units > most:
            raise TooManyDead(
                "too-many-dead",
                f"dead letters of {stage}: {dead.units:,} of {counted(read.units, 'unit')} read,"
                " more than max_dead allows",
                f"See why: {show}\nMend the mapping or the export, or raise max_dead, then run the same command.",
            )


def parse_dead_limit(value: int | str) -> DeadLimit:
    """Parse a setting: 1000, "1%", or "" for no limit. Raises `Unusable`."""
    if value == "":
        return DeadLimit()
    if isinstance(value, int) and value >= 0:
        return DeadLimit(value)
    found = _SHARE.fullmatch(str(value).strip())
    if found is None or float(found[1]) > 100:
        said = f"max_dead {value!r} is neither a number of units nor a share of them"
        raise Unusable("max-dead-invalid", said, 'Write it like 1000 or "1%".')
    return DeadLimit(share=float(found[1]) / 100)
