"""Every module, function, class and file that a docstring, a comment or a page names exists."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
FOLDERS = ("seqjax", "experiments", "configs", "tests")
ROLE = re.compile(r":(?:mod|func|class|data|meth|attr):`~?([\w.]+)`")
DOTTED = re.compile(r"`(seqjax(?!\.json|\.so)(?:\.\w+)+)|^ *from (seqjax(?:\.\w+)+)", re.MULTILINE)
PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w)")


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or a part of one. Fields of dataclasses count."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if not hasattr(found, part):
                return part in fields
            found = getattr(found, part)
        return True
    return False


def texts(*suffixes: str) -> Iterator[tuple[Path, str]]:
    pages = [path for path in REPOSITORY.iterdir() if path.is_file()]
    for path in [*pages, *(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*"))]:
        if path.suffix in suffixes and "results" not in path.parts and path != Path(__file__):
            yield path, path.read_text()


def test_names_exist() -> None:
    missing = []
    for path, text in texts(".py", ".md", ".yaml"):
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for name in ROLE.findall(text):
            if not (exists(name) or exists(f"{module}.{name}") or exists(f"{module.rpartition('.')[0]}.{name}")):
                missing.append(f"{path}: {name}")
        missing += [f"{path}: {name}" for pair in DOTTED.findall(text) for name in pair if name and not exists(name)]
    assert not missing, "\n".join(missing)


def test_files_exist() -> None:
    missing = []
    for path, text in texts(".py", ".md", ".yaml", ".cc", ".h"):
        for name in PATH.findall(text):
            if "NAME" not in name and not (REPOSITORY / name).exists() and not (REPOSITORY / f"{name}.py").exists():
                missing.append(f"{path}: {name}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("name", ["seqjax.no_such_module", "seqjax.errors.NoSuchError", "seqjax.config.Config.no_such"])
def test_what_is_absent_is_seen(name: str) -> None:
    assert exists("seqjax.errors.UserError") and exists("seqjax.config.Config.model") and not exists(name)
