"""`gristmill.toml` and the folders: what belongs to a machine or a project, and not to a recipe.

The project's file (found from the current folder upwards) stands before the user's, key by key. Unknown keys are
errors. It reads no recipe and opens no cache. Folders follow the XDG base directory specification.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill._errors import UsageError, suggest

FILE_NAME = "gristmill.toml"
_SECTIONS: Mapping[str, Mapping[str, type]] = {
    "cache": {"directory": str, "size_mb": int, "expire_days": float},
    "memory": {"directory": str, "store": dict},
    "limits": {"steps_at_once": int, "runs_kept": int, "max_loaded": int, "idle_s": float},
}

_EXPECTED = {str: "it is a text", dict: "it is a table", int: "it is a int above 0", float: "it is a float above 0"}


@dataclass(frozen=True, slots=True)
class Settings:
    """All that `gristmill.toml` can say."""

    cache_directory: Path
    data_directory: Path
    memory_path: Path | None = None
    """Where semantic memory lies, if not below the data folder."""
    memory_store: Mapping[str, Any] | None = None
    """`[memory.store]`: a declaration as under `models:`, of a store to use instead of the kernel's own."""
    cache_size_bytes: int = 2 * 1024**3
    cache_expire_s: float | None = None
    steps_at_once: int = 32
    """Steps (and items of `for_each`) of one run that may be under way together."""
    runs_kept: int = 100
    max_loaded: int | None = None
    """Models whose weights may be in memory together; one with calls under way is never unloaded."""
    idle_s: float | None = None
    """Seconds without a call after which a model is unloaded; the next call loads it again."""
    plugin_files: tuple[Path, ...] = ()
    plugin_tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`[plugin.NAME]`: a plugin's own settings."""
    files: tuple[Path, ...] = ()
    """The files that were read, the strongest first."""

    @property
    def tools_file(self) -> Path | None:
        """Where the snapshot of tools lies that are not local code: beside the strongest settings file."""
        return self.files[0].with_name("gristmill.tools.json") if self.files else None

    @property
    def memory_directory(self) -> Path:
        """The folder of semantic memory."""
        return self.memory_path or self.data_directory / "memory"


def xdg_folder(variable: str, fallback: str) -> Path:
    """Return gristmill's folder below an XDG base directory; relative ones are ignored, as the standard says."""
    base = os.environ.get(variable, "")
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / fallback
    return root / "gristmill"


def load_settings(folder: Path | None = None) -> Settings:
    """Read the settings that hold in `folder`, the current one by default.

    Raises:
        UsageError: a file is no TOML, or holds a key or value that means nothing.
    """
    merged: dict[str, Any] = {}
    files = _find_files(folder or Path.cwd())
    for path in reversed(files):
        for key, value in _read(path).items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    cache, limits = merged.get("cache", {}), merged.get("limits", {})
    days = cache.get("expire_days")
    return Settings(
        cache_directory=Path(cache.get("directory") or xdg_folder("XDG_CACHE_HOME", ".cache") / "prompts"),
        data_directory=xdg_folder("XDG_DATA_HOME", ".local/share"),
        memory_path=Path(merged["memory"]["directory"]) if merged.get("memory", {}).get("directory") else None,
        memory_store=merged.get("memory", {}).get("store"),
        cache_size_bytes=cache.get("size_mb", 2048) * 1024**2,
        cache_expire_s=None if days is None else days * 86400.0,
        steps_at_once=limits.get("steps_at_once", 32),
        runs_kept=limits.get("runs_kept", 100),
        max_loaded=limits.get("max_loaded"),
        idle_s=limits.get("idle_s"),
        plugin_files=tuple(merged.get("plugins", ())),
        plugin_tables=merged.get("plugin", {}),
        files=tuple(files),
    )


def _find_files(folder: Path) -> list[Path]:
    folder = folder.resolve()
    project = next((p / FILE_NAME for p in (folder, *folder.parents) if (p / FILE_NAME).is_file()), None)
    user = xdg_folder("XDG_CONFIG_HOME", ".config") / FILE_NAME
    return [path for path in (project, user if user.is_file() else None) if path is not None]


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}", hint="mend it, or move it away") from error
    allowed = (*_SECTIONS, "plugins", "plugin")
    for key, value in table.items():
        if key not in allowed:
            raise UsageError(f"{path}: {key!r} means nothing here", hint=suggest(key, allowed))
        if key in _SECTIONS:
            _check_section(path, key, value)
    files = table.get("plugins", [])
    if not isinstance(files, list) or not all(isinstance(item, str) for item in files):
        raise UsageError(f"{path}: plugins is a list of Python files, this is {files!r}")
    if "plugins" in table:
        table["plugins"] = [path.parent / item for item in files]
    for section in ("cache", "memory"):
        if isinstance(directory := table.get(section, {}).get("directory"), str):
            table[section]["directory"] = str(path.parent / Path(directory).expanduser())
    store = table.get("memory", {}).get("store", {})
    if isinstance(store.get("path"), str):  # a folder of the project's, like the others
        store["path"] = str(path.parent / Path(store["path"]).expanduser())
    return table


def _check_section(path: Path, section: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {section} is a table", hint=f"write [{section}]")
    for key, entry in value.items():
        kind = _SECTIONS[section].get(key)
        if kind is None:
            raise UsageError(f"{path}: {section}.{key} means nothing", hint=suggest(key, _SECTIONS[section]))
        good = isinstance(entry, int | float if kind is float else kind) and not isinstance(entry, bool)
        if not good or (kind in (int, float) and entry <= 0):
            raise UsageError(f"{path}: {section}.{key} cannot be {entry!r}", hint=_EXPECTED[kind])
