"""The account's limits, the file of the requests it has made, and the rate limiter that obeys them."""

from streammig.ratelimit.limiter import Permit, RateLimiter
from streammig.ratelimit.limits import OFF, Limits, Use, Window, parse_limits
from streammig.ratelimit.state import AccountState, account_name, account_path, usage_of

__all__ = [
    "OFF",
    "AccountState",
    "Limits",
    "Permit",
    "RateLimiter",
    "Use",
    "Window",
    "account_name",
    "account_path",
    "parse_limits",
    "usage_of",
]
