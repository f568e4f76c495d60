"""The account's limits, the file of the requests it has made, and the rate limiter that obeys them."""

import importlib
from typing import TYPE_CHECKING

from streammig.ratelimit.hours import Hours, parse_hours, part_of
from streammig.ratelimit.limits import OFF, Limits, RequestKind, Starts, Use, Window, parse_limits
from streammig.ratelimit.orders import Orders, orders_path, read_orders, write_orders
from streammig.ratelimit.state import AccountState, account_name, account_path, starts_of

if TYPE_CHECKING:
    from streammig.ratelimit.limiter import Permit, RateLimiter

# These two import asyncio, so they load on first use: `status` must start fast.
_LATER = {"Permit": "streammig.ratelimit.limiter", "RateLimiter": "streammig.ratelimit.limiter"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(_LATER[name]), name)


__all__ = [
    "OFF",
    "AccountState",
    "Hours",
    "Limits",
    "Orders",
    "Permit",
    "RateLimiter",
    "RequestKind",
    "Starts",
    "Use",
    "Window",
    "account_name",
    "account_path",
    "orders_path",
    "parse_hours",
    "parse_limits",
    "part_of",
    "read_orders",
    "starts_of",
    "write_orders",
]
