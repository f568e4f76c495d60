"""README and guide say what is so: commands, options, settings, codes and fields are those of the program."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import msgspec
import pytest
from msgspec import inspect

import streammig as public
from streammig import errors, telemetry
from streammig.cli import COMMANDS, PILOT_DONE, STOPPED, streammig
from streammig.cli.guide import page, topics
from streammig.masivo import models
from streammig.masivo.limits import PRESETS
from streammig.masivo.rules.reasons import CODES, FILTERS
from streammig.not_in import BEFORE_SINCE, SENT_BEFORE
from streammig.ratelimit import parse_limits
from streammig.selection import OF_FILTERED
from streammig.settings import Settings, StageSettings
from tests import manual
from tests.commands import Shell, write
from tests.manual import GUIDE, PAGES, ROOT
from tests.sandbox_caller import customer

CONTEXT = click.Context(streammig)
OPTION = re.compile(r"--[a-z][a-z-]+")
FOREIGN = {"--help", "--version"}


def options(command: str) -> set[str]:
    found = streammig.get_command(CONTEXT, command)
    assert found is not None
    return {name for it in found.params if isinstance(it, click.Option) for name in it.opts}


def named(page: Path) -> str:
    return page.stem


runnable = [
    page for page in PAGES if any(it.kind == "sh" and not it.mark.startswith("not") for it in manual.blocks(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", runnable, ids=named)
def test_the_blocks_of_a_page_run_as_written(page: Path, tmp_path: Path) -> None:
    manual.run(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    known = set().union(*(options(name) for name in COMMANDS)) | FOREIGN
    for command, *rest in manual.commands(page):
        assert command in COMMANDS
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options(command) | FOREIGN
        if command == "guide" and rest and rest[0] not in ("TOPIC", "[TOPIC]"):
            assert rest[0] in topics()
    for code in manual.CODE.findall(page.read_text()):
        if code.startswith("--"):
            assert set(OPTION.findall(code)) <= known


def test_every_option_of_every_command_is_on_the_page_of_commands() -> None:
    text = (GUIDE / "commands.md").read_text()
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert set(sections) == set(COMMANDS)
    for command, part in sections.items():
        assert set(re.findall(r"(?m)^\| `(--[a-z-]+)`", part)) == options(command), command


def settings() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    for kind in (Settings, StageSettings):
        hints = get_type_hints(kind)
        yield from ((name, kind) for name in kind.__struct_fields__ if hints[name] is not StageSettings)


def test_the_page_of_settings_has_each_with_its_default_its_flag_and_its_choices() -> None:
    rows = {row[0]: row for row in manual.table(GUIDE / "settings.md", "setting", "flag", "default", "meaning")}
    assert set(rows) == {name for name, _ in settings()}
    flags = options("run")
    for name, kind in settings():
        _, flag, default, meaning = rows[name]
        value: Any = getattr(kind(), name)
        shown = (
            json.dumps(value) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
        )
        assert default == ("" if value in ("", (), {}) else str([*value]) if isinstance(value, tuple) else shown)
        option = f"--{name.replace('_', '-')}"
        assert (option in flag) == (option in flags), name
        hint = get_type_hints(kind)[name]
        if get_origin(hint) is Literal:
            assert all(f"`{choice}`" in f"{meaning} `{default}`" for choice in get_args(hint)), name


def test_the_page_of_the_library_has_every_public_name_and_each_has_help() -> None:
    names = {
        name for row in manual.table(GUIDE / "library.md", "name", "is") for name in re.findall(r"[A-Z]\w+", row[0])
    }
    assert names == set(public.__all__)
    assert all(getattr(public, name).__doc__ for name in public.__all__)


def test_every_command_and_option_has_help() -> None:
    for name in COMMANDS:
        found = streammig.get_command(CONTEXT, name)
        assert found is not None
        assert found.help, name
        assert all(it.help for it in found.params if isinstance(it, click.Option)), name


def test_the_page_of_exit_codes_has_each_of_them() -> None:
    problems = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.Problem)]
    rows = manual.table(GUIDE / "exit-codes.md", "code", "means", "then")
    assert {int(row[0]) for row in rows} == {0, 3, PILOT_DONE, STOPPED, *(each.exit_code for each in problems)}


PROBLEMS = {name: it for name, it in vars(errors).items() if isinstance(it, type) and issubclass(it, errors.Problem)}

MADE = PROBLEMS | {"disk_fault": errors.MachineFault}


def codes_of(node: ast.expr, source: ast.Module, roles: set[str]) -> Iterator[str]:
    """The codes that the first argument of a problem may be. What begins with a file's role stands for each role."""
    match node:
        case ast.Constant(str(code)):
            yield code
        case ast.IfExp():
            yield from (*codes_of(node.body, source, roles), *codes_of(node.orelse, source, roles))
        case ast.JoinedStr(values=[ast.FormattedValue(), ast.Constant(str(rest))]):
            yield from (role + rest for role in roles)
        case ast.Name(name):
            yield from [getattr(errors, name)] if name.isupper() else []
            for it in ast.walk(source):
                if isinstance(it, ast.Assign) and ast.unparse(it.targets[0]) == name:
                    yield from codes_of(it.value, source, roles)
        case ast.Starred(ast.Call(ast.Name(name))):  # a function that returns code, words and hint
            (made,) = [it for it in ast.walk(source) if isinstance(it, ast.FunctionDef) and it.name == name]
            for it in ast.walk(made):
                if isinstance(it, ast.Return) and isinstance(it.value, ast.Tuple):
                    yield from codes_of(it.value.elts[0], source, roles)


