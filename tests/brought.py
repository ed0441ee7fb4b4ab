"""What a user brings: the complete examples of CONTRIBUTING.md, and a process that has not loaded them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seqjax.families import own as families
from seqjax.laws import own as laws
from seqjax.tasks import own as tasks

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


def example(heading: str) -> str:
    """The Python file of a section."""
    (text,) = re.findall(rf"^## {heading}\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return text


def lines_of_code(text: str) -> int:
    """Lines that are not empty."""
    return sum(bool(line.strip()) for line in text.splitlines())


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process is another one, which has loaded nothing of the user's own."""
    for shelf in (families.shelf, tasks.shelf, laws.shelf):
        for name in ("_known", "_texts", "_references"):
            monkeypatch.setattr(shelf, name, {})
    monkeypatch.setattr(families, "_looks", {})
