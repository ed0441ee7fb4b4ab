"""Self-contained HTML pages: one look, with figures inside. Reports of comparisons and of fits are such pages."""

from __future__ import annotations

import base64
import re
from importlib import resources
from typing import Any

import jinja2
from matplotlib.figure import Figure

from seqjax.plots.style import as_bytes

UNITS = r"[kMGTPEZY]?(?:B|FLOPs?(?:/s)?|tokens/s|bits?|s)|[kMGTPEZY]|[KMGT]iB|%|nats?|ms|min|h"
BREAKS = re.compile(rf"(?<=\d)[ \n]+(?=(?:{UNITS})(?![\w/]))")
OTHERS = re.compile(r"(<(pre|style|script)\b.*?</\2>|<[^>]*>)", re.DOTALL)


def unbroken(page: str) -> str:
    """HTML with no-break spaces between numbers and their units ("1.94 M", "95 %"), except in code, styles and tags."""
    parts = OTHERS.split(page)  # text, a part that is not text, the name of its tag; repeated
    parts[::3] = [BREAKS.sub("\N{NO-BREAK SPACE}", text) for text in parts[::3]]
    return "".join(part for index, part in enumerate(parts) if index % 3 != 2)


def rendered(template: str, **context: Any) -> str:
    """A page from the text of a template, which may extend ``page.html`` and import the macros of ``parts.html``."""
    folder = resources.files("seqjax.plots").joinpath("templates")
    shared = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "parts.html")}
    loader = jinja2.DictLoader(shared)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader)
    return unbroken(environment.from_string(template).render(**context))


def inlined(svg: bytes) -> str:
    """An SVG as the source of an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def picture(made: Figure, caption: str, small: bool = False) -> dict[str, Any]:
    """A figure for the macro ``picture``."""
    return {"data": inlined(as_bytes(made, "svg")), "alt": caption, "caption": caption, "small": small, "file": ""}
