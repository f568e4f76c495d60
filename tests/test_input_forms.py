"""Exports as people have them, each through the real command: what is read, what is named, and what the guide says."""

from __future__ import annotations

import json

import pytest

from tests.commands import Shell
from tests.input_forms import CASES, THEN, Case
from tests.manual import GUIDE, table


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_a_form_of_an_export_ends_as_the_guide_says(shell: Shell, case: Case) -> None:
    (shell.folder / case.name.partition("#")[0]).write_bytes(case.content)
    text = f'{case.common}\n[customers]\nfiles = ["{case.name}"]\n{case.settings}'
    (shell.folder / "move.toml").write_text(text, encoding="utf-8")
    ended = shell("run", "move.toml", "--dry-run", "look", "--json", "--log", "json", *case.flags)
    then = THEN[case.then]
    assert ended.code == then.exit, ended.err
    if ended.code == 2:
        assert ended.problem == case.code
        return
    found = ended.document["stages"]["customers"]
    assert found["accepted"] == then.sent
    assert found["read"] == found["accepted"] + found["dead"] + found["filtered"]
    assert not case.code or case.code in [json.loads(line).get("code") for line in ended.err.splitlines()]


def test_the_guide_tells_each_form_as_it_is_read() -> None:
    rows = table(GUIDE / "what-happens-when.md", "the export is", "streammig", "exit")
    assert rows == [[case.words.strip("`"), THEN[case.then].words, str(THEN[case.then].exit)] for case in CASES]
    assert len({case.words for case in CASES}) == len(CASES) >= 60
