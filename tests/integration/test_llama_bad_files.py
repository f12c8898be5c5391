"""Damaged and hostile files through the whole path, as a user would meet them: a clear error, in time, host alive.

The files of a folder named by GRISTMILL_BAD_INPUTS are all tried; some damage is made here from the bundled model.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gristmill import GenerateRequest, Message, ModelError, Sampling
from gristmill_plugins.llama import LlamaPlugin, _files

LIMIT_S = 120.0
BAD_INPUTS = Path(os.environ.get("GRISTMILL_BAD_INPUTS", "/nowhere")) / "gguf"
GOOD = {"00_valid.gguf", "06_version_2.gguf", "lora_00_valid.gguf", "lora_no_alpha.gguf"}
NAMES = sorted(path.name for path in BAD_INPUTS.glob("*.gguf"))


async def answer(model: str, **options: Any) -> str:
    declared = LlamaPlugin().llama(model=model, **options)
    request = GenerateRequest(
        messages=(Message(role="system", content="You are terse."), Message(role="user", content="Hello there")),
        sampling=Sampling(max_tokens=4),
        adapters=dict.fromkeys(options.get("adapters", {}), 1.0),
    )
    try:
        (completion,) = await declared.generate(request)
        return completion.text
    finally:
        await declared.close()


@pytest.mark.skipif(not NAMES, reason="GRISTMILL_BAD_INPUTS names no folder with gguf/*.gguf")
@pytest.mark.parametrize("name", NAMES)
async def test_a_bad_file_is_an_error_that_names_it_and_the_reason(name: str) -> None:
    path = BAD_INPUTS / name
    before = time.monotonic()
    is_adapter = name.startswith("lora_")
    call = answer(str(BAD_INPUTS / "00_valid.gguf"), adapters={"x": str(path)}) if is_adapter else answer(str(path))
    if name in GOOD:
        await asyncio.wait_for(call, LIMIT_S)
        return
    with pytest.raises(ModelError) as caught:
        await asyncio.wait_for(call, LIMIT_S)
    assert time.monotonic() - before < LIMIT_S
    assert name in str(caught.value)
    assert len(str(caught.value)) > len(str(path)) + 10
    assert caught.value.cause in {"file", "load"}


def bundled() -> bytes:
    return _files.resolve("smollm2", sha256=None).read_bytes()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _: b"", "empty|0 bytes"),
        (lambda _: b"<!doctype html><title>404</title>", "web page"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[:-1], "cut off"),
        (lambda data: data[:4096], "cut off"),
    ],
    ids=["empty", "web page", "half", "one byte short", "header only"],
)
async def test_damage_to_the_bundled_model_is_found_before_it_is_loaded(
    tmp_path: Path, damage: Any, reason: str
) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(bundled()))
    with pytest.raises(ModelError, match=reason) as caught:
        await asyncio.wait_for(answer(str(path)), LIMIT_S)
    assert "damaged.gguf" in str(caught.value)
    assert caught.value.cause == "file"


async def test_files_that_are_no_files_are_refused_at_once(tmp_path: Path) -> None:
    pipe, folder, loop = tmp_path / "pipe.gguf", tmp_path / "folder.gguf", tmp_path / "loop.gguf"
    os.mkfifo(pipe)
    folder.mkdir()
    loop.symlink_to(loop)
    for path in (pipe, folder, loop, tmp_path / "missing.gguf"):
        with pytest.raises(ModelError) as caught:
            await asyncio.wait_for(answer(str(path)), 60)
        assert path.name in str(caught.value)


async def test_an_adapter_that_is_a_model_is_refused() -> None:
    path = str(_files.resolve("smollm2", sha256=None))
    with pytest.raises(ModelError, match="adapter"):
        await asyncio.wait_for(answer("smollm2", adapters={"tone": path}), LIMIT_S)
