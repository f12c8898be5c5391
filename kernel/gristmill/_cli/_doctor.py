"""Examines a machine: what gristmill and its plugins can do here, and the command that mends what they cannot.

A plugin takes part by a method `doctor() -> list[DoctorLine]`.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gristmill._plugins import DoctorLine

if TYPE_CHECKING:
    from gristmill._kernel import Kernel


def examine(kernel: Kernel) -> Iterator[DoctorLine]:
    """Yield a line for everything worth knowing."""
    version = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    yield DoctorLine(status="ok", what="python", detail=version)
    yield DoctorLine(
        status="ok", what="processor", detail=f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores usable"
        if hasattr(os, "sched_getaffinity") else f"{platform.machine()}, {os.cpu_count()} cores",
    )  # fmt: skip
    for path in kernel.settings.files:
        yield DoctorLine(status="ok", what="settings", detail=str(path))
    yield from _cache(kernel)
    for row in kernel.registry.status():
        if row.error is not None:
            yield DoctorLine(
                status="bad", what=f"plugin {row.name}", detail=row.error.message, mend=row.error.hint or ""
            )
            continue
        assert row.spec is not None
        offered = f"{len(row.spec.functions)} functions, {len(row.spec.providers)} model providers"
        yield DoctorLine(status="ok", what=f"plugin {row.name}", detail=f"{row.distribution}: {offered}")
        examine_plugin = getattr(row.spec.plugin, "doctor", None)
        if examine_plugin is not None:
            yield from examine_plugin()


def _cache(kernel: Kernel) -> Iterator[DoctorLine]:
    cache = kernel.cache
    if cache is None:
        return
    stats = cache.stats()
    folder = cache.directory if cache.directory.exists() else cache.directory.parent
    while not folder.exists():
        folder = folder.parent
    detail = f"{stats.entries} answers, {stats.size_bytes / 1e6:.1f} MB in {cache.directory}"
    if not os.access(folder, os.W_OK):
        yield DoctorLine(
            status="bad", what="cache", detail=f"{folder} cannot be written: answers are not kept",
            mend="name another folder in gristmill.toml: [cache] directory = ...",
        )  # fmt: skip
        return
    free = shutil.disk_usage(folder).free
    low = free < kernel.settings.cache_size_bytes
    yield DoctorLine(
        status="note" if low else "ok", what="cache", detail=f"{detail}; {free / 1e9:.1f} GB free on its disk",
        mend="lower [cache] size_mb in gristmill.toml, or free some disk" if low else "",
    )  # fmt: skip
