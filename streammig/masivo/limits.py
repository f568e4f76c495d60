"""Masivo's rate limits by the kind of account, as its documentation gives them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from streammig.ratelimit.limits import Limits, Window

HOUR, DAY = 3600.0, 86400.0

# One migration request every 5 s holds for both kinds. "1 per 5 s" is taken as a gap and the hour and the day as
# sliding, for the documentation does not say; whatever the truth is, the strictest reading is never refused.
PRESETS: Mapping[str, Limits] = MappingProxyType(
    {
        # Stored versions of the page say 1,000 or 2,500 requests a day; the smaller one is safe with both. Whether
        # migration requests use the daily quota is not said: they are counted in.
        "dev": Limits((Window(1, 5.0), Window(250, HOUR)), (Window(1000, DAY),)),
        # 1,000 an hour can't be reached at one every 5 s (720). It is listed because it is a documented limit.
        "prod": Limits((Window(1, 5.0), Window(1000, HOUR))),
    }
)
