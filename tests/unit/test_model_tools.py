"""What `gristmill model` says of files, chooses and refuses, without a model and without llama.cpp."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from gristmill import ModelError, UsageError
from gristmill._cli._app import app
from gristmill_plugins.llama import LlamaPlugin, _files, _gguf, _tools, _tune

U32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def write_gguf(
    path: Path,
    *,
    file_type: int | None = 2,
    template: str | None = None,
    kind: str = "model",
    pooling: int | None = None,
    tensor: tuple[str, int] = ("token_embd.weight", 2),
) -> Path:
    """Write a GGUF file with one tensor, of 64 x 2 weights in Q4_0; enough to be listed and described."""
    pairs = {"general.architecture": "llama", "general.name": "Tiny", "general.type": kind}
    if template is not None:
        pairs["tokenizer.chat_template"] = template
    numbers = {"llama.context_length": 128, "llama.block_count": 1, "llama.embedding_length": 64}
    numbers |= {"llama.attention.head_count": 4} | ({} if file_type is None else {"general.file_type": file_type})
    numbers |= {} if pooling is None else {"llama.pooling_type": pooling}
    body = b"".join(text(key) + struct.pack("<I", STRING) + text(value) for key, value in pairs.items())
    body += b"".join(text(key) + struct.pack("<II", U32, value) for key, value in numbers.items())
    tokens = ["<s>", "a", "<|im_start|>"]
    body += (
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, len(tokens)) + b"".join(map(text, tokens))
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs) + len(numbers) + 1) + body
    head += text(tensor[0]) + struct.pack("<IQQIQ", 2, 64, tensor[1], 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(72) + bytes(-72 % 32))
    return path


@pytest.fixture
def pulled() -> Path:
    """A file where `gristmill model pull hf:who/what/sub/tiny.gguf@v1` would put it."""
    return write_gguf(_files.HubFile("who", "what", "sub/tiny.gguf", "v1").path)


def test_the_list_names_pulled_files_as_recipes_do(pulled: Path) -> None:
    row = LlamaPlugin().list_models()[-1]
    assert row == {
        "name": "hf:who/what/sub/tiny.gguf@v1",
        "path": str(pulled),
        "size_bytes": pulled.stat().st_size,
        "architecture": "llama",
        "quantisation": "Q4_0",
    }
    assert _files.resolve(row["name"]) == pulled


def test_a_broken_file_is_listed_with_its_fault_and_hides_no_other(pulled: Path) -> None:
    broken = pulled.with_name("broken.gguf")
    broken.write_bytes(b"<html>not found</html>")
    rows = {row["name"]: row for row in _tools.list_models()}
    assert "it is a web page" in rows["hf:who/what/sub/broken.gguf@v1"]["error"]
    assert rows["hf:who/what/sub/tiny.gguf@v1"]["quantisation"] == "Q4_0"


def test_info_tells_what_the_header_says(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    facts = _tools.describe(str(path))
    assert (facts["title"], facts["kind"], facts["architecture"]) == ("Tiny", "language model", "llama")
    assert (facts["parameters"], facts["vocabulary_tokens"], facts["quantisation"]) == (128, 3, "Q4_0")
    assert (facts["trained_context_tokens"], facts["default_context_tokens"]) == (128, 128)
    assert facts["memory_bytes"] == path.stat().st_size + facts["cache_bytes"]
    assert len(facts["sha256"]) == 64


def test_an_adapter_is_described_as_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "adapter.gguf", kind="adapter")
    assert _tools.describe(str(path))["kind"] == "adapter"


@pytest.mark.parametrize(
    ("kind", "pooling", "tensor"),
    [
        ("embedding model", 1, ("token_embd.weight", 2)),
        ("reranker", 4, ("token_embd.weight", 2)),
        ("reranker", 4, ("cls.output.weight", 2)),
        ("reranker", None, ("cls.output.weight", 1)),
        ("reranker", None, ("cls.weight", 1)),
        ("language model", None, ("cls.weight", 2)),
        ("embedding model", 2, ("cls.weight", 1)),
    ],
)
def test_a_reranker_is_known_by_its_pooling_or_its_head(
    tmp_path: Path, kind: str, pooling: int | None, tensor: tuple[str, int]
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", pooling=pooling, tensor=tensor)
    assert _tools.describe(str(path))["kind"] == kind


def test_what_a_file_can_be_asked_follows_its_kind_and_needs_no_file(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", pooling=4)
    assert LlamaPlugin().llama(model=str(written)).capabilities == {"rank"}
    for other in (write_gguf(tmp_path / "other.gguf"), tmp_path / "missing.gguf"):
        assert {"generate", "embed"} <= LlamaPlugin().llama(model=str(other)).capabilities - {"rank"}


def test_a_format_that_the_file_does_not_name_is_read_from_its_tensors(tmp_path: Path) -> None:
    header = _gguf.read_header(write_gguf(tmp_path / "silent.gguf", file_type=None))
    assert _tools.quantisation(header) == "Q4_0"


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("<|im_start|>{{ m.role }}", "ChatML"),
        ("[INST] <<SYS>>", "Llama 2"),
        ("[INST] {{ m }}", "Mistral"),
        ("<|start_header_id|>", "Llama 3"),
        ("<start_of_turn>", "Gemma"),
        ("<|user|>{{ m }}<|end|>", "Phi"),
        ("<｜User｜>", "DeepSeek"),
        ("{{ m }}", "its own"),
        (None, "none: ChatML is used"),
    ],
)
def test_the_family_of_a_template_is_known_by_its_marks(tmp_path: Path, template: str | None, family: str) -> None:
    header = _gguf.read_header(write_gguf(tmp_path / "tiny.gguf", template=template))
    assert _tools.template_family(header) == family


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("Q9_0", "'Q9_0' is not a format to write"),
        ("iq2_xs", "it needs an importance matrix"),
        ("", "'' is not a format to write"),
    ],
)
def test_a_format_that_cannot_be_written_is_refused_with_those_that_can(wanted: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        _tools.quantize("smollm2", wanted)
    assert "Q" in (refused.value.hint or "")


def checked_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tiny file pass the check that real models must pass."""
    monkeypatch.setattr(_gguf, "check_model", _gguf.read_header)


