"""Every field of a config by its dotted key, with its type, default and meaning; `seqjax train --help` shows them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import field, make_dataclass
from functools import cache
from itertools import pairwise
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from seqjax.config import STRICT, Config, HorizonConfig, SizeConfig, family_adapter
from seqjax.families import FAMILIES, Family

TARGETS = {"horizon": HorizonConfig, "size": SizeConfig}
"""Further sections that a config file may have: `seqjax.runs.targets` resolves them."""


@cache
def adapter_of(schema: type) -> TypeAdapter[Any]:
    """An adapter that reads a config with its targets, `horizon` and `size`."""
    targets = [(name, kind, field(default_factory=kind)) for name, kind in TARGETS.items()]
    namespace = {"__pydantic_config__": STRICT}
    return TypeAdapter(make_dataclass("Request", targets, bases=(schema,), namespace=namespace, frozen=True))


def leaves(of: type = Config) -> list[tuple[str, dict[str, Any]]]:
    """Every dotted key of a config, and of its targets, with its JSON schema.

    The schema has ``description``, ``type`` or ``enum``, ``default``, and ``families`` (which have the key). A key of
    ``model`` is listed once for each kind of family.
    """
    schema = adapter_of(of).json_schema()
    definitions = schema.get("$defs", {})
    sections = get_type_hints(of)
    found: list[tuple[str, dict[str, Any]]] = []
    for name, entry in schema["properties"].items():
        if name == "model":
            found += _model_leaves()
        else:
            docs = _descriptions(*sections.get(name, object).__mro__[1:])  # pydantic has those of the class itself
            of_section = _section_leaves(name, entry, definitions)
            found += [
                (key, {"description": docs.get(key.removeprefix(f"{name}."), "")} | own) for key, own in of_section
            ]
    return found


def _section_leaves(name: str, entry: dict[str, Any], definitions: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The keys of a section, and of the sections in it."""
    if "$ref" not in entry:
        return [(name, {**entry, "families": list(FAMILIES)})]
    of_section = definitions[entry["$ref"].rpartition("/")[2]]["properties"]
    return [
        found for leaf, schema in of_section.items() for found in _section_leaves(f"{name}.{leaf}", schema, definitions)
    ]


def _model_leaves() -> list[tuple[str, dict[str, Any]]]:
    kinds: dict[type, dict[str, dict[str, Any]]] = {}
    for name, family in FAMILIES.items():
        of_kind = kinds.setdefault(kind_of(family), {})
        docs = _descriptions(*family.__mro__[-2::-1])
        for leaf, schema in family_adapter(family).json_schema()["properties"].items():
            entry = of_kind.setdefault(leaf, {**schema, "description": docs.get(leaf, ""), "families": []})
            entry["families"].append(name)
    found = []
    for of_kind in kinds.values():
        in_all = max(len(entry["families"]) for entry in of_kind.values())
        order = sorted(of_kind.items(), key=lambda item: (item[0] != "family", in_all - len(item[1]["families"])))
        for leaf, entry in order:
            if leaf == "family" and len(entry["families"]) > 1:
                del entry["const"]
                entry |= {"enum": entry["families"], "description": "Recurrent cell."}
                entry.pop("default", None)
            found.append((f"model.{leaf}", entry))
    return found


@cache
def _descriptions(*classes: type) -> dict[str, str]:
    """The docstrings of the fields of these classes of the package."""
    found: dict[str, str] = {}
    for base in (each for each in classes if each.__module__.partition(".")[0] == "seqjax"):
        (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(base))).body)
        for field_node, doc in pairwise(body):
            match field_node, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


def kind_of(family: type[Family]) -> type:
    """The kind of a family: its base directly below `Family`, which may be the family itself."""
    bases = family.__mro__
    return bases[bases.index(Family) - 1]
