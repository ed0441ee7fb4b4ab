"""Compiling the C++ functions: never required, never in the way."""

from __future__ import annotations

import functools
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqjax.layers import native


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing compiled yet, an empty cache."""
    monkeypatch.setenv("SEQJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "compiled", functools.cache(native.compiled.__wrapped__))
    return tmp_path


def test_with_a_compiler_it_compiles():
    """Were broken C++ only skipped over, all tests of it would pass."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name):
        pytest.skip("no C++ compiler here")
    assert native.compiled()


def test_without_a_compiler_xla_does_it(fresh, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    assert not native.compiled()
    assert capsys.readouterr().err == ""


def test_a_compiler_that_fails_is_noted_once(fresh, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "false")
    assert not native.compiled() and not native.compiled()
    assert capsys.readouterr().err.count("note: recurrences and attention run without C++") == 1
    assert not list(Path(fresh).rglob("*.so"))


COMPILER = """#!/bin/sh
case "$*" in *--version*) echo "$0 1.0"; exit;; esac
case "$*" in *-shared*) echo built >> "$(dirname "$0")/log";; esac
while [ "$1" != -o ]; do shift; done
echo whole > "$2"
"""


@pytest.fixture
def counting(fresh, monkeypatch):
    """A compiler that writes a line to a file and counts libraries; ``build()`` returns the path and the count."""
    compiler = fresh / "c++"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)

    def build(*words):
        path = native._shared_library([*words, str(compiler)])
        return path, (fresh / "log").read_text().count("built")

    return build


@pytest.mark.parametrize("content", [b"", b"who", b"wh\0le\n", b"whole\nwhole\n", b"\x7fELF"])
def test_a_library_that_is_not_as_it_was_built_is_built_again(counting, content):
    path, count = counting()
    assert counting() == (path, count) == (path, 1)
    path.write_bytes(content)
    assert counting() == (path, 2)
    assert path.read_text() == "whole\n"
    path.unlink()
    assert counting() == (path, 3)
    assert {file.name for file in path.parent.iterdir()} == {path.name, "lock"}


def test_of_processes_that_need_it_one_compiles(counting, monkeypatch):
    run = native._run
    monkeypatch.setattr(native, "_run", lambda command, seconds: (time.sleep(0.3), run(command, seconds))[1])
    with ThreadPoolExecutor(4) as pool:  # a lock of one open file holds others of the same process too
        assert {count for _, count in pool.map(lambda _: counting(), range(4))} == {1}


def test_a_compiler_of_several_words(counting):
    assert counting("env", "LANG=C")[1] == 1


@pytest.mark.parametrize("hangs_at", ["--version", " -c "])
def test_a_compiler_that_hangs_is_left(fresh, monkeypatch, capsys, hangs_at):
    compiler = fresh / "slow"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *"{hangs_at}"*) echo "caf\\303\\251 is slow" >&2; exec sleep 60;; esac\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    real = native._run
    monkeypatch.setattr(native, "_run", lambda command, seconds: real(command, seconds=0.5))
    assert not native.compiled()
    assert "is slow" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["nothing-of-that-name --fast", "'unclosed", "/"])
def test_a_compiler_that_is_none_is_noted(fresh, monkeypatch, capsys, words):
    monkeypatch.setenv("CXX", words)
    assert not native.compiled()
    assert "without C++" in capsys.readouterr().err


def test_which_form_computes(fresh, monkeypatch):
    assert native.form() is None
    monkeypatch.setenv("SEQJAX_NATIVE", "0")
    native.compiled()
    assert native.form() == "XLA"


def test_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("SEQJAX_NATIVE", "0")
    assert not native.compiled()
