"""What all tests share: folders of their own, and the place of the shared data where there is one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def interrupts_arrive() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and so would every command of the tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep caches, run records and settings of the user out of the tests, and theirs out of the user's."""
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "xdg" / variable.lower()))


def folder_from(variable: str) -> Path:
    """Return a folder of test data that is not part of the repository, or skip."""
    place = os.environ.get(variable)
    if not place:
        pytest.skip(f"{variable} is not set")
    return Path(place)


@pytest.fixture
def shared_data() -> Path:
    """The folder with yaml_suite.jsonl, json_suite.jsonl, malformed_files.jsonl and naughty_strings.jsonl."""
    return folder_from("GRISTMILL_SHARED_DATA")


@pytest.fixture
def bad_inputs() -> Path:
    """The folder with malformed YAML files."""
    return folder_from("GRISTMILL_BAD_INPUTS")
