"""Options that several commands share, and the dotted options that overlay a config."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqjax import runs
from seqjax.commands import parsing
from seqjax.commands.parsing import no_more as no_more
from seqjax.commands.words import split
from seqjax.config import RunConfig, task_name
from seqjax.config.fields import leaves
from seqjax.errors import UserError, did_you_mean
from seqjax.host.own_code import class_of
from seqjax.host.streams import tell_note
from seqjax.host.wording import quoted
from seqjax.runs.config_file import validate, with_options
from seqjax.runs.tree import OWN, dropped_fields, loaded, read_file, read_tree

SWEEPS = ("grid", "zip", "list", "search")  # sections that only sweep files have


def config_options(rest: Sequence[str]) -> dict[str, str]:
    """``["--model.d-model", "128", "--train.seed=3"]`` -> ``{"model.d_model": "128", "train.seed": "3"}``.

    Raises:
        UserError: something that is not an option, an option without a value, or one given twice.
    """
    options: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            key, equals, value = word.partition("=")
            hint = _near(key, f" {value}") if equals else ""
            raise UserError(f"command line: {word}: expected an option such as --train.steps 500{hint}")
        name, equals, value = word[2:].partition("=")
        if "." not in name:
            raise UserError(f"command line: --{name}: unknown option{_near(name)}")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"command line: {word}: expected a value{_near(name)}")
            value = words.pop(0)
        key = name.replace("-", "_")
        if key in options:
            raise UserError(f"command line: {word}: given twice")
        options[key] = value
    return options


SPOKEN = {
    "lr": "--optimizer.learning-rate",
    "learning-rate": "--optimizer.learning-rate",
    "seed": "--train.seed",
    "resume": "seqjax train RUN, which resumes a run folder",
    "checkpoint": "seqjax train RUN, which resumes a run folder",
    "tensorboard": "seqjax export-tensorboard RUN, while it trains or later",
    "gpus": "--devices",
    "name": "--run",
    "output": "--run",
}
"""Options of other programs -> what does it here."""


def _near(name: str, value: str = "") -> str:
    """Hint: the option of this name without its section, or a similar one; with a value as it is written here."""
    plain = name.replace("_", "-")
    keys = [key.replace("_", "-") for key, _ in leaves()]
    of_name = next((f"--{key}" for key in keys if plain in (key, key.rpartition(".")[2])), "")
    if meant := SPOKEN.get(plain) or of_name:
        return f"; did you mean {meant}{value if meant.startswith('--') else ''}?"
    return did_you_mean(plain, keys)


def config_of(path: Path, rest: Sequence[str], trust: bool = False) -> RunConfig:
    """The config in a file or run folder, with dotted options. Targets are resolved, with notes on standard error.

    Args:
        trust: run the copies of code in the run folder.
    """
    file = path / "config.json" if (path / "config.json").is_file() else path
    if file != path:
        saved = runs.read_config(path)  # raises if the file was not written by a run
        if trust:
            runs.load_code(path, saved)
    elif axes := [name for name in SWEEPS if file.is_file() and name in read_file(file).values]:
        raise UserError(
            f"{path}: is a sweep file, it has {axes[0]}: its runs are trained by seqjax sweep {quoted(path)}"
        )
    below = read_tree(file)
    tree = with_options(below, config_options(rest))
    if dropped := dropped_fields(below, tree):
        tell_note(dropped)
    if not (tree.values.get("horizon") or tree.values.get("size")):
        return validate(tree)
    from seqjax.runs.targets import resolve

    resolved = resolve(tree)
    for note in resolved.notes:
        tell_note(note)
    return resolved.config


def add_code(parser: argparse.ArgumentParser) -> None:
    """Add the option to run the code in a run folder, for commands that need it."""
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="if the family or the task is a user's own file: run the copy in the run folder "
        "(or name the file: --model.family FILE.py:CLASS, --task.name FILE.py)",
    )


def add_law(parser: argparse.ArgumentParser) -> None:
    """The options for commands that read fits: one group of several, and how a law of the user's own is known."""
    parser.add_argument(
        "--group", metavar="NAME", help="where FIT.json holds the fits of several groups: this one only"
    )
    parser.add_argument("--law", metavar="FILE.py:LAW", help="where the fits are of a law of your own: its file")
    parser.add_argument("--trust-code", action="store_true", help="or run the text of it that FIT.json holds")


def code_again(config: RunConfig) -> str:
    """The options that make the code of a run known to another command; "" if all is in the package."""
    names = [(shelf, name, shelf.reference(name)) for shelf, name in runs.own_code_of(config)]
    named = "".join(f" {shelf.option} {words}" for shelf, name, words in names if words != name)
    return named + " --trust-code" * any(words == name for _, name, words in names)