def test_the_page_of_codes_has_each_code_of_a_problem_with_its_exit_code() -> None:
    modules = manual.sources().values()
    calls = [(it, source) for source in modules for it in ast.walk(source) if isinstance(it, ast.Call) and it.args]
    roles = {ast.literal_eval(it.args[1]) for it, _ in calls if ast.unparse(it.func) == "Role"}
    made = {(errors.EXPORT_BROKEN, errors.BrokenExport.exit_code)}
    for call, source in calls:
        if (kind := MADE.get(ast.unparse(call.func))) is not None and kind is not errors.BrokenExport:
            made |= {(code, kind.exit_code) for code in codes_of(call.args[0], source, roles)}
    rows = manual.table(GUIDE / "codes.md", "problem", "exit", "means")
    told = {(code, int(row[1])) for row in rows for code in re.findall(r"[a-z][a-z0-9-]+", row[0])}
    of_no_file = {("checkpoint-format", 2)}  # a checkpoint of another format has codes of its own
    assert (sorted(made - told - of_no_file), sorted(told - made)) == ([], []), "guide/codes.md must have just these"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_names_the_file_of_each_sample_for_who_reads_it(page: Path) -> None:
    text = page.read_text()
    for block in manual.FENCE.finditer(text):
        mark, _, name = (block["mark"] or "").partition(" ")
        if mark == "file":
            assert f"`{name}`" in text[max(text.rfind("```", 0, block.start()), 0) : block.start()], name


def test_the_page_of_dead_letters_has_each_code_and_each_reason_to_filter() -> None:
    rows = dict(manual.table(GUIDE / "dead-letters.md", "code", "reason"))
    assert {code: rows.get(code) for code in CODES} == CODES
    filters = dict(manual.table(GUIDE / "dead-letters.md", "reason", "means"))
    assert all(filters.pop(reason) for reason in (OF_FILTERED, SENT_BEFORE, BEFORE_SINCE))
    assert filters == FILTERS


def fields(model: type[msgspec.Struct]) -> Iterator[tuple[str, str, type[msgspec.Struct] | None]]:
    """Each field of a model: its name, whether it is required as the page says it, and the model inside of it."""
    info = inspect.type_info(model)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        extra: dict[str, Any] = {}
        kind, null = field.type, False
        while isinstance(kind, inspect.Metadata | inspect.UnionType):
            if isinstance(kind, inspect.Metadata):
                extra |= kind.extra or {}
                kind = kind.type
            else:
                null = True
                kind = next(it for it in kind.types if not isinstance(it, inspect.NoneType))
        filled = extra.get("default", "").strip('"') or extra.get("copy")
        needed = "yes, may be null" if null else "yes"
        inner = kind.item_type if isinstance(kind, inspect.ListType) else kind
        yield (
            field.encode_name,
            f"filled in: {filled}" if filled else needed if field.required else "no",
            inner.cls if isinstance(inner, inspect.StructType) else None,
        )


