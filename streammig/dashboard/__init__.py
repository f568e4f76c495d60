"""The page and the numbers of a run: for people with a browser, and for machines that collect."""

from __future__ import annotations