def test_the_format_a_file_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked_without_weights(monkeypatch)
    path = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(UsageError, match="is Q4_0 already"):
        _tools.quantize(str(path), "Q4_0")


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked_without_weights(monkeypatch)
    path = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(UsageError, match="exists already") as refused:
        _tools.quantize(str(path), "Q8_0", path)
    assert refused.value.hint == "remove it, or name another file with -o"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked_without_weights(monkeypatch)
    with pytest.raises(UsageError, match="there is no folder"):
        _tools.quantize(str(write_gguf(tmp_path / "tiny.gguf")), "Q8_0", tmp_path / "missing" / "out.gguf")


def test_a_disk_without_room_is_refused_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked_without_weights(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10))
    with pytest.raises(UsageError, match=r"Q8_0 takes about 0\.0 GB, and 0\.0 GB are free"):
        _tools.quantize(str(write_gguf(tmp_path / "tiny.gguf")), "Q8_0", tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("mistral-7b-q4_k_m.gguf", "mistral-7b"),
        ("plain.gguf", "plain"),
    ],
)
def test_the_new_file_is_called_after_the_model_and_its_format(source: str, stem: str) -> None:
    assert _tools._plain_stem(Path(source)) == stem


def child(monkeypatch: pytest.MonkeyPatch, *results: tuple[int, str, str]) -> list[dict[str, Any]]:
    """Let native jobs end with these codes, outputs and complaints, one after another; return the jobs given."""
    jobs: list[dict[str, Any]] = []
    left = list(results)

    def run(command: list[str], *, input: str, **_: Any) -> subprocess.CompletedProcess[str]:
        jobs.append(json.loads(input))
        code, out, complaint = left.pop(0)
        return subprocess.CompletedProcess(command, code, out, complaint)

    monkeypatch.setattr(subprocess, "run", run)
    return jobs


def test_a_native_crash_is_an_error_with_the_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, (-signal.SIGABRT, "", "loading\nGGML_ASSERT(n > 0) failed\n"))
    with pytest.raises(ModelError, match=r"SIGABRT while it worked on m\.gguf: GGML_ASSERT") as died:
        _tools.run_job({"job": "quantize"}, model="m.gguf")
    assert died.value.cause == "died"


def test_fast_kernels_that_crash_are_left_out_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = child(monkeypatch, (-signal.SIGSEGV, "", ""), (0, '{"prefill_per_s": 1}\n', ""))
    found = _tools.run_job({"job": "measure", "use_extra_bufts": True}, model="m.gguf")
    assert found == {"prefill_per_s": 1}
    assert [job["use_extra_bufts"] for job in jobs] == [True, False]


def test_an_error_in_words_comes_through_with_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, (0, '{"error": "the text has 3 tokens", "cause": "request", "hint": "a longer one"}\n', ""))
    with pytest.raises(ModelError, match="the text has 3 tokens") as failed:
        _tools.run_job({"job": "measure"}, model="m.gguf")
    assert (failed.value.cause, failed.value.hint) == ("request", "a longer one")