def test_the_page_of_masivo_has_every_field_and_whether_it_is_required() -> None:
    parts = {part.partition("\n")[0]: part for part in (GUIDE / "masivo.md").read_text().split("\n### ")[1:]}
    todo: list[type[msgspec.Struct]] = [models.Customer, models.OwnerOfEvents, models.OwnerOfTransactions]
    seen: set[str] = set()
    while todo:
        model = todo.pop()
        if model.__name__ not in seen:
            seen.add(model.__name__)
            rows = re.findall(r"(?m)^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", parts[model.__name__])
            assert rows == [(name, needed) for name, needed, _ in fields(model)], model.__name__
            todo += [inner for _, _, inner in fields(model) if inner is not None]
    assert set(parts) == seen


def test_the_page_of_masivo_has_the_numbers_of_the_limits() -> None:
    rows = manual.table(GUIDE / "masivo.md", "limits", "migration requests", "all requests")
    units = {"s": "s", "an hour": "h", "a day": "d"}

    def written(text: str) -> str:
        if text == "no limit":
            return ""
        numbers = re.findall(r"([\d,]+) (?:in (\d+) s|(an hour|a day))", text)
        return ",".join(f"{count.replace(',', '')}/{f'{s}s' if s else '1' + units[each]}" for count, s, each in numbers)

    for name, migration, general in rows[:-1]:
        said = ";general=".join(filter(None, (written(migration), written(general))))
        assert parse_limits(said, {}) == PRESETS[name]
    assert {row[0] for row in rows} == {*PRESETS, "off"}


def test_the_page_of_benchmarks_has_each_of_them() -> None:
    rows = manual.table(GUIDE / "benchmarks.md", "name", "measures")
    runs = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert {row[0] for row in rows} == runs - {"figures"}  # which only runs parts of the others


def test_the_readme_leads_to_every_page_and_has_at_most_1800_words() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1800
    rows = manual.table(ROOT / "README.md", "page", "about")
    assert {name.strip() for row in rows for name in row[0].split(",")} == set(topics())


def test_the_page_of_the_json_document_has_each_of_its_fields(shell: Shell) -> None:
    write(shell.folder / "c.json", [customer("c-1")])
    document = shell("run", "--customers", "c.json", "--dry-run", "look", "--json").document
    text = (GUIDE / "json.md").read_text()
    listed = [re.findall(r"(?m)^\| `(\w+)`", part) for part in text.split("\n## ")[1:]]
    assert listed[:2] == [list(document), list(document["stages"]["customers"])]


def test_guide_lists_its_topics_and_shows_a_page_as_plain_text(shell: Shell) -> None:
    listed = shell("guide")
    assert [line.split()[0] for line in listed.out.splitlines()] == list(topics())
    shown = shell("guide", "exit-codes")
    assert (shown.code, shown.out) == (0, page("exit-codes"))
    assert "\x1b" not in shown.out
    assert "<!--" not in shell("guide", "first-migration").out


def test_guide_refuses_an_unknown_topic_with_the_list(shell: Shell) -> None:
    ended = shell("guide", "nonsense")
    assert (ended.code, ended.out) == (2, "")
    assert all(topic in ended.err for topic in topics())


def test_the_page_of_the_json_document_has_each_notice_of_the_log() -> None:
    rows = manual.table(GUIDE / "json.md", "notice", "means")
    made = {re.sub(r"(?<!^)(?=[A-Z])", "-", it.__name__).lower() for it in telemetry.Notice.__subclasses__()}
    assert {name for row in rows for name in re.findall(r"[a-z-]+", row[0])} == made
