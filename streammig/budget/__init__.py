"""The account's budget: its limits, its file of slots used, and the pacing that obeys them."""

from streammig.budget.file import AccountFile, account_name, account_path, budget_of
from streammig.budget.limits import OFF, Limits, Use, Window, parse_limits
from streammig.budget.pacing import Pacer, Slot

__all__ = [
    "OFF",
    "AccountFile",
    "Limits",
    "Pacer",
    "Slot",
    "Use",
    "Window",
    "account_name",
    "account_path",
    "budget_of",
    "parse_limits",
]
