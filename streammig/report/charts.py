"""Charts as inline SVG: bars only, each with a title and a description for who can't see it.

An SVG holds no text: its width follows the page's, and text within it would be too small to read on a phone. Labels
stand beside it as HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

SHORTEST = 0.004  # of the whole width: what is there at all can be seen


def stacked(key: str, title: str, parts: Sequence[tuple[str, int]], height: int = 22, said: str = "") -> str:
    """One bar, divided by shares. `parts` are names, which are their CSS classes too, and counts; `said` is
    told in their place where it is given."""
    whole = sum(count for _, count in parts)
    widths = [max(count / whole, SHORTEST) if count else 0.0 for _, count in parts] if whole else []
    scale = 1000 / sum(widths) if widths else 0.0
    drawn, at = [], 0.0
    for (name, _), width in zip(parts, widths, strict=False):
        if width:
            drawn.append(f'<rect class="{name}" x="{at:.2f}" y="0" width="{width * scale:.2f}" height="{height}"/>')
        at += width * scale
    said = said or ", ".join(f"{count:,} {name}" for name, count in parts if count) or "nothing so far"
    return _svg(key, title, said, 1000, height, drawn)


def columns(
    key: str, title: str, said: str, layers: Sequence[tuple[str, Sequence[float]]], height: int = 96, most: float = 0
) -> str:
    """Upright bars at even steps. `layers` are CSS classes and values, drawn over each other on one scale, up to `most`
    or to the largest."""
    most = most or max((value for _, values in layers for value in values), default=0) or 1
    count = max((len(values) for _, values in layers), default=0)
    drawn = []
    for name, values in layers:
        if any(values):  # one path of all: a page stays small
            bars = "".join(
                f"v-{max(value / most * height, 1.5):.3g}h8V{height}h2" if value else "h10" for value in values
            )
            drawn.append(f'<path class="{name}" d="M1 {height}{bars}z"/>')
    return _svg(key, title, said, count * 10 or 10, height, drawn)


def _svg(key: str, title: str, said: str, width: int, height: int, drawn: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-labelledby="{key}-title {key}-said" viewBox="0 0 {width} {height}"'
        f' preserveAspectRatio="none" style="height:{height}px">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-said">{escape(said)}</desc>'
        f"{''.join(drawn)}</svg>"
    )
