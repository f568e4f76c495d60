"""What may be sent to Masivo, what must be left out, and what has to be edited first: the rules of each stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streammig.masivo.rules.base import StageRules
from streammig.masivo.rules.customers import CustomerRules
from streammig.masivo.rules.grouped import EventRules, TransactionRules
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import CODES, FILTERS

__all__ = ["CODES", "FILTERS", "CustomerRules", "EventRules", "RuleOptions", "StageRules", "TransactionRules", "rules"]

_STAGES: dict[str, type[StageRules]] = {
    "customers": CustomerRules,
    "events": EventRules,
    "transactions": TransactionRules,
}


def rules(
    stage: str, options: RuleOptions, mapping: Callable[[Any], Any] | None = None, judge: str = "auto"
) -> StageRules:
    """The rules of a stage, as `streammig.target.Rules`; raises `Unusable` for options that make no sense, and for a
    compiled judge that is wanted and not there."""
    return _STAGES[stage](options, mapping, judge)
