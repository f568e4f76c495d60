"""What our child processes share: an environment without the API key, and garbage that is looked for less often."""

from __future__ import annotations

import os

KEY_VARIABLE = "MASIVO_API_KEY"
GC_THRESHOLD = 200_000  # records hold no cycles: looking for some among thousands of them took a tenth of all


def environment() -> dict[str, str]:
    """The environment for a child that needs no key."""
    return {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
