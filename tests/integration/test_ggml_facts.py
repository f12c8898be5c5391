"""What is written down about llama.cpp agrees with the release that is installed, and with the bundled model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gristmill_plugins.llama import _ggml, _gguf
from gristmill_plugins.llama._files import BUNDLED, digest, resolve

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python: pip install 'gristmill[llama]'"
)

CHILD = """
import ctypes, json, sys
base = ctypes.CDLL(sys.argv[1])
base.ggml_type_name.restype = ctypes.c_char_p
base.ggml_type_size.restype = ctypes.c_size_t
base.ggml_blck_size.restype = ctypes.c_int64
facts = {}
for number in range(int(sys.argv[2])):
    facts[number] = [base.ggml_type_name(number).decode(), base.ggml_blck_size(number), base.ggml_type_size(number)]
print(json.dumps(facts))
"""


def library(name: str) -> Path:
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0], "lib")
    names = (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll")
    return next(folder / each for each in names if (folder / each).exists())


def test_block_sizes_are_the_librarys() -> None:
    count = max(_ggml.TENSOR_TYPES) + 1
    command = [sys.executable, "-c", CHILD, str(library("ggml-base")), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    facts: dict[str, Any] = json.loads(done.stdout)
    for number, (name, block, size) in facts.items():
        known = _ggml.TENSOR_TYPES.get(int(number))
        if known is None:
            assert size == 0, f"{name} is missing"  # removed types have no size
        else:
            assert (known.block, known.block_bytes) == (block, size), name
    assert len(facts) == count


def test_architectures_are_names_in_the_library() -> None:
    content = library("llama").read_bytes()
    # Linkers keep one copy of texts that end alike: "bert" is the end of "modern-bert".
    assert [name for name in sorted(_ggml.ARCHITECTURES) if f"{name}\0".encode() not in content] == []


def test_the_bundled_model_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = resolve(BUNDLED)
    header = _gguf.check_model(path)
    for reader in ("hash_file", "weight_problems"):
        monkeypatch.setattr(_gguf, reader, None)  # the second time, calling either would fail
    _gguf.check_model(path)
    assert digest(path)
    assert (header.architecture, header.context_length, len(header.tokens)) == ("llama", 8192, 49_152)


def test_the_check_needs_no_native_code() -> None:
    program = (
        "import sys; from gristmill_plugins.llama import _files, _gguf; _gguf.check_model(_files.resolve('smollm2'));"
        "assert 'llama_cpp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=dict(os.environ))
