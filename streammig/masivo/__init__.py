"""Masivo, the target: its rules, its limits, and the way to it."""
