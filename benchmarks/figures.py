"""Shared by all benchmarks: options, a folder to measure in, the output of figures, calls in a process of their own."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

from streammig.children import GC_THRESHOLD
from streammig.reader_process import MEMORY

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


def apart(work: Callable[..., int], *arguments: str, reader: bool) -> tuple[float, int]:
    """The seconds of CPU that this function of a benchmark takes in a fresh process, and what it returns there.

    `reader`: in one that is set up as streammig sets up its own for reading, else in one as Python comes.
    """
    module = f"benchmarks.{Path(work.__code__.co_filename).stem}"  # by its own word it may be __main__
    call = json.dumps([module, work.__name__, reader, arguments])
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.figures", call], stdout=subprocess.PIPE, check=True,
        env=os.environ | (MEMORY if reader else {}), cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    seconds, result = json.loads(found.stdout)
    return seconds, result


def main() -> None:
    """The other side of `apart`."""
    module, name, reader, arguments = json.loads(sys.argv[1])
    work = getattr(importlib.import_module(module), name)
    if reader:
        gc.set_threshold(GC_THRESHOLD)
    begun = process_time()
    result = work(*arguments)
    print(json.dumps([process_time() - begun, result]))


if __name__ == "__main__":
    main()
