"""README and guide as tests see them: their tables, the commands they name, and their fenced blocks, run as written.

A comment on the line before a fence says what a test does with the block:

    <!-- file NAME -->         its text is the content of this file
    <!-- background -->        a server: it goes on while the rest of the page runs
    <!-- exit CODE -->         its last command ends with this code, not 0
    <!-- not run: REASON -->   nothing
    <!-- the suite -->         nothing: this is the test command, which `.ci/run` takes from here
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "streammig" / "guide"
PAGES = [ROOT / "README.md", *sorted(GUIDE.glob("*.md"))]
PORT = "8787"  # as written; a test takes a free one
SECONDS = 60.0  # one page in all

FENCE = re.compile(r"(?ms)^( *)(?:<!-- (?P<mark>[^\n]*?) -->\n\1)?```(?P<kind>\w*)\n(?P<text>.*?)^\1```$")
CODE = re.compile(r"`([^`\n]+)`")


@cache
def sources(room: str = "streammig") -> dict[Path, ast.Module]:
    """The modules of a room by their paths below it."""
    paths = sorted((ROOT / room).rglob("*.py"))
    return {path.relative_to(ROOT / room): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


class Block(NamedTuple):
    """A fenced block: its language, its text, and what its comment says."""

    kind: str
    text: str
    mark: str


def blocks(page: Path) -> Iterator[Block]:
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        indent = found[1]
        text = "".join(line.removeprefix(indent) for line in found["text"].splitlines(keepends=True))
        yield Block(found["kind"], text, found["mark"] or "")


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `streammig` command that a page has in a block or in a line, without the program's name."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page) if block.kind == "sh" for line in block.text.splitlines()]
    for line in [*lines, *CODE.findall(FENCE.sub("", text))]:
        if found := re.search(r"(?:^|\s|/)streammig ([a-z][^|<>&#]*)", line):
            yield shlex.split(found[1])


def table(page: Path, *columns: str) -> list[list[str]]:
    """The rows of the tables of a page that have just these columns, without the marks of code."""
    found: list[list[str]] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif cells == list(columns):
            inside = True
        elif inside and not set(cells[0]) <= set("-: "):
            found.append(cells)
    return found


def run(page: Path, folder: Path) -> str:
    """Run a page's blocks in order, in an empty folder; its output. Raises AssertionError where one ends otherwise."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    lines = ["set -u"]
    for number, block in enumerate(blocks(page), 1):
        text, (mark, _, value) = block.text.replace(PORT, port), block.mark.partition(" ")
        if mark == "file":
            lines += [f"cat > {value} <<'END OF {value}'", f"{text}END OF {value}"]
        elif mark == "background":
            lines += [f"{text.rstrip()} &", f"until (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done"]
        elif block.kind == "sh" and mark not in ("not", "the"):
            code = value if mark == "exit" else "0"
            begin, end = ("set +e", "set -e") if mark == "exit" else ("set -e", "true")
            check = f'[ $code = {code} ] || {{ echo "block {number} ended with $code"; exit 1; }}'
            lines += [begin, text.rstrip(), "code=$?", end, check]
    (folder / ".page").write_text("\n".join(lines) + "\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept |= {"PATH": path, "HOME": str(folder), "XDG_STATE_HOME": str(folder)}
    said = folder / ".said"
    with said.open("wb") as out, subprocess.Popen(
        ["bash", ".page"], cwd=folder, env=kept, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            shell.wait(SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # with what goes on in the background
    assert shell.returncode == 0, said.read_text()
    return said.read_text()
