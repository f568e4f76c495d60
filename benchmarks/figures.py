"""What the benchmarks of whole runs share: numbers are asked for, something is measured in a folder, figures shown."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = dict[str, Any]
"""Figures, JSON-ready; `reached` says whether the goal is, or of several goals which are."""


def figures(
    about: str | None, name: str, measure: Callable[..., Found], show: Callable[[Found], None], **numbers: float
) -> int:
    """Measure with these `numbers`, each an option with its default, and show what was found; the exit code.

    `measure` is given the numbers in their order, and a folder of its own behind them.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for number, default in numbers.items():
        parser.add_argument(f"--{number}", type=type(default), default=default)
    parser.add_argument("--json", action="store_true")
    asked = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix=f"streammig-{name}-") as folder:
        found = measure(*(asked[number] for number in numbers), Path(folder))
    if asked["json"]:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    reached = found["reached"]
    return 0 if (all(reached.values()) if isinstance(reached, dict) else reached) else 1


def yes(reached: bool) -> str:
    return "reached" if reached else "NOT reached"
