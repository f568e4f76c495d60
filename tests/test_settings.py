"""Settings come from one place, and a mistake in them is named before anything is done."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from streammig.errors import Held, Unusable
from streammig.settings import Settings, api_key, from_checkpoint, load, portable, state_folder
from streammig.spool import reads_stdin, spool_path, stdin_spooled
from tests.problems import raises


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "move.toml"
    path.write_text('limits = "dev"\n[customers]\nfiles = "export.json#customers"\n[events]\nfiles = ["a.json", "-"]\n')
    return path


def test_flags_override_the_file_and_the_rest_are_defaults(toml: Path) -> None:
    settings = load(toml, {"limits": "off", "events": {"map": "m:f"}})
    assert settings.limits == "off"
    assert settings.concurrency == Settings().concurrency
    assert settings.events.map == "m:f"
    assert settings.stages == ("customers", "events")


def test_paths_in_the_file_are_beside_it_and_stdin_stays_stdin(toml: Path) -> None:
    settings = load(toml, {})
    assert settings.customers.files == (str(toml.parent / "export.json#customers"),)
    assert settings.events.files == (str(toml.parent / "a.json"), "-")
    assert settings.checkpoint == str(toml.with_suffix(".checkpoint"))


def test_without_a_file_the_checkpoint_lies_in_the_working_folder() -> None:
    assert load(None, {}).checkpoint == "migration.checkpoint"


WRONG = [
    ("conncurrency = 8", "setting-unknown", ": there is no setting conncurrency\nDid you mean concurrency?"),
    ("[events]\nonwer = 'x'", "setting-unknown", ": [events]: there is no setting onwer\nDid you mean owner?"),
    ("[customer]\nfiles = ['x']", "setting-unknown", ": there is no setting customer\nDid you mean customers?"),
    (
        "file = ['x']",
        "setting-unknown",
        ": there is no setting file\nThere is a setting files in the table of a stage.",
    ),
    ("[customers]\nfile = 'a'", "setting-unknown", "there is no setting file"),
    ("[events]\nlimts = 'x'", "setting-unknown", "there is no setting limts\nThere is a setting limits above"),
    ("xyzzy = 1", "setting-unknown", ": there is no setting xyzzy\nSee all of them: streammig guide settings"),
    ("a" + ".a" * 5000 + " = 1", "setting-unknown", "there is no setting a"),
    ('concurrency = "4"', "settings-invalid", "Expected `int`, got `str` - at `concurrency`"),
    ("concurrency = 1.5", "settings-invalid", "at `concurrency`"),
    ("concurrency = true", "settings-invalid", "at `concurrency`"),
    ("concurrency = 0", "settings-invalid", "at `concurrency`"),
    ("concurrency = 65", "settings-invalid", "Expected `int` <= 64 - at `concurrency`"),
    ("concurrency = " + "9" * 400, "settings-invalid", "at `concurrency`"),
    ("max_bytes = 9_999", "settings-invalid", "Expected `int` >= 10000 - at `max_bytes`"),
    ('settle_time = "1"', "settings-invalid", "Expected `float`, got `str` - at `settle_time`"),
    ("settle_time = -1", "settings-invalid", "at `settle_time`"),
    ("settle_time = nan", "settings-invalid", "at `settle_time`"),
    ("include_inactive = 1", "settings-invalid", "Expected `bool`, got `int` - at `include_inactive`"),
    ("duplicates = 'last'", "settings-invalid", "at `duplicates`"),
    ("unknown_fields = 'maybe'", "settings-invalid", "at `unknown_fields`"),
    ("[customers]\nunknown = 1", "settings-invalid", "at `customers.unknown`"),
    ("limits = 5", "settings-invalid", "at `limits`"),
    ('customers = "x.json"', "settings-invalid", "at `customers`"),
    ("[customers]\nfiles = 5", "settings-invalid", "at `customers.files`"),
    ("[customers]\nfiles = [5]", "settings-invalid", "at `customers.files[0]`"),
    ('[events]\nreversed = "a=b"', "settings-invalid", "at `events.reversed`"),
    ("checkpoint = 2024-01-01", "settings-invalid", "at `checkpoint`"),
    ("limits = 'often'", "limits-invalid", "limits 'often': 'often' is no COUNT/TIME"),
    ("api_key = 'secret-value'", "key-in-settings", "MASIVO_API_KEY"),
    ("= no toml", "settings-unreadable", "is not TOML"),
    ("max_bytes = " + "9" * 5000, "settings-unreadable", "is not TOML"),
    ("customers = " + "[" * 5000, "settings-unreadable", "is not TOML"),
    ("x = " + "[" * 20_000 + "]" * 20_000, "settings-unreadable", ""),
    ("[events]\nowner = 'Member No'\nfields = {type = 'T'}", "fields-invalid", "Member No"),
    ("[events]\nowner = 'm'\nreversed = ['X']\nfields = {m = 'M'}", "fields-invalid", "X"),
]


@pytest.mark.parametrize(("text", "code", "said"), WRONG)
def test_a_wrong_setting_is_named_with_file_and_place_and_what_was_probably_meant(
    tmp_path: Path, text: str, code: str, said: str
) -> None:
    file = tmp_path / "move.toml"
    file.write_text(text)
    with raises(Unusable, code) as raised:
        load(file, {})
    told = str(raised.value)
    assert said in told
    assert told.startswith(str(file)) or code in ("key-in-settings", "fields-invalid")
    assert "secret-value" not in told
    assert "$" not in told


def test_the_key_comes_from_the_environment_a_file_or_a_command(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("from-file\n")
    assert api_key(Settings(api_key_file=str(path)), {"MASIVO_API_KEY": "from-environment"}) == "from-environment"
    assert api_key(Settings(api_key_file=str(path)), {}) == "from-file"
    assert api_key(Settings(api_key_command="printf from-command"), {}) == "from-command"


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(api_key_file="/nowhere/key"),
        Settings(api_key_command="printf 'secret key\\377'"),
    ],
)
def test_a_key_that_is_missing_or_can_not_be_one_is_refused_without_being_shown(settings: Settings) -> None:
    with pytest.raises(Unusable) as raised:
        api_key(settings, {})
    assert "secret key" not in str(raised.value)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("sh -c 'exit 3' secret", " (sh …) ended"),
        ("/bin/sh -c 'exit 3' secret", " (sh …) ended"),
        ("KEY=secret false", " ended"),
        ("'secret thing'", " ended"),
        ("printf 'secret key'", " (printf …) holds"),
    ],
)
def test_of_a_command_for_the_key_that_fails_nothing_but_the_program_is_shown(command: str, named: str) -> None:
    with pytest.raises(Unusable) as raised:
        api_key(Settings(api_key_command=command), {})
    assert f"the API key's command{named}" in raised.value.what.replace("from the", "the")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["two\nlines", "tab\tbed", "caf\u00e9", "nul\0", "raw\udcff"])
def test_a_key_from_the_environment_that_no_header_can_carry_is_refused(key: str) -> None:
    with raises(Unusable, "key-invalid") as raised:
        api_key(Settings(), {"MASIVO_API_KEY": key})
    assert key not in str(raised.value)
    assert api_key(Settings(), {"MASIVO_API_KEY": "fine\n"}) == "fine"


def test_a_key_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    with raises(Unusable, "key-unreadable"):
        api_key(Settings(api_key_file=str(tmp_path / "key")), {})


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"base_url": "https://caf\udce9"}, "base_url"),
        ({"checkpoint": "a\0b"}, "checkpoint"),
        ({"state_dir": "a\0b"}, "state_dir"),
        ({"api_key_file": "a\0b"}, "api_key_file"),
        ({"customers": {"files": ["a.json", "b\udcff.json"]}}, "customers.files"),
        ({"events": {"owner": "\0"}}, "events.owner"),
    ],
)
def test_a_text_that_can_be_no_path_or_address_is_named(flags: dict[str, Any], named: str) -> None:
    with raises(Unusable, "settings-invalid") as raised:
        load(None, flags)
    assert named in str(raised.value).encode().decode()


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"XDG_STATE_HOME": "/state"}, "/state/streammig"),
        ("linux", {}, str(Path.home() / ".local/state/streammig")),
        ("darwin", {}, str(Path.home() / "Library/Application Support/streammig")),
    ],
)
def test_the_state_folder_is_the_platform_s(platform: str, environment: dict[str, str], expected: str) -> None:
    assert str(state_folder(Settings(), environment, platform)) == expected
    assert str(state_folder(Settings(state_dir="/mine"), environment, platform)) == "/mine"


def piped(tmp_path: Path, text: str = "-#customers") -> Settings:
    return load(None, {"customers": {"files": [text]}, "checkpoint": str(tmp_path / "run.checkpoint")})


def spooled(settings: Settings, stdin: io.BytesIO) -> Settings:
    with stdin_spooled(settings, stdin, "streammig run") as found:
        return found


def test_standard_input_that_a_run_has_begun_on_and_whose_work_file_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.checkpoint").touch()
    with raises(Unusable, "stdin-lost"):
        spooled(piped(tmp_path), io.BytesIO(b""))


def test_a_work_file_of_an_attempt_that_never_began_is_replaced(tmp_path: Path) -> None:
    spooled(piped(tmp_path, "-"), io.BytesIO(b"first"))
    spooled(piped(tmp_path, "-"), io.BytesIO(b"second"))
    assert spool_path(tmp_path / "run.checkpoint").read_bytes() == b"second"


def test_nobody_writes_over_the_work_file_of_a_run_that_is_about_to_begin(tmp_path: Path) -> None:
    with (
        stdin_spooled(piped(tmp_path), io.BytesIO(b"first"), "streammig run first"),
        pytest.raises(Held, match="streammig run first"),
    ):
        spooled(piped(tmp_path), io.BytesIO(b"second"))
    assert spool_path(tmp_path / "run.checkpoint").read_bytes() == b"first"


def test_a_terminal_is_no_export(tmp_path: Path) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    with raises(Unusable, "stdin-terminal"):
        spooled(piped(tmp_path), Terminal())


def test_standard_input_is_asked_for_where_a_stage_names_it(toml: Path, tmp_path: Path) -> None:
    assert not reads_stdin(load(toml, {"events": {"files": ["b.json"]}}))
    assert reads_stdin(piped(tmp_path))


def test_the_settings_of_a_run_are_found_again_without_its_secrets(tmp_path: Path) -> None:
    settings = load(
        None,
        {
            "checkpoint": "a.checkpoint", "api_key_command": "echo secret", "api_key_file": "key", "concurrency": 2,
            "customers": {"files": ["c.json#data"], "map": "m:f"},
        },
    )  # fmt: skip
    kept = json.loads(json.dumps(portable(settings)))
    assert "secret" not in json.dumps(kept)
    found, folder = from_checkpoint(Path("b.checkpoint"), {"settings": kept, "folder": "/mappings"}, None)
    assert (found.concurrency, found.checkpoint, folder) == (2, "b.checkpoint", Path("/mappings"))
    assert found.customers.files == (str(Path("c.json#data").absolute()),)
    assert found.api_key_file == str(Path("key").absolute())
    toml = tmp_path / "more.toml"
    toml.write_text("concurrency = 3\n[customers]\nmap = 'm:g'\n")
    found, folder = from_checkpoint(Path("b.checkpoint"), {"settings": kept}, toml)
    assert (found.concurrency, found.customers.map, folder) == (3, "m:g", tmp_path)
    assert found.customers.files == (str(Path("c.json#data").absolute()),)
