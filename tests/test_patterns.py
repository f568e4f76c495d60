"""Which files a name stands for: itself, a folder's exports, or what a pattern finds, in natural order."""

from __future__ import annotations

from pathlib import Path

import pytest

from streammig.errors import Unusable
from streammig.patterns import files_of
from tests.commands import Shell, sandbox
from tests.problems import raises

NAMES = ["part1.ndjson", "part2.ndjson", "part10.ndjson", "part[3].ndjson", "notes.txt", ".hidden.swp"]
STANDS_FOR = [
    ("part1.ndjson", ["part1.ndjson"]),
    ("part1.ndjson#", ["part1.ndjson#"]),
    ("part?.ndjson", ["part1.ndjson", "part2.ndjson"]),
    ("part[0-9]*.ndjson", ["part1.ndjson", "part2.ndjson", "part10.ndjson"]),
    ("part1*.ndjson#data", ["part1.ndjson#data", "part10.ndjson#data"]),
    ("part[3].ndjson", ["part[3].ndjson"]),
    (".", ["part1.ndjson", "part2.ndjson", "part10.ndjson", "part[3].ndjson"]),
    ("missing.json", ["missing.json"]),
    ("-", ["-"]),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        (tmp_path / name).write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("text", "wanted"), STANDS_FOR)
def test_a_name_stands_for_its_files_in_natural_order(text: str, wanted: list[str]) -> None:
    assert files_of(text) == wanted


@pytest.mark.parametrize("text", ["x*.json", "empty"])
def test_a_pattern_or_folder_without_a_file_is_refused(folder: Path, text: str) -> None:
    (folder / "empty").mkdir()
    with raises(Unusable, "export-not-found"):
        files_of(text)


def customer(number: int) -> str:
    return (
        f'{{"id": "C{number}", "name": "N", "email": "c{number}@example.org", "registration_date":'
        f' "2020-01-01T00:00:00Z", "balance": []}}\n'
    )


def test_a_pattern_is_read_as_its_files_listed_before_and_another_file_among_them_is_no_resume(shell: Shell) -> None:
    for number in (1, 2, 10):
        (shell.folder / f"part{number}.ndjson").write_text(customer(number))
    with sandbox() as target:
        begun = shell.run(target.url, "--customers", "part*.ndjson", "--first", "1")
        (shell.folder / "part11.ndjson").write_text(customer(11))
        more = shell.run(target.url, "--customers", "part*.ndjson", "--json", "--quiet")
        (shell.folder / "part3.ndjson").write_text(customer(3))
        other = shell.run(target.url, "--customers", "part*.ndjson")
    assert (begun.code, more.code, other.code) == (10, 0, 2)
    assert "part1.ndjson, part2.ndjson, part10.ndjson" in begun.err
    assert more.document["stages"]["customers"]["accepted"] == 4
    assert other.problem is not None


@pytest.mark.parametrize("files", [("part1.ndjson", "part2.ndjson"), ("part1.ndjson", "a.toml", "b.toml")])
def test_more_than_one_file_behind_a_flag_gets_the_way_to_name_several(shell: Shell, files: tuple[str, ...]) -> None:
    assert shell("run", "--customers", *files).code == 2
