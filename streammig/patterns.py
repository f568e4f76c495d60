"""Lists the files of a name in the settings: a file, a folder, or a pattern with `*`, `?` or `[…]`."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from streammig.address import is_address
from streammig.errors import Unusable

EXPORTS = re.compile(r"\.(json|ndjson|jsonl|csv|tsv|tab)(\.(gz|zst|zstd|xz|bz2))?$", re.IGNORECASE)


def files_of(text: str) -> list[str]:
    """Expand `FILE[#path]` to file names in natural order: part2 before part10.

    A name that exists is never a pattern. Raises `Unusable` for a pattern or a folder without a file.
    """
    name, mark, path = _parted(text)
    if name == "-" or is_address(name) or os.path.isfile(text):
        return [text]
    if os.path.isdir(name):
        found = [str(file) for file in Path(name).iterdir() if file.is_file() and EXPORTS.search(file.name)]
        wanted = f"a file of the folder {name} whose name ends with .json, .ndjson, .jsonl, .csv or .tsv"
    elif not os.path.lexists(name) and glob.has_magic(name):
        found, wanted = [file for file in glob.glob(name) if os.path.isfile(file)], f"a file for the pattern {name}"
    else:
        return [text]
    if not found:
        said = f"{name}: no file was found: {wanted} is expected"
        raise Unusable("export-not-found", said, "Check the name and the folder; put a pattern in quotes.")
    return [file + mark + path for file in sorted(found, key=natural)]


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key for names: digits compare as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _parted(text: str) -> tuple[str, str, str]:
    """The file's name, `#`, and the path after it."""
    return (text, "", "") if "#" not in text or os.path.lexists(text) else text.rpartition("#")