def test_a_missing_library_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, (1, "", "ModuleNotFoundError: No module named 'llama_cpp'\n"))
    with pytest.raises(ModelError, match="llama-cpp-python is not installed") as failed:
        _tools.run_job({"job": "measure"}, model="m.gguf")
    assert failed.value.hint == 'pip install "gristmill[llama]"'


def row(name: str, rate: float, kl_mean: float) -> dict[str, Any]:
    return {"format": name, "prefill_per_s": rate, "batched_per_s": rate, "kl_mean": kl_mean}


def test_the_choice_is_the_fastest_that_loses_little_enough() -> None:
    rows = [row("Q4_1", 100, 0.0), row("Q8_0", 150, 0.01), row("Q4_0", 200, 0.3)]
    assert _tune.choose(rows, 0.05) == "Q8_0"
    assert _tune.choose(rows, 0.5) == "Q4_0"
    assert _tune.choose(rows, 0.0) == "Q4_1"


def test_a_text_that_cannot_be_read_is_refused_before_a_model_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        _tune.tune("smollm2", tmp_path / "missing.txt")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9 " * 100)
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        _tune.tune("smollm2", latin)
    with pytest.raises(UsageError, match="exists already"):
        _tune.tune("smollm2", Path(__file__), write=latin)


def test_a_text_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tune, "MAX_TEXT_BYTES", 1 << 20)
    huge = tmp_path / "huge.txt"
    with huge.open("wb") as file:
        os.ftruncate(file.fileno(), (1 << 20) + 1)
    with pytest.raises(UsageError, match="is larger than 1 MB"):
        _tune.tune("smollm2", huge)


def test_list_prints_a_table_or_json(pulled: Path) -> None:
    pulled.with_name("broken.gguf").write_bytes(b"")
    printed = CliRunner().invoke(app, ["model", "list"]).output.splitlines()
    assert printed[0].split() == ["name", "architecture", "format", "size", "path"]
    assert any("hf:who/what/sub/tiny.gguf@v1" in line and "Q4_0" in line for line in printed)
    assert any("unusable:" in line and "it is empty" in line for line in printed)
    rows = json.loads(CliRunner().invoke(app, ["model", "list", "--json"]).output)
    assert rows[-1]["path"] == str(pulled)


def test_info_prints_a_line_for_each_fact_or_json(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", template="<|im_start|>")
    printed = CliRunner().invoke(app, ["model", "info", str(path)]).output
    assert "parameters: 128\n" in printed
    assert "template:   ChatML\n" in printed
    facts = json.loads(CliRunner().invoke(app, ["model", "info", str(path), "--json"]).output)
    assert facts == _tools.describe(str(path))


def test_tune_prints_the_formats_the_settings_and_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"prefill_per_s": 320.4, "batched_per_s": 200.6, "single_per_s": 80.0}
    formats = [
        {"format": "Q4_1", "size_bytes": 98_000_000, "perplexity": 20.0, "kl_mean": 0.0, **rates},
        {"format": "Q8_0", "size_bytes": 145_000_000, "perplexity": 20.1, "kl_mean": 0.0062, **rates},
    ]
    found = {
        "name": "smollm2", "original": "Q4_1", "n_scored": 1020, "rows": formats, "max_loss": 0.05, "chosen": "Q8_0",
        "settings": [{"threads": 2, "batch": 256, **rates}], "written": "fast.gguf",
    }  # fmt: skip
    asked: dict[str, Any] = {}

    def tune(_self: LlamaPlugin, name: str, **options: Any) -> dict[str, Any]:
        asked.update(options, name=name)
        return found

    monkeypatch.setattr(LlamaPlugin, "tune_model", tune)
    arguments = ["model", "tune", "smollm2", "--text", "t.txt", "--format", "Q8_0", "--write", "fast.gguf"]
    printed = CliRunner().invoke(app, arguments).output
    assert (asked["text"], asked["formats"], asked["write"]) == (Path("t.txt"), ["Q8_0"], Path("fast.gguf"))
    assert printed.splitlines()[1].split() == ["Q4_1", "(original)", "98", "MB", "320", "201", "80", "20.00", "0.0000"]
    assert "Q8_0 is the fastest that loses at most 0.05 nats a token over 1020 tokens" in printed
    assert printed.endswith("wrote fast.gguf\n")
    assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout) == found
    found |= {"chosen": "Q4_1", "written": None}
    assert "the file is best as it is" in CliRunner().invoke(app, arguments).output
