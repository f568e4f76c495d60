"""What HTML reports are made of: the frame of a page, sections, tables, charts. Every text in them is escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from streammig.report.audit import BLANK, with_checksum

NUMBER = re.compile(r"-?\d[\d,.]*( s)?$|$")
SHORTEST = 0.004  # of the whole width of a chart: what is there at all can be seen


def whole_page(title: str, parts: Iterable[str]) -> bytes:
    """A whole file with its checksum: it needs no network, and runs no script."""
    page = (
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="streammig-checksum" content="{BLANK.decode()}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme"'
        ' content="light dark"><meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        ' style-src \'unsafe-inline\'"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{style()}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
    return with_checksum(page)


def style() -> str:
    return (files("streammig") / "report" / "report.css").read_text(encoding="utf-8")


def section(title: str, *parts: str) -> str:
    body = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n" if body else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table whose first column names its rows. Columns of numbers stand to the right; whole ones get thousands."""
    texts = [[f"{it:,}" if isinstance(it, int) else str(it or "") for it in row] for row in rows]
    right = [at > 0 and all(NUMBER.match(row[at]) for row in texts) for at in range(len(head))]
    kind = ""
    if all(right[1:]):  # said once: a long table stays small
        kind, right = ' class="numbers"', [False] * len(head)
    names = "".join(f'<th scope="col"{_to_the(it)}>{escape(name)}</th>' for name, it in zip(head, right, strict=True))
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td{_to_the(it)}>{escape(text)}</td>" for text, it in zip(more, right[1:], strict=True))
        + "</tr>"
        for first, *more in texts
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table{kind}>{said}<thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>'


def _to_the(right: bool) -> str:
    return ' class="number"' if right else ""


def folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def embedded(proof: Any) -> str:
    """What a report rests on, for a later look by a machine."""
    text = json.dumps(proof).replace("<", "\\u003c")
    return f'<script type="application/json" id="proof">{text}</script>'


def day(moment: str | None, slot: float = 60) -> str:
    """A moment of ISO 8601 for people, in UTC: to the second where slots are shorter than a minute."""
    return "" if moment is None else moment[: 16 if slot >= 60 else 19].replace("T", " ") + " UTC"


# -- charts ------------------------------------------------------------------------------------------------------------

# Inline SVG: bars only, each with a title and a description for who can't see it. It holds no text: its width follows
# the page's, and text within it would be too small to read on a phone. Labels stand beside it as HTML.


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
