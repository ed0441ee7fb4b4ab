"""Experiments are scripts; tests load them as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "experiments" / "results"


def load(name: str) -> ModuleType:
    """The module of experiments/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
