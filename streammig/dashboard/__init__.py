"""The page of a run for people with a browser, and its metrics for collectors."""

from __future__ import annotations
