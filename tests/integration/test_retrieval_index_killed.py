"""An indexing run that is killed at random moments: the index always opens and answers, and no work is done twice.

`GRISTMILL_KILL_ROUNDS` says how often (5 by default).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill import Kernel, Passage

ROUNDS = int(os.environ.get("GRISTMILL_KILL_ROUNDS", "5"))
N_ROWS = 2500
RUN = """
import sys
from gristmill import Kernel

class Logged:
    def __init__(self, inner, log):
        self.inner, self.log, self.fingerprint = inner, log, inner.fingerprint

    async def embed(self, texts):
        rows = await self.inner.embed(texts)
        self.log.write("".join(text.replace("\\n", " ") + "\\n" for text in texts))
        self.log.flush()
        return rows

with Kernel(cache=False) as kernel, open(sys.argv[2], "a") as log:
    logged = Logged(kernel.embedder("wordllama"), log)
    kernel.memory._default = lambda: logged
    recipe = kernel.recipe(sys.argv[1])
    print("go", flush=True)
    recipe.run()
    print("done", flush=True)
"""


class Folder:
    """Documents in several editions, one index of them, and processes that index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.edition = 0
        self.log = folder / "embedded.log"
        self.log.touch()
        (folder / "docs").mkdir()
        (folder / "index.yaml").write_text(
            "version: 1\nsteps:\n  s:\n    use: retrieval.index\n    with: {documents: ./docs, name: killed}\n"
        )
        (folder / "search.yaml").write_text(
            "version: 1\ninputs: {q: string, mode: string}\nsteps:\n  s:\n    use: retrieval.search\n"
            '    with: {index: killed, query: "${inputs.q}", mode: "${inputs.mode}", top_k: 30}\n'
        )

    def publish_next(self) -> None:
        """Write the next edition: every row and the second file have other words."""
        self.edition += 1
        chance = random.Random(self.edition)
        rows = [
            {"text": f"Edition{self.edition} row{i} of the mill: " + " ".join(chance.choices(WORDS, k=40))}
            for i in range(N_ROWS)
        ]
        (self.folder / "docs" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.folder / "docs" / "about.md").write_text(f"# Edition{self.edition}\n\nAbout the mill.\n")

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", RUN, str(self.folder / "index.yaml"), str(self.log)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        return process

    def run_to_the_end(self) -> float:
        """Index, and return how many seconds that took."""
        with self.start() as process:
            began = time.monotonic()
            assert process.stdout is not None
            assert process.stdout.read() == "done\n"
        assert process.returncode == 0
        return time.monotonic() - began

    def killed_after(self, delay_s: float) -> None:
        with self.start() as process:
            time.sleep(delay_s)  # the moment is what is tried
            process.send_signal(signal.SIGKILL)

    def staged(self) -> set[str]:
        """Return the texts that a killed run left embedded."""
        (path,) = (Path(os.environ["XDG_DATA_HOME"]) / "gristmill" / "retrieval").glob("*/index.sqlite3")
        connection = sqlite3.connect(path)
        try:
            rows = connection.execute("SELECT context, text FROM chunks").fetchall()
        finally:
            connection.close()
        return {f"{context} {text}".strip().replace("\n", " ") for context, text in rows}

    def embedded(self) -> list[str]:
        return self.log.read_text().splitlines()


WORDS = [f"word{i}" for i in range(500)]


@pytest.fixture
def documents(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Kernel(cache=False) as made:
        yield made


def found_edition(kernel: Kernel, documents: Folder) -> int:
    """Search by both sides; everything that is found is of one edition, which is returned."""
    editions = set()
    recipe = kernel.recipe(documents.folder / "search.yaml")
    for mode in ("bm25", "dense", "hybrid"):
        passages: list[Passage] = recipe.run(q="the mill word1 word2", mode=mode).output
        assert len(passages) == 30
        editions |= {
            int(passage.text.split()[0].removeprefix("Edition")) for passage in passages if "row" in passage.text
        }
    (edition,) = editions
    about: list[Passage] = recipe.run(q=f"edition{edition} about", mode="bm25").output
    assert about[0].text == f"# Edition{edition}\n\nAbout the mill."
    return edition


def test_a_killed_index_is_the_old_or_the_new_one_and_nothing_is_embedded_twice(
    documents: Folder, kernel: Kernel
) -> None:
    chance = random.Random(11)
    documents.publish_next()
    whole_s = documents.run_to_the_end()
    published = found_edition(kernel, documents)
    assert published == 1
    interrupted = 0
    for _ in range(ROUNDS):
        if published == documents.edition:
            documents.publish_next()
        before = len(documents.embedded())
        done = documents.staged()
        documents.killed_after(chance.uniform(0, whole_s))
        published = found_edition(kernel, documents)
        assert published in (documents.edition - 1, documents.edition)
        interrupted += published < documents.edition
        assert not done & set(documents.embedded()[before:]), "what was staged was embedded again"
    before, done = len(documents.embedded()), documents.staged()
    documents.run_to_the_end()
    assert found_edition(kernel, documents) == documents.edition
    assert not done & set(documents.embedded()[before:])
    assert len(documents.staged()) == N_ROWS + 1  # and nothing else is left of all those runs
    print(f"{interrupted} of {ROUNDS} runs were killed before they published")


def test_two_processes_that_index_together_do_the_work_once(documents: Folder, kernel: Kernel) -> None:
    documents.publish_next()
    with documents.start() as one, documents.start() as two:
        for process in (one, two):
            assert process.stdout is not None
            assert process.stdout.read() == "done\n"
    assert len(documents.embedded()) == N_ROWS + 1
    assert found_edition(kernel, documents) == 1