def take_code(words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Keys and values of ``--model.family`` and ``--task.name``, and the other words."""
    keys = {shelf.option: key for key, shelf in OWN.items()}
    others, options = split(words, keys.__contains__)
    found = []
    for option in options:
        name, _, value = option[0].partition("=")
        found.append((keys[name], option[1] if option[1:] else value))
        if not found[-1][1]:
            raise UserError(f"command line: {name}: expected a value")
    return found, others


def configs_of_runs(folders: Sequence[Path], rest: Sequence[str], trust: bool) -> list[RunConfig]:
    """The configs of run folders, with the code of their families and tasks.

    Args:
        rest: may hold ``--model.family FILE.py:CLASS``, once per own family of the user, and ``--task.name``.
        trust: run the copies of the code in the run folders.
    Raises:
        UserError: code is not named, was changed, or fails; another option.
    """
    options, others = take_code(rest)
    no_more(others)
    named: list[tuple[str, str]] = []
    for key, words in options:
        shelf = OWN[key]
        if not shelf.names_file(words):
            raise UserError(
                f"command line: {shelf.option} {words}: expected the file of a run's {shelf.kind}, {shelf.form}"
            )
        named.append((key, loaded(key, words, "command line")))
    found = [_with_code(folder, named, trust) for folder in folders]
    for (key, words), (_, name) in zip(options, named, strict=True):
        there = {config.model.family if key == "model.family" else task_name(config) for config in found}
        if name not in there:
            raise UserError(f"command line: {OWN[key].option} {words}: no run is of it, but of {', '.join(there)}")
    return found


def _with_code(folder: Path, named: Sequence[tuple[str, str]], trust: bool) -> RunConfig:
    config = runs.read_config(folder)
    if trust:
        return runs.load_code(folder, config)
    for shelf, name in runs.own_code_of(config):
        if shelf.known(name) is not None:
            continue
        alike = [other for key, other in named if OWN[key] is shelf and class_of(other) == class_of(name)]
        if alike:
            raise UserError(
                f"command line: {shelf.option}: the file holds {alike[0]}, but the run in {folder} is of {name}: the "
                f"text was changed since. The run's own is {folder / shelf.file}: name that, or say --trust-code"
            )
        form = f"FILE.py:{class_of(name)}" if shelf.has_part else "FILE.py"
        raise UserError(
            f"{folder}: its {shelf.kind} {name} is code outside of the package: name its file with {shelf.option} "
            f"{form}, or run the copy in the run folder with --trust-code"
        )
    return config


def fields_help() -> str:
    """Every config field with its type, default and meaning, for the end of a help text."""
    width = min(shutil.get_terminal_size().columns, 110)
    lines = ["config fields (each is an option, over the values of CONFIG):"]
    heading = None
    for key, schema in leaves():
        section = key.rpartition(".")[0]
        above = f"model, for {', '.join(schema['families'])}" if section == "model" else section
        if above != heading:
            heading = above
            lines += ["", *textwrap.wrap(f"{above}:", width, initial_indent="  ", subsequent_indent="    ")]
        flag = f"    --{key.replace('_', '-')}"
        default = "" if "default" not in schema or "const" in schema else f" [{_word(schema['default'])}]"
        text = f"{schema.get('description', '')}{default}"
        if len(whole := f"{flag} {_kind(schema)}") > width:
            whole, text = flag, f"one of {_kind(schema)[1:-1].replace(',', ', ')}. {text}"
        lines.append(whole)
        lines += textwrap.wrap(text, width, initial_indent=" " * 10, subsequent_indent=" " * 10)
    return "\n".join(lines)


def _kind(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return "{" + ",".join(schema["enum"]) + "}"
    kinds = [schema["type"]] if "type" in schema else [part["type"] for part in schema["anyOf"]]
    return "|".join(kind.upper() for kind in kinds)


def _word(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def add_parser(
    commands: Any, name: str, examples: str, fields: bool = False, explained: str = ""
) -> argparse.ArgumentParser:
    """See `seqjax.commands.parsing.add_parser`; with ``fields``, help on every config field at the end."""
    explained = f"{explained.strip()}\n\n{fields_help()}" if fields else explained
    return parsing.add_parser(commands, name, examples, explained)


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add the option for a moved corpus."""
    parser.add_argument("--corpus", metavar="PATH", help="the text of the run, if it has moved [data.corpus]")


def beside(path: Path, group: str) -> Path:
    """The file of one group's figure: ``iso.png`` -> ``iso-lstm.png``."""
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in group)
    return path.with_stem(f"{path.stem}-{plain}")


def write_figure(figure: Any, path: Path) -> None:
    """Save a figure and print its path."""
    from seqjax.plots.style import save

    save(figure, path)
    print(f"wrote {path}", file=sys.stderr)
