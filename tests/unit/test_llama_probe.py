"""Builds whose fast kernels crash are found once, remembered, and used without them from then on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from gristmill_plugins.llama._probe import Attempt, ProbeRecords, build_key, first_attempt, next_attempt


def test_a_build_nobody_tried_is_probed_with_its_fast_kernels() -> None:
    assert first_attempt(None) == Attempt(use_extra_bufts=True, probe=True)


def test_a_known_build_is_not_probed_again() -> None:
    assert first_attempt(True) == Attempt(use_extra_bufts=True, probe=False)
    assert first_attempt(False) == Attempt(use_extra_bufts=False, probe=False)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGILL])
def test_a_crash_while_probing_leads_to_the_plain_kernels(number: signal.Signals) -> None:
    again = next_attempt(first_attempt(None), exit_code=-number, probing=True)
    assert again == Attempt(use_extra_bufts=False, probe=True)


@pytest.mark.parametrize(
    ("tried", "exit_code", "probing"),
    [
        (Attempt(use_extra_bufts=False, probe=True), -signal.SIGSEGV, True),
        (Attempt(use_extra_bufts=True, probe=True), -signal.SIGSEGV, False),
        (Attempt(use_extra_bufts=True, probe=True), -signal.SIGABRT, True),
        (Attempt(use_extra_bufts=True, probe=True), -signal.SIGKILL, True),
        (Attempt(use_extra_bufts=True, probe=True), 1, True),
        (Attempt(use_extra_bufts=True, probe=True), None, True),
    ],
    ids=["both kernels crash", "crash while loading", "abort", "out of memory", "error", "never started"],
)
def test_any_other_end_is_final(tried: Attempt, exit_code: int | None, probing: bool) -> None:
    assert next_attempt(tried, exit_code=exit_code, probing=probing) is None


def test_outcomes_are_remembered_for_each_build(tmp_path: Path) -> None:
    records = ProbeRecords(tmp_path / "deep" / "kernels.json")
    assert records.get("a") is None
    records.put("a", False)
    records.put("b", True)
    again = ProbeRecords(tmp_path / "deep" / "kernels.json")
    assert (again.get("a"), again.get("b"), again.get("c")) == (False, True, None)


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"a": "yes"})])
def test_a_damaged_record_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(content)
    assert ProbeRecords(path).get("a") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ProbeRecords(tmp_path / "file" / "kernels.json").put("a", True)


def test_the_key_names_release_build_processor_and_formats(tmp_path: Path) -> None:
    library = tmp_path / "libllama.so"
    library.write_bytes(b"")
    key = build_key("0.3.36", library, ["Q4_1", "F32", "Q4_1"])
    assert key.startswith("0.3.36|")
    assert key.endswith("|F32+Q4_1")
    assert key != build_key("0.3.37", library, ["Q4_1", "F32"]) != build_key("0.3.36", tmp_path / "none", ["F32"])
