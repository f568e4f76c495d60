"""The judges of records that this installation has: tests of the rules run over each."""

from datetime import UTC, datetime

from streammig.masivo.rules import RuleOptions, rules
from streammig.masivo.rules.compiled import is_compiled

JUDGES = ["python", "compiled"] if is_compiled() else ["python"]
OF_CUSTOMERS = rules("customers", RuleOptions(now=datetime(2024, 5, 1, tzinfo=UTC)), judge="auto").judge
