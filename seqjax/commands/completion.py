"""`seqjax completion`: a script by which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from seqjax.commands import COMMANDS
from seqjax.commands import options as shared

EXPLAINED = """
bash reads the file when it first completes `seqjax`. For zsh, add to ~/.zshrc:
  autoload -U +X bashcompinit && bashcompinit && source ~/.seqjax-completion
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = shared.add_parser(
        commands,
        "completion",
        """
        seqjax completion bash > ~/.local/share/bash-completion/completions/seqjax
        seqjax completion zsh > ~/.seqjax-completion
        """,
        explained=EXPLAINED,
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the script."""
    shared.no_more(rest)
    print(script(words_of_commands()))
    return 0


def words_of_commands() -> dict[str, dict[str, list[str]]]:
    """Command -> its options, each with the words that may follow; positional words under ""."""
    from seqjax.config.fields import leaves

    found = {}
    fields: dict[str, list[str]] = {}
    for key, schema in leaves():
        given = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
        fields[f"--{key.replace('_', '-')}"] = sorted({*fields.get(f"--{key.replace('_', '-')}", ()), *given})
    for name, (file, _) in COMMANDS.items():
        commands = argparse.ArgumentParser().add_subparsers()
        module = importlib.import_module(f"seqjax.commands.{file}")
        module.add_parser(commands)
        found[name] = _words(commands.choices[name])
        if any("config fields" in (parser.epilog or "") for parser in commands.choices.values()):
            found[name] |= fields
    return found


def _words(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    words: dict[str, list[str]] = {}
    for action in parser._actions:
        given = sorted(map(str, action.choices or ()))
        for option in action.option_strings or [""]:
            words[option] = [*words.get(option, ()), *given]
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                words |= {option: given for option, given in _words(below).items() if option}
    return words


def script(commands: dict[str, dict[str, list[str]]]) -> str:
    """The script for bash, and for zsh with its bashcompinit."""
    lines = [
        "# Completion of seqjax, written by `seqjax completion`. Write it again after an update.",
        "_seqjax() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        "  COMPREPLY=()",
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f'    words="{" ".join(commands)} --help --version"',
        "  else",
        '    case "${COMP_WORDS[1]} $before" in',
    ]
    for name, options in commands.items():
        lines += [f'    "{name} {option}") words="{" ".join(given)}" ;;' for option, given in options.items() if
                  option and given]  # fmt: skip
    lines += ['    *) case "${COMP_WORDS[1]} $word" in']
    for name, options in commands.items():
        lines.append(f'      "{name} -"*) words="{" ".join(option for option in options if option)}" ;;')
        if options.get(""):
            lines.append(f'      "{name} "*) words="{" ".join(options[""])}" ;;')
    lines += [
        "    esac ;;",
        "    esac",
        "  fi",
        '  COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _seqjax seqjax",
    ]
    return "\n".join(lines)
