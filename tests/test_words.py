"""Plain words: what people read has none of the words that this project avoids.

No docstring, comment, message or page may hold one. Behaviour is never decided by the words of a message.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manual import PAGES, ROOT, sources

STOPPED = [
    "anew", "hardly", "nobody can say", "nobody can tell", "stands? twice", "comes? out otherwise", "all the same",
    "whom", "behind which", "ours? alone", "in vain", "thereupon", "whence",
]  # fmt: skip
PATTERNS = {word: re.compile(rf"\b{word.replace(' ', chr(92) + 's+')}\b", re.IGNORECASE) for word in STOPPED}


def found_in(texts: Iterator[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({word: len(found) for word, it in PATTERNS.items() if (found := it.findall(text))})
    return counts


def prose(path: Path, tree: ast.Module) -> Iterator[str]:
    """The texts and comments of a module. Texts that stand side by side are one."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(it.value) if isinstance(it, ast.Constant) else "X" for it in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value
    yield " ".join(it.lstrip("# ") for it in re.findall(r"#.*", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_readme_and_guide_are_in_plain_words(page: Path) -> None:
    assert found_in(iter([page.read_text(encoding="utf-8")])) == {}


@pytest.mark.parametrize("room", ["benchmarks", "streammig"])
def test_docstrings_comments_and_messages_are_in_plain_words(room: str) -> None:
    found = {str(path): dict(found_in(prose(ROOT / room / path, tree))) for path, tree in sources(room).items()}
    unclear = {path: words for path, words in found.items() if words}
    assert not unclear, f"write it plainly: {json.dumps(unclear, indent=1)}"


# Attributes and variables that hold words for people. Code that looks into them would act on prose.
WORDS = {
    "what", "hint", "reason", "message", "messages", "why", "warning", "warnings", "note", "said", "problem", "error",
    "sentence", "caught", "told",
}  # fmt: skip
SEARCHES = {"startswith", "endswith", "find", "search", "match", "fullmatch"}
FOREIGN = {"masivo/redact.py", "sources/valid.py"}  # a mark of our own on words of the target; msgspec has no codes


def searched(tree: ast.AST) -> Iterator[tuple[int, ast.expr]]:
    """What is compared with a text, or searched for one, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Constant | ast.JoinedStr) and _is_text(side) for side in sides):
                yield from ((node.lineno, side) for side in sides)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SEARCHES:
            yield from ((node.lineno, side) for side in [node.func.value, *node.args])


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str":
        return name_of(node.args[0]) if node.args else ""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def acts_on_words(tree: ast.AST) -> list[int]:
    return [line for line, node in searched(tree) if name_of(node) in WORDS]


@pytest.mark.parametrize(
    "line",
    [
        'if "breaks off" in row.message: pass', 'if row.note.startswith("the operator"): pass',
        'if why.startswith(READING): pass', 'if "pilot" in stage["message"]: pass', 'if "x" in str(error): pass',
        're.search("pilot", problem.what)', 'if hint == "Try again.": pass', 'if f"{it} x" != caught.value.hint: pass',
    ],
)  # fmt: skip
def test_a_search_in_a_message_is_found(line: str) -> None:
    assert acts_on_words(ast.parse(line))


@pytest.mark.parametrize("line", ['if row.code == "pilot": pass', 'if "id" in found: pass', "if not row.message: pass"])
def test_a_code_may_be_compared(line: str) -> None:
    assert not acts_on_words(ast.parse(line))


def test_no_behaviour_is_decided_by_the_words_of_a_message() -> None:
    found = {
        f"{path}:{line}"
        for path, tree in sources().items()
        if str(path) not in FOREIGN and path.parts[0] not in ("sandbox", "guide")
        for line in acts_on_words(tree)
    }
    assert not found
