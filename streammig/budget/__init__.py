"""The account's budget: its limits, its file of slots used and sends noted, and the pacing that obeys them."""

from streammig.budget.file import AccountFile, Send, account_name, account_path, budget_of
from streammig.budget.limits import OFF, Limits, Use, Window, parse_limits
from streammig.budget.pacing import Pacer, Slot
from streammig.budget.problems import damaged

__all__ = [
    "OFF",
    "AccountFile",
    "Limits",
    "Pacer",
    "Send",
    "Slot",
    "Use",
    "Window",
    "account_name",
    "account_path",
    "budget_of",
    "damaged",
    "parse_limits",
]
