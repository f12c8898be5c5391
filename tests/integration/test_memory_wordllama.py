"""The default embedder, from the files of the wordllama package: the same vectors, no handler, no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gristmill import Kernel, PluginError
from gristmill.testing import check_plugin
from gristmill_plugins.wordllama import WordLlamaEmbedder, WordLlamaPlugin

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

TEXTS = ["How many holidays do I get?", "é 日本語 🧮", "a\x00b", "word " * 500]
THEIRS = """
import sys
from pathlib import Path
import numpy as np, wordllama
folder = Path(wordllama.__file__).parent
model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
np.save(sys.argv[1], model.embed(eval(sys.argv[2]), norm=True))
"""
OURS = """
import logging, socket, sys
socket.socket.connect = None
from gristmill_plugins.wordllama import WordLlamaEmbedder
assert not {"numpy", "tokenizers", "safetensors"} & set(sys.modules)
WordLlamaEmbedder().vectors(["a text"])
assert not {"wordllama", "requests", "torch"} & set(sys.modules)
assert logging.getLogger().handlers == []
"""


def test_vectors_are_those_of_wordllama_itself(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", THEIRS, str(tmp_path / "v.npy"), repr(TEXTS)], check=True)
    vectors = WordLlamaEmbedder().vectors(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 256)
    np.testing.assert_allclose(vectors, np.load(tmp_path / "v.npy"), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_it_is_imported_late_leaves_logging_alone_and_opens_no_connection() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", OURS], check=True)


def test_the_fingerprint_names_version_dimensions_and_files() -> None:
    fingerprint = WordLlamaEmbedder().fingerprint
    assert fingerprint.startswith("wordllama 0.4.")
    assert WordLlamaEmbedder(64).fingerprint != fingerprint == WordLlamaEmbedder().fingerprint
    assert WordLlamaEmbedder(64).vectors(["a"]).shape == (1, 64)


async def test_a_text_without_tokens_and_a_long_list_are_embedded() -> None:
    embedder = WordLlamaEmbedder()
    rows = await embedder.embed(["", *["mill"] * 100])
    assert not rows[0].any()
    assert (rows[1:] == (await embedder.embed(["mill"]))[0]).all()


def test_memory_finds_by_meaning_what_shares_no_word(tmp_path: Path) -> None:
    with Kernel(plugins={"words": WordLlamaPlugin()}, memory=tmp_path, cache=False) as kernel:
        memory, embedder = kernel.memory, WordLlamaEmbedder()
        texts = ["The physician examined the patient.", "The train left the station.", "Bake the bread for an hour."]
        memory.remember("c", texts, embedder=embedder)
        for mode in ("dense", "hybrid"):
            found = memory.recall("c", "a doctor in a hospital", mode=mode, embedder=embedder)
            assert found[0].text == texts[0]


def test_a_missing_library_or_file_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_plugin("wordllama", WordLlamaPlugin())
    assert [line.status for line in WordLlamaPlugin().doctor()] == ["ok"]
    monkeypatch.setattr("gristmill_plugins.wordllama.WEIGHTS", "weights/none")
    with pytest.raises(PluginError, match=r"the wordllama package has no none\n  pip install .* --force-reinstall"):
        _ = WordLlamaEmbedder().fingerprint
    monkeypatch.setattr("gristmill_plugins.wordllama._NEEDED", ("wordllama", "no_such_library"))
    with pytest.raises(PluginError) as caught:
        _ = WordLlamaEmbedder().fingerprint
    assert str(caught.value) == 'WordLlama\'s embeddings need no_such_library\n  pip install "gristmill[memory]"'
    (line,) = WordLlamaPlugin().doctor()
    assert (line.status, line.mend) == ("note", 'pip install "gristmill[memory]"')
