"""The account's limits, the file of the requests it has made, and the rate limiter that obeys them."""

from streammig.ratelimit.hours import Hours, parse_hours, part_of
from streammig.ratelimit.limiter import Permit, RateLimiter
from streammig.ratelimit.limits import OFF, Limits, RequestKind, Starts, Use, Window, parse_limits
from streammig.ratelimit.state import AccountState, account_name, account_path, starts_of
from streammig.ratelimit.steering import Orders, orders_path, read_orders, write_orders

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
