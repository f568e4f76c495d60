"""The house style that a program can see: how long a module and a function may be, and what a call may look like."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.manual import ROOT

MODULE, FUNCTION = 400, 50  # lines
POSITIONAL = 7  # arguments of a call


def beyond(path: str, source: str) -> Iterator[str]:
    if (lines := source.count("\n")) > MODULE:
        yield f"{path}: {lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION:
                yield f"{path}: {node.name}: {lines} lines"
        elif isinstance(node, ast.Call) and len(node.args) > POSITIONAL:
            yield f"{path}:{node.lineno}: {len(node.args)} positional arguments"


def test_no_module_no_function_and_no_call_is_too_long() -> None:
    rooms = ROOT / "streammig"
    files = [(str(path.relative_to(rooms)), path.read_text(encoding="utf-8")) for path in rooms.rglob("*.py")]
    assert len(files) > 200
    assert [it for path, source in files for it in beyond(path, source)] == []


def test_what_is_too_long_is_found() -> None:
    assert [*beyond("x.py", "def f():\n" + "    pass\n" * 50)] == ["x.py: f: 51 lines"]
    assert [*beyond("x.py", "pass\n" * 401)] == ["x.py: 401 lines"]
    assert [*beyond("x.py", "f(1, 2, 3, 4, 5, 6, 7, 8)")] == ["x.py:1: 8 positional arguments"]
