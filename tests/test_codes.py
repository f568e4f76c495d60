"""The codes of problems: stable texts in kebab case, each of one kind, and with it of one exit code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from streammig.errors import EXPORT_BROKEN, BrokenExport, Problem
from tests.manual import sources

NOTICES = {"Waiting", "Warned"}
KINDS = {"Problem", *(kind.__name__ for kind in Problem.__subclasses__())}


def made() -> Iterator[tuple[str, ast.expr, str]]:
    """Kind, code and place of each problem, wait and warning that the source makes."""
    for path, tree in sources().items():
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        ours = [node for node in froms if node.module in ("streammig.errors", "streammig.telemetry")]
        kinds = {it.name for node in ours for it in node.names} & (KINDS | NOTICES)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                yield node.func.id, node.args[0], f"{path}:{node.lineno}"


def test_a_code_is_in_kebab_case_and_of_one_kind() -> None:
    kinds: dict[str, set[str]] = {}
    for kind, code, place in made():
        if isinstance(code, ast.Constant):
            assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", str(code.value)), place
            kinds.setdefault(str(code.value), set()).add(kind)
        else:  # made of parts, or passed on from another process: no sentence
            assert not any(isinstance(it, ast.Constant) and " " in str(it.value) for it in ast.walk(code)), place
    assert len(kinds) > 60
    assert {kind for found in kinds.values() for kind in found} >= NOTICES
    assert {code: found for code, found in kinds.items() if len(found - NOTICES) > 1} == {}


def test_a_problem_is_json_with_its_code_and_exit_code() -> None:
    broken = BrokenExport("e.json", 7, "it ends", "Export it again.")
    assert broken.json() == {"code": EXPORT_BROKEN, "what": broken.what, "hint": "Export it again.", "exit_code": 2}
    assert Problem("a-code", "what").json()["exit_code"] == 1
