"""The memory of a thread in C++ holds what is taken from it, wherever it lies and however wide vectors are.

The width is that of the machine that compiles: a machine with AVX-512 would not see a fault of one without it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import jax
import pytest

from seqjax.layers import native

PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include <new>

static unsigned char* end = nullptr;  // of the last allocation; 64 bytes after it are marked
static size_t place = 0;              // of an allocation in its cache line

void* operator new(size_t size) {
  auto* line = static_cast<unsigned char*>(std::aligned_alloc(64, (size + 191) / 64 * 64));
  end = line + place + size;
  for (int i = 0; i < 64; ++i) end[i] = 0xA5;
  return line + place;
}
void operator delete(void*) noexcept {}
void operator delete(void*, size_t) noexcept {}

#include <thread>

#include "head.h"

int main() {
  int past = 0;
  for (place = 0; place < 64; place += 16)
    std::thread([&] {  // a new thread has no memory yet: it allocates as much as is asked for
      constexpr int64_t kCount = 3 * seqjax::kLanes;
      seqjax::Scratch scratch(kCount);
      float* taken = scratch.Take(kCount);
      for (int64_t i = 0; i < kCount; ++i) taken[i] = 1.0f;
      for (int i = 0; i < 64; ++i) past = end[i] != 0xA5 ? std::max(past, i + 1) : past;
    }).join();
  if (past) std::printf("%d bytes past the end\n", past);
  return past != 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("vectors", ["-mavx512f", "-mno-avx512f"])
@pytest.mark.usefixtures("needs_compiled")
def test_what_is_taken_lies_in_what_was_allocated(tmp_path: Path, vectors: str) -> None:
    source, program = tmp_path / "scratch.cc", tmp_path / "scratch"
    source.write_text(PROGRAM)
    flags = ["-std=c++17", "-O0", vectors, f"-I{native.FOLDER}", f"-I{jax.ffi.include_dir()}", "-pthread"]
    made = subprocess.run([*native._compiler(), *flags, source, "-o", program], capture_output=True, text=True)
    if made.returncode and vectors in made.stderr:  # another kind of processor
        pytest.skip(f"this compiler has no {vectors}")
    assert made.returncode == 0, made.stderr
    cpuinfo = Path("/proc/cpuinfo")
    if vectors == "-mavx512f" and not (cpuinfo.is_file() and "avx512f" in cpuinfo.read_text()):
        pytest.skip("this processor has no AVX-512")
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
