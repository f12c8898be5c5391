"""What `gristmill model` does with files: list them, describe one, write one in another format.

Headers are read here; everything native runs in a child process (`_workbench`), since it may abort. It never reaches
the network. Invariant: a file appears under its name only whole and after it passed the same check as any model.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gristmill import ModelError, UsageError, suggest
from gristmill_plugins.llama import _files, _gguf
from gristmill_plugins.llama._ggml import TENSOR_TYPES_BY_NAME
from gristmill_plugins.llama._machine import cache_bytes, default_threads
from gristmill_plugins.llama._probe import CRASHES
from gristmill_plugins.llama._process import native_environment
from gristmill_plugins.llama._store import data_folder, file_error

DEFAULT_CONTEXT_TOKENS = 8192
JOB_S = 3600.0
"""Longest time for one native job; a 70-billion-parameter model is converted in minutes."""

FILE_TYPES: Mapping[int, str] = MappingProxyType(
    {
        0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
        12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
        20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
        28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
    }
)  # fmt: skip
"""llama.cpp's `llama_ftype`: what `general.file_type` says."""
TARGETS = (
    "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip
"""What can be written without a list of which weights matter (an importance matrix)."""
TEMPLATE_MARKS = (
    ("<|start_header_id|>", "Llama 3"),
    ("<start_of_turn>", "Gemma"),
    ("<｜User｜>", "DeepSeek"),
    ("<|im_start|>", "ChatML"),
    ("<<SYS>>", "Llama 2"),
    ("[INST]", "Mistral"),
    ("<|end|>", "Phi"),
)


def list_models() -> list[dict[str, Any]]:
    """Return the models on this machine: name, path, size_bytes, architecture, quantisation; or `error`."""
    rows = []
    try:
        rows.append(_row(_files.BUNDLED, _files.resolve(_files.BUNDLED)))
    except ModelError as error:
        rows.append({"name": _files.BUNDLED, "error": error.message})
    folder = data_folder() / "models" / "hf"
    for path in sorted(folder.rglob("*.gguf")) if folder.is_dir() else ():
        owner, repo, revision, *inside = path.relative_to(folder).parts
        hub = _files.HubFile(owner, repo, "/".join(inside), revision)
        rows.append(_row(hub.name, path))
    return rows


def _row(name: str, path: Path) -> dict[str, Any]:
    """Return what the list says of one file; a broken one must not hide the others."""
    try:
        header = _gguf.read_header(path)
    except ModelError as error:
        return {"name": name, "path": str(path), "error": error.message}
    return {
        "name": name,
        "path": str(path),
        "size_bytes": header.size_bytes,
        "architecture": header.architecture,
        "quantisation": quantisation(header),
    }


def describe(name: str) -> dict[str, Any]:
    """Return what the header of a model says, and how much memory it takes at the default context.

    Raises:
        ModelError: there is no such file, or it is no GGUF file.
    """
    path = _files.resolve(name)
    header = _gguf.read_header(path)
    context = min(header.context_length or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)
    cache = cache_bytes(header.metadata, header.architecture, DEFAULT_CONTEXT_TOKENS)
    return {
        "name": name,
        "path": str(path),
        "title": str(header.metadata.get("general.name", "")),
        "kind": header.kind,
        "architecture": header.architecture,
        "parameters": n_parameters(header),
        "quantisation": quantisation(header),
        "tensor_types": dict(Counter(tensor.type for tensor in header.tensors).most_common()),
        "trained_context_tokens": header.context_length,
        "default_context_tokens": context,
        "vocabulary_tokens": len(header.tokens),
        "tokenizer": str(header.metadata.get("tokenizer.ggml.model", "")),
        "template": template_family(header),
        "size_bytes": header.size_bytes,
        "cache_bytes": cache,
        "memory_bytes": header.size_bytes + cache,
        "sha256": _files.digest(path),
    }


def read_gguf(name: str) -> dict[str, Any]:
    """Return a header as data: `path`, `architecture`, `metadata`, `types`, `tensors`, `size_bytes`, `sha256`.

    `tensors` has name, shape (ggml's order, fastest first), type, offset and size_bytes of each.

    Raises:
        ModelError: there is no such file, or it is no complete GGUF file.
    """
    path = _files.resolve(name)
    header = _gguf.read_header(path)
    return {
        "path": str(path),
        "architecture": header.architecture,
        "metadata": dict(header.metadata),
        "types": dict(header.types),
        "tensors": [asdict(tensor) for tensor in header.tensors],
        "size_bytes": header.size_bytes,
        "sha256": _files.digest(path),
    }


def check_adapter(path: str | Path, base: str) -> None:
    """Check an adapter against the model that it is for.

    Raises:
        ModelError: one of the two cannot be used, or they do not fit; the text says everything that is wrong.
    """
    _gguf.check_adapter(path, _gguf.read_header(_files.resolve(base)))


def n_parameters(header: _gguf.GGUFHeader) -> int:
    """Return the number of weights in a file."""
    return sum(math.prod(tensor.shape) for tensor in header.tensors)


def quantisation(header: _gguf.GGUFHeader) -> str:
    """Return the name of a file's format: what it says itself, or what most of its weights are in."""
    said = header.metadata.get("general.file_type")
    if isinstance(said, int) and said in FILE_TYPES:
        return FILE_TYPES[said]
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[tensor.type] += tensor.size_bytes
    return sizes.most_common(1)[0][0] if sizes else "none"


def template_family(header: _gguf.GGUFHeader) -> str:
    """Return the family of a model's chat template, by the marks that it writes."""
    if header.chat_template is None:
        return "none: ChatML is used" if "<|im_start|>" in header.tokens else "none: plain text"
    return next((family for mark, family in TEMPLATE_MARKS if mark in header.chat_template), "its own")


def quantize(name: str, to: str, output: Path | None = None) -> Path:
    """Write a model in another format and return the new file's path; nothing is overwritten.

    Raises:
        UsageError: the format is none, is the one the file has, or the output is in the way.
        ModelError: the model cannot be read, or llama.cpp could not convert it.
    """
    target_type = format_named(to)
    source = _files.resolve(name)
    header = _gguf.check_model(source)
    if quantisation(header) == target_type:
        raise UsageError(f"{name} is {target_type} already", hint="name another format, or use the file as it is")
    target = output if output is not None else Path(_plain_stem(source) + f".{target_type}.gguf")
    if target.exists():
        raise UsageError(f"{target} exists already", hint="remove it, or name another file with -o")
    _check_disk(header, target_type, target)
    return _write(source, target_type, target)


def format_named(text: str) -> str:
    """Return a format's name in its usual letters.

    Raises:
        UsageError: there is no such format to write.
    """
    wanted = text.upper()
    if wanted not in TARGETS:
        known = " (it needs an importance matrix, which is not made here)" if wanted in FILE_TYPES.values() else ""
        raise UsageError(f"{text!r} is not a format to write{known}", hint=suggest(wanted, TARGETS, most=len(TARGETS)))
    return wanted


def _plain_stem(source: Path) -> str:
    """Return a file's name without `.gguf` and without the format at its end."""
    stem = source.name.removesuffix(".gguf")
    for name in sorted(FILE_TYPES.values(), key=len, reverse=True):
        for mark in ".-_":
            if stem.lower().endswith(mark + name.lower()):
                return stem[: -len(name) - 1]
    return stem


def _check_disk(header: _gguf.GGUFHeader, target_type: str, target: Path) -> None:
    if not target.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {target.absolute().parent}", hint="make it first, or name another file")
    main = TENSOR_TYPES_BY_NAME[target_type.removesuffix("_M").removesuffix("_S").removesuffix("_L")]
    needed = n_parameters(header) * main.block_bytes // main.block
    free = shutil.disk_usage(target.absolute().parent).free
    if needed > free:
        raise UsageError(
            f"{target_type} takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at {target}",
            hint="make room, or name a file on another disk with -o",
        )


def _write(source: Path, target_type: str, target: Path) -> Path:
    """Convert beside the target, check the result, then give it its name."""
    folder = target.absolute().parent
    try:
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise file_error(target, f"cannot be written: {error.strerror}", hint="name another file with -o") from error
    os.close(descriptor)
    try:
        number = next(number for number, known in FILE_TYPES.items() if known == target_type)
        job = {"job": "quantize", "source": str(source), "target": temporary, "file_type": number}
        run_job(job | {"threads": default_threads()}, model=str(source))
        _gguf.check_model(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def run_job(job: dict[str, Any], *, model: str) -> dict[str, Any]:
    """Run one native job in a child; where its fast kernels crash, once more without them.

    Raises:
        ModelError: it failed, died or took too long.
    """
    done = _run(job, model)
    if done.returncode in CRASHES and job.get("use_extra_bufts"):
        done = _run(job | {"use_extra_bufts": False}, model)
    if done.returncode != 0:
        raise _death(done, model)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise ModelError(answer["error"], model=model, cause=answer["cause"], hint=answer["hint"])
    return answer


def _run(job: dict[str, Any], model: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "gristmill_plugins.llama._workbench"]
    try:
        return subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=native_environment(),
            timeout=JOB_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"llama.cpp worked on {model} for {JOB_S / 60:.0f} minutes without an end", model=model, cause="timeout"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot start a process: {error}", model=model, cause="load") from error


def _death(done: subprocess.CompletedProcess[str], model: str) -> ModelError:
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
    if "No module named 'llama_cpp'" in last:
        return ModelError(
            "llama-cpp-python is not installed", model=model, cause="load", hint='pip install "gristmill[llama]"'
        )
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    return ModelError(
        f"llama.cpp ended with {how} while it worked on {model}: {last}",
        model=model,
        cause="died",
        hint="is the disk full, or the file damaged? `gristmill doctor` examines the build",
    )
