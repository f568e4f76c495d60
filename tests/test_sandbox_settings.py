"""What the sandbox is told before it starts: limits, spans of time, scripts, tokens; no server runs here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from msgspec.structs import fields

from streammig.cli.sandbox import command
from streammig.sandbox import Sandbox, SandboxConfig, ScriptError
from streammig.sandbox.config import Span
from streammig.sandbox.limits import Limiter, parse_limits
from streammig.sandbox.script import Fault, Lose, Reset, Script, load_script
from streammig.sandbox.tokens import Tokens


def windows(text: str) -> list[tuple[str, int, float]]:
    return [(window.group, window.allowed, window.seconds) for window in parse_limits(text)]


def test_limits_name_their_windows_in_two_groups() -> None:
    assert windows("1/5s,250/1h;general=1000/1d") == [
        ("migration", 1, 5.0),
        ("migration", 250, 3600.0),
        ("general", 1000, 86400.0),
    ]
    assert windows("migration=2/0.05s ; general = 5/100ms, 7/2m") == [
        ("migration", 2, 0.05),
        ("general", 5, 0.1),
        ("general", 7, 120.0),
    ]


def test_presets_are_the_documented_environments() -> None:
    assert windows("dev") == windows("1/5s,250/1h;general=1000/1d")
    assert windows("prod") == windows("1/5s,1000/1h")
    assert windows("off") == []


@pytest.mark.parametrize(
    ("config", "named"),
    [
        *(
            (SandboxConfig(limits=text), "limits '")
            for text in ("1/5", "0/5s", "1/0s", "x", "reads=1/5s", "1/5s,", "1/5s;general=", "-1/5s")
        ),
        *(
            (SandboxConfig(queue_delay=text), "queue delay")
            for text in ("", "x", "-1", "0.3-0.1", "1-2-3", "nan", "inf")
        ),
    ],
)
def test_limits_and_spans_that_cannot_be_read_are_named(config: SandboxConfig, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Sandbox(config)


@pytest.mark.parametrize(
    ("limits", "arrivals"),
    [
        # Exactly a gap apart is allowed, closer is not; a refused attempt counts, and moves the next slot away.
        ("1/5s", [(100.0, ""), (105.0, ""), (109.999, "migration")]),
        ("1/5s", [(100.0, ""), (104.0, "migration"), (105.0, "migration"), (110.0, "")]),
        # The hour slides.
        ("2/1h", [(0.0, ""), (3599.0, ""), (3600.0, ""), (3601.0, "migration")]),
    ],
)
def test_a_migration_request_is_judged_by_those_before_it(limits: str, arrivals: list[tuple[float, str]]) -> None:
    limiter = Limiter(parse_limits(limits))
    assert [(at, "".join(it.group for it in limiter.judge(at, True).broken)) for at, _ in arrivals] == arrivals


def test_a_migration_request_counts_in_the_general_limit_and_a_read_does_not_count_in_the_other() -> None:
    limiter = Limiter(parse_limits("1/5s;general=3/1d"))
    assert not [at for at, migration in ((0.0, True), (1.0, False), (5.0, True)) if limiter.judge(at, migration).broken]
    (broken,) = limiter.judge(10.0, False).broken
    assert broken.text == "general=3/1d"


def test_the_headers_describe_the_hour_of_the_migration_limit_and_the_general_one_for_reads() -> None:
    limiter = Limiter(parse_limits("1/5s,250/1h,900/1d;general=1000/1d"))
    migration = limiter.judge(0.0, True).headers
    assert (migration["X-RateLimit-Limit"], migration["X-RateLimit-Remaining"]) == ("250", "249")
    assert migration["X-RateLimit-Reset"] == "3600"
    read = limiter.judge(10.0, False).headers
    assert (read["X-RateLimit-Limit"], read["X-RateLimit-Remaining"]) == ("1000", "998")
    assert read["X-RateLimit-Reset"] == "86390"
    assert "Retry-After" not in read


def test_without_an_hour_the_headers_describe_the_widest_migration_window() -> None:
    assert Limiter(parse_limits("1/5s,9/1m;general=5/1h")).judge(0.0, True).headers["X-RateLimit-Limit"] == "9"
    assert Limiter(parse_limits("1/5s")).judge(0.0, False).headers == {}


def test_retry_after_is_the_longest_wait_of_all_broken_windows() -> None:
    limiter = Limiter(parse_limits("1/5s,2/1h"))
    for at in (0.0, 5.0):
        assert not limiter.judge(at, True).broken
    verdict = limiter.judge(6.0, True)
    assert len(verdict.broken) == 2
    assert verdict.headers["Retry-After"] == "3599"  # the second of the last two leaves the hour then


def test_a_span_is_fixed_or_drawn_from_its_range() -> None:
    assert Span.parse("0.5", "latency").draw(Random(1)) == 0.5
    drawn = [Span.parse("0.1-0.3", "latency").draw(Random(seed)) for seed in range(50)]
    assert 0.1 <= min(drawn) < 0.15
    assert 0.25 < max(drawn) <= 0.3


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({}, "do"),
        ({"do": "explode"}, "explode"),
        ({"do": "answer"}, "status"),
        ({"do": "answer", "status": 99}, "status"),
        ({"do": "answer", "status": 429, "retry_after": "a\r\nb: c"}, "printable"),
        ({"do": "reset", "at": "end"}, "at"),
        ({"do": "reset", "nth": 0}, "nth"),
        ({"do": "reset", "nth": 1, "every": 2}, "exclude"),
        ({"do": "reset", "chance": 2}, "chance"),
        ({"do": "reset", "on": "orders"}, "orders"),
        ({"do": "reset", "wen": 1}, "wen"),
        ({"do": "lose", "on": "auth"}, "auth"),
        ("reset", "object"),
        ({"do": "drop"}, "one of answer, revoke, reset, hang, slow, drip, truncate, partial, lose, late"),
        ({"on": "any"}, "one of answer"),
        ({"do": "reset", "at": "end"}, r'"reset" takes on \(customers, .*, times, at \(head, body, done\)'),
        ({"do": "answer", "status": 429, "x": 1}, r"done, share, body \(.*, count, list\), json"),
    ],
)
def test_a_rule_that_cannot_be_played_is_named_before_the_start_with_what_is_valid(rule: Any, told: str) -> None:
    with pytest.raises(ScriptError, match=rf"(?s)script: rule 2: .*{told}"):
        Sandbox(SandboxConfig(script=[{"do": "reset"}, rule]))


def test_the_help_of_the_sandbox_shows_every_fault_and_key_of_a_script() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    for fault in get_args(Fault):
        told = {fault.__struct_config__.tag, *(key.encode_name for key in fields(fault))}
        assert [word for word in sorted(told) if not re.search(rf"\b{word}\b", text)] == []


def test_the_examples_in_the_help_of_the_sandbox_can_be_played() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert len(load_script([json.loads(it) for it in re.findall(r"\{[^}]+\}", text)])) == 4


def test_a_script_is_a_json_list_or_ndjson(tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text('\n[{"do": "reset"},\n {"do": "lose", "records": [1]}]\n')
    first, second = load_script(file)
    assert isinstance(first, Reset)
    assert isinstance(second, Lose)
    file.write_text('{"do": "reset"}\n\n{"do": "lose", "records": [1]}\n')
    assert load_script(str(file)) == (first, second)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"do": "reset"}\n\n{"do": "reset", "at": "x"}', "line 3"),
        ('[{"do": "reset", "at": "x"}]', "rule 1"),
        ('{"do": "reset"', "neither a JSON list nor NDJSON"),
        ("null", "line 1"),
        ("\n", "holds no rule"),
        ("[]", "holds no rule"),
    ],
)
def test_a_broken_script_file_names_file_and_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "faults.json"
    file.write_text(text)
    with pytest.raises(ScriptError, match=rf"faults\.json.*{told}"):
        load_script(file)


def test_a_missing_script_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"none\.json can't be read: No such file"):
        load_script(tmp_path / "none.json")


def numbers(rule: dict[str, Any], count: int = 12, kind: str = "customers") -> list[int]:
    """Which of so many requests of a kind a rule strikes."""
    script = Script(load_script([{"do": "reset", **rule}]), Random(7))
    return [number for number in range(1, count + 1) if script.fault(kind) is not None]


def test_a_rule_strikes_where_it_says() -> None:
    assert numbers({"nth": 3}) == [3]
    assert numbers({"nth": [2, 5]}) == [2, 5]
    assert numbers({"every": 5}) == [5, 10]
    assert numbers({"from": 4, "until": 6}) == [4, 5, 6]
    assert numbers({"from": 4, "times": 2}) == [4, 5]
    assert numbers({"on": "migration", "until": 1}) == [1]
    assert numbers({"on": "auth"}) == []
    assert numbers({"on": "migration"}, kind="read") == []
    assert numbers({"do": "lose"}, kind="revert") == []
    assert numbers({"chance": 0.5}, 100) == numbers({"chance": 0.5}, 100) != []


def test_requests_are_counted_by_kind_and_the_first_rule_that_strikes_wins() -> None:
    script = Script(load_script([{"on": "any", "nth": 2, "do": "reset"}, {"on": "events", "do": "hang"}]), Random(1))
    assert script.fault("customers") is None
    struck = [type(script.fault("events")).__name__ for _ in range(2)]
    assert struck == ["Reset", "Hang"]


def test_a_token_ends_when_it_says_and_outlives_a_restart() -> None:
    tokens = Tokens("key", 3600.0)
    token = tokens.issue("key", 1000.0)
    assert tokens.issue("other", 1000.0) is None
    assert Tokens("key", 3600.0).valid(f"Bearer {token}", 4599.0)
    assert not tokens.valid(f"Bearer {token}", 4600.0)
    assert not tokens.valid(f"Basic {token}", 1000.0)
    assert not tokens.valid(f"Bearer {token}x", 1000.0)
    assert not Tokens("new key", 3600.0).valid(f"Bearer {token}", 1000.0)
