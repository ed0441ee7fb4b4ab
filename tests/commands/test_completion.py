"""bash completes commands, options and values by the script that `seqjax completion` prints."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from seqjax.cli import main
from seqjax.commands import COMMANDS


def test_bash_completes_commands_options_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    asked = {
        "sa": {"sample"},
        "export RUN --to ": {"hf", "safetensors"},
        "train CONFIG --model.fam": {"--model.family"},
        "train CONFIG --optimizer.name mu": {"muon"},
        "completion z": {"zsh"},
        "eval --spl": {"--split"},
        "sample RUN prom": set(),
        "": {*COMMANDS, "--help", "--version"},
    }
    lines = [script]
    for line in asked:
        words = ["seqjax", *line.split(" ")]
        quoted = " ".join(f"'{word}'" for word in words)
        lines += [f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _seqjax; echo :${{COMPREPLY[@]}}"]
    done = subprocess.run([bash, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    found = [set(line[1:].split()) for line in done.stdout.splitlines()]
    assert dict(zip(asked, found, strict=True)) == asked
