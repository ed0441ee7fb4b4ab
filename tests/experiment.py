"""Experiments are scripts; tests load them as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "experiments" / "results"


def load(name: str) -> ModuleType:
    """The module of experiments/NAME.py."""
    folder = str(REPOSITORY / "experiments")
    if folder not in sys.path:
        sys.path.insert(0, folder)  # they share common.py
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
