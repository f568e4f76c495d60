"""Masivo's stages, in their order."""

from __future__ import annotations

from streammig.target import Stage

STAGES = (
    Stage("customers", depends_on="", once=False, unit="customer"),
    Stage("events", depends_on="customers", once=False, unit="event"),
    Stage("transactions", depends_on="events", once=True, unit="transaction"),
)
