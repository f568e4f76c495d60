"""What the HTML reports are made of: the frame of a page, sections and tables. Every text in them is escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from streammig.report.audit import BLANK, with_checksum

NUMBER = re.compile(r"-?\d[\d,.]*( s)?$|$")


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
