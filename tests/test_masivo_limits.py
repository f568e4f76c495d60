"""The presets are the documentation's figures."""

from __future__ import annotations

import pytest

from streammig.masivo.limits import PRESETS
from streammig.ratelimit import parse_limits


@pytest.mark.parametrize(
    ("name", "text"), [("dev", "1/5s,250/1h;general=1000/1d"), ("prod", "1/5s,1000/1h"), ("off", "off")]
)
def test_a_preset_is_what_its_text_says(name: str, text: str) -> None:
    assert parse_limits(name, PRESETS) == parse_limits(text, {})
    assert str(parse_limits(name, PRESETS)) == text
