"""gristmill.toml: which file wins, and what a mistake in one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill import UsageError
from gristmill._settings import load_settings


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    project, user = tmp_path / "project" / "deep", tmp_path / "config" / "gristmill"
    project.mkdir(parents=True)
    user.mkdir(parents=True)
    return project, user


def test_folders_follow_xdg_when_no_file_says_otherwise(folders: tuple[Path, Path], tmp_path: Path) -> None:
    settings = load_settings(folders[0])
    assert settings.cache_directory == tmp_path / "cache" / "gristmill" / "prompts"
    assert settings.data_directory == tmp_path / "data" / "gristmill"
    assert settings.files == ()


def test_the_projects_file_wins_over_the_users_key_by_key(folders: tuple[Path, Path]) -> None:
    project, user = folders
    (user / "gristmill.toml").write_text("[limits]\nsteps_at_once = 3\nruns_kept = 9\n[plugin.web]\nhosts = ['a']\n")
    (project.parent / "gristmill.toml").write_text("plugins = ['./p.py']\n[limits]\nsteps_at_once = 5\n")
    settings = load_settings(project)
    assert (settings.steps_at_once, settings.runs_kept) == (5, 9)
    assert settings.plugin_files == (project.parent / "p.py",)
    assert settings.plugin_tables == {"web": {"hosts": ["a"]}}


def test_the_cache_folder_is_relative_to_the_file_that_names_it(folders: tuple[Path, Path]) -> None:
    project, _ = folders
    (project / "gristmill.toml").write_text("[cache]\ndirectory = './answers'\nsize_mb = 1\nexpire_days = 0.5\n")
    settings = load_settings(project)
    assert settings.cache_directory == project / "answers"
    assert (settings.cache_size_bytes, settings.cache_expire_s) == (1024**2, 43200.0)


def test_loaded_models_are_limited_only_when_a_file_says_so(folders: tuple[Path, Path]) -> None:
    project, _ = folders
    settings = load_settings(project)
    assert (settings.max_loaded, settings.idle_s) == (None, None)
    (project / "gristmill.toml").write_text("[limits]\nmax_loaded = 2\nidle_s = 0.5\n")
    settings = load_settings(project)
    assert (settings.max_loaded, settings.idle_s) == (2, 0.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[cach]\n", "'cach' means nothing here"),
        ("[cache]\nsize = 3\n", "cache.size means nothing"),
        ("[cache]\nsize_mb = -3\n", "cache.size_mb cannot be -3"),
        ("[limits]\nruns_kept = true\n", "limits.runs_kept cannot be True"),
        ("[limits]\nmax_loaded = 0\n", "limits.max_loaded cannot be 0"),
        ("[limits]\nidle_s = 'long'\n", "limits.idle_s cannot be 'long'"),
        ("limits = 3\n", "limits is a table"),
        ("plugins = 'a.py'\n", "plugins is a list of Python files"),
        ("not toml", "gristmill.toml: "),
    ],
)
def test_a_mistake_names_the_file_and_the_key(folders: tuple[Path, Path], text: str, told: str) -> None:
    (folders[0] / "gristmill.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings(folders[0])
    assert told in str(caught.value)
    assert "gristmill.toml" in str(caught.value)
