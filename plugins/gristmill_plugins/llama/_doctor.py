"""What `gristmill doctor` says of llama.cpp: the build, its kernels, the GPU, and the model files.

llama.cpp is asked in a child process (`python -m` this module), since a broken build must not end the host. It loads
no model. Invariant: whatever is wrong with the installation becomes a line with the command that mends it.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gristmill import DoctorLine, ModelError
from gristmill_plugins.llama import _files
from gristmill_plugins.llama._probe import ProbeRecords
from gristmill_plugins.llama._store import data_folder

INSTALL = 'pip install "gristmill[llama]"'
REBUILD = (
    'CFLAGS="-U__AMX_INT8__" CXXFLAGS="-U__AMX_INT8__" '
    "pip install --force-reinstall --no-binary llama-cpp-python --no-deps llama-cpp-python==0.3.36"
)
REBUILD_CUDA = (
    'CMAKE_ARGS="-DGGML_CUDA=on" '
    "pip install --force-reinstall --no-binary llama-cpp-python --no-deps llama-cpp-python==0.3.36"
)
ANSWER_WITHIN_S = 60


def examine() -> Iterator[DoctorLine]:
    """Yield a line for everything that decides how models run here."""
    yield from _bundled()
    yield from _stored()
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        yield DoctorLine(status="bad", what="llama.cpp", detail="llama-cpp-python is not installed", mend=INSTALL)
        return
    build = _ask()
    if isinstance(build, str):
        yield DoctorLine(status="bad", what="llama.cpp", detail=f"{version} cannot be used: {build}", mend=INSTALL)
        return
    yield DoctorLine(status="ok", what="llama.cpp", detail=f"llama-cpp-python {version}; {build['system']}")
    yield from _kernels(build["system"])
    yield from _gpu(build)


def _bundled() -> Iterator[DoctorLine]:
    try:
        path = _files.resolve(_files.BUNDLED)
    except ModelError as error:
        yield DoctorLine(status="bad", what="model smollm2", detail=error.message, mend=error.hint or "")
        return
    yield DoctorLine(status="ok", what="model smollm2", detail=f"{path} ({path.stat().st_size / 1e6:.0f} MB)")


def _stored() -> Iterator[DoctorLine]:
    folder = data_folder() / "models"
    for path in sorted(folder.rglob("*.gguf")) if folder.is_dir() else ():
        yield DoctorLine(status="ok", what="model file", detail=f"{path} ({path.stat().st_size / 1e6:.0f} MB)")


def _kernels(system: str) -> Iterator[DoctorLine]:
    """Say whether this build's fast kernels were found to crash here, and how to build ones that do not."""
    if ProbeRecords().any_broken():
        yield DoctorLine(
            status="note",
            what="llama.cpp kernels",
            detail="its fast kernels crash here (GCC 12 and AMX): they are left out, and it is slower",
            mend=REBUILD,
        )
    elif "AMX_INT8 = 1" in system:
        yield DoctorLine(
            status="note",
            what="llama.cpp kernels",
            detail="built with AMX, which GCC 12 miscompiles; the first load tries it in a process of its own",
            mend=REBUILD,
        )


def _gpu(build: dict[str, Any]) -> Iterator[DoctorLine]:
    if build["offload"]:
        yield DoctorLine(status="ok", what="gpu", detail="gpu_layers: auto puts every layer on the GPU")
    elif Path("/proc/driver/nvidia/version").exists():
        yield DoctorLine(
            status="note", what="gpu", detail="this build of llama.cpp does not use the NVIDIA GPU", mend=REBUILD_CUDA
        )
    else:
        yield DoctorLine(status="ok", what="gpu", detail="none found: models run on the processor")


def _ask() -> dict[str, Any] | str:
    """Return what the build says of itself, or why it cannot."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            capture_output=True,
            text=True,
            timeout=ANSWER_WITHIN_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode == 0:
            return dict(json.loads(done.stdout.splitlines()[-1]))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
    last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return last[:300]


def _tell() -> None:
    """Run in the child: print what the build can do, as one line of JSON."""
    import llama_cpp

    system = llama_cpp.llama_print_system_info().decode(errors="replace").strip(" |")
    print(json.dumps({"system": system, "offload": llama_cpp.llama_supports_gpu_offload()}))


if __name__ == "__main__":
    _tell()
