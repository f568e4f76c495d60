"""The account's limits, the file of the requests it has made, and the rate limiter that obeys them."""

from streammig.ratelimit.limiter import Permit, RateLimiter
from streammig.ratelimit.limits import OFF, Limits, RequestKind, Starts, Use, Window, parse_limits
from streammig.ratelimit.state import AccountState, account_name, account_path, starts_of

__all__ = [
    "OFF",
    "AccountState",
    "Limits",
    "Permit",
    "RateLimiter",
    "RequestKind",
    "Starts",
    "Use",
    "Window",
    "account_name",
    "account_path",
    "parse_limits",
    "starts_of",
]
