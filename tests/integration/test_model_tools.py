"""Converting and tuning the bundled model with the real library, each native job in its child process."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill import GenerateRequest, Message, ModelError, Sampling
from gristmill_plugins.llama import LlamaPlugin, _files, _gguf, _native, _tools, _tune

TEXT = "The miller keeps a ledger of every sack that comes down the river, and of every sack that goes. " * 12


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_the_names_of_formats_are_those_of_the_library() -> None:
    for number, name in _tools.FILE_TYPES.items():
        known = {f"LLAMA_FTYPE_MOSTLY_{name}", f"LLAMA_FTYPE_ALL_{name}", f"LLAMA_FTYPE_MOSTLY_{name}_MOE"}
        found = {getattr(_native.C, each) for each in known if hasattr(_native.C, each)}
        assert found == {number}, name


async def test_a_converted_model_passes_the_check_and_answers(tmp_path: Path) -> None:
    path = _tools.quantize("smollm2", "q4_0", tmp_path / "small.gguf")
    assert _tools.quantisation(_gguf.check_model(path)) == "Q4_0"
    assert path.stat().st_size < 95e6
    assert [left.name for left in tmp_path.glob(".small*")] == []
    model = LlamaPlugin().llama(model=str(path), context_tokens=256)
    request = GenerateRequest(
        messages=(Message(role="user", content="Name a colour."),), sampling=Sampling(max_tokens=4)
    )
    assert (await model.generate(request))[0].text
    await model.close()


def test_what_llama_cpp_cannot_convert_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the check, as a file that changes between check and use would be."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    header = _gguf.check_model(_files.resolve("smollm2"))
    monkeypatch.setattr(_gguf, "check_model", lambda _path: header)
    with pytest.raises(ModelError, match="broken"):
        _tools.quantize(str(broken), "Q4_0", tmp_path / "out.gguf")
    assert [*tmp_path.glob("out*"), *tmp_path.glob(".out*")] == []


def test_tuning_measures_speed_and_loss_and_writes_the_choice(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tune, "default_threads", lambda: 1)
    monkeypatch.setattr(_tune, "BATCHES", (256, 512))
    monkeypatch.setattr(_tune, "N_REPEATS", 1)
    steps: list[str] = []
    found = _tune.tune(
        "smollm2", text_file, formats=["Q4_0"], write=tmp_path / "best.gguf", max_loss=100.0, on_step=steps.append
    )
    original, small = found["rows"]
    assert (original["format"], small["format"]) == ("Q4_1", "Q4_0")
    assert original["kl_mean"] == 0.0
    assert 0 < small["kl_mean"] < 5
    assert 1 < original["perplexity"] < 100
    assert small["size_bytes"] < original["size_bytes"]
    assert min(row[rate] for row in found["rows"] for rate in ("prefill_per_s", "batched_per_s", "single_per_s")) > 0
    assert {setting["batch"] for setting in found["settings"]} == {256, 512}
    assert steps[:3] == ["measuring Q4_1", "writing Q4_0", "measuring Q4_0"]
    if found["chosen"] == "Q4_0":
        assert found["written"] == str(tmp_path / "best.gguf")
        assert _gguf.check_model(found["written"])
    else:
        assert found["written"] is None


def test_a_text_too_short_to_compare_on_is_refused_with_its_length(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Two words.")
    with pytest.raises(ModelError, match=r"the text has \d tokens, and at least 64 are needed"):
        _tune.tune("smollm2", short, formats=["Q4_0"])
