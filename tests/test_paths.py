"""Names of files and folders may hold any letter that the file system takes."""

from __future__ import annotations

import pytest

from tests.commands import Shell, quickly, sandbox, write
from tests.sandbox_caller import customer

NAMES = ["a?b", "a\\b", "a&b=c", "a*[b]", "{a}'b;", 'a%20"b', "a\nb", "a#b", "-a", "ü $HOME:"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_export_checkpoint_and_state_folder_may_have_any_name(shell: Shell, name: str) -> None:
    folder = shell.folder / name
    folder.mkdir()
    export = write(folder / f"{name}.json", [customer(f"c{number}") for number in range(30)])
    checkpoint = folder / f"{name}.checkpoint"
    with sandbox(limits="off") as target:
        given = "--customers", export, "--checkpoint", checkpoint, "--state-dir", folder / "state", *quickly(target.url)
        first = shell("run", *given, "--first", 10, "--json")
        rest = shell("run", *given, "--json")
    status = shell("status", checkpoint, "--json")
    report = shell("report", checkpoint, "--out", folder / f"{name}.html")
    assert (first.code, rest.code, status.code, report.code) == (10, 0, 0, 0), first.err + rest.err + report.err
    assert rest.document["stages"]["customers"]["accepted"] == 30
