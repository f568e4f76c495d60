"""The page of a run: one document with style and script, whose sections change."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from importlib.resources import files
from urllib.parse import urlsplit

from streammig.dashboard.view import Look
from streammig.report.html import live_sections
from streammig.report.parts import style
from streammig.report.text import state_sentence

SECTIONS = ("now", "stages", "plan", "permits", "parked", "left", "time", "answers", "latency", "dead", "units")


@cache
def _ours(name: str) -> str:
    return (files("streammig") / "dashboard" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_hash(_ours('page.js'))}';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def parts(look: Look) -> dict[str, str]:
    """The HTML of each section, and `state`: one sentence, as text."""
    fault = f" The page can't read the checkpoint [{look.fault}]." if look.fault else ""
    if look.found is None:
        waits = "".join(f"<p>{escape(line)}</p>" for line in look.doing)
        empty = {"state": f"The run begins: nothing is sent yet.{fault}", "now": waits}
        return {name: empty.get(name, "") for name in ("state", *SECTIONS)}
    state = state_sentence(look.found["status"]) + fault
    return {"state": state, **live_sections(look.found, look.doing)}


def page(look: Look) -> str:
    """The whole document, as of `look`. Its script then asks for the changes."""
    shown = parts(look)
    host = (urlsplit(look.found["target"]).hostname or "a folder") if look.found else "begins"
    body = "".join(f'<div id="{name}">{shown[name]}</div>' for name in SECTIONS)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>Migration: {escape(host)}</title><style>{style()}{_ours('page.css')}</style></head>\n"
        f'<body><main><header><p class="over">Migration</p><h1>{escape(host)}</h1>'
        f'<p class="state" role="status" id="state">{escape(shown["state"])}</p>'
        f'<p class="warning" id="lost" role="status" hidden></p></header>{body}</main>'
        f"<script>{_ours('page.js')}</script></body></html>\n"
    )
