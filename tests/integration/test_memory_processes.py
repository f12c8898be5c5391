"""Semantic memory between processes: shared, seen at once, and killed in the middle of a write."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.processes import Start, kill

from gristmill import Kernel, Memory
from gristmill.testing import FakeEmbedder

START = """
import os, sys
from gristmill import Kernel
from gristmill.testing import FakeEmbedder
kernel = Kernel(memory=sys.argv[1], cache=False)
memory = kernel.memory
memory._default = FakeEmbedder
"""
WRITER = (
    START
    + """
name, i = sys.argv[2], 0
while True:
    texts = [f"record {name} {i + n} " + "x" * (7 * i % 9000) for n in range(1 + i % 4)]
    ids = [f"{name}-{i + n}" for n in range(len(texts))]
    memory.remember("c", texts, id=ids, metadata={"writer": name})
    os.write(1, "".join(f"{id} {7 * i % 9000}\\n" for id in ids).encode())
    i += len(texts)
"""
)
SEARCHER = (
    START
    + """
for line in sys.stdin:
    found = memory.recall("c", line.strip(), mode="dense", top_k=99, min_score=0.99)
    print(",".join(sorted(record.id for record in found)), flush=True)
"""
)
ROUNDS = int(os.environ.get("GRISTMILL_KILL_ROUNDS", "3"))
"""Of killing writers; more of them find more: the figures of docs/memory.md are of 8."""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Kernel(memory=tmp_path / "memory", cache=False) as kernel:
        kernel.memory._default = FakeEmbedder
        yield kernel.memory


def acknowledged(logs: list[Path]) -> dict[str, int]:
    """Return id to padding of every record that a writer was told is kept."""
    whole = [line for log in logs for line in log.read_text().split("\n")[:-1]]
    return {id_: int(padding) for id_, padding in (line.split() for line in whole)}


def text_of(id_: str, padding: int) -> str:
    name, number = id_.rsplit("-", 1)
    return f"record {name} {number} " + "x" * padding


def test_no_acknowledged_record_is_missing_or_wrong_after_writers_are_killed(
    tmp_path: Path, memory: Memory, start: Start
) -> None:
    chance = random.Random(4)
    logs: list[Path] = []
    for round_ in range(ROUNDS):
        writers = []
        for worker in range(4):
            logs.append(tmp_path / f"{round_}w{worker}.log")
            writers.append(start(WRITER, str(tmp_path / "memory"), logs[-1].stem, log=logs[-1]))
        before = len(acknowledged(logs))
        end = time.monotonic() + chance.uniform(0.5, 1.2)
        while time.monotonic() < end or len(acknowledged(logs)) == before:
            assert all(writer.poll() is None for writer in writers)
            memory.recall("c", "record", top_k=3)  # a reader in the middle of it all
            time.sleep(0.02)
        for writer in writers:
            kill(writer)
        known = acknowledged(logs)
        kept = {record.id: record for record in memory.list("c", limit=10**6)}
        assert known.keys() <= kept.keys(), "an acknowledged record is missing"
        for id_, record in kept.items():
            padding = known.get(id_, len(record.text) - len(text_of(id_, 0)))
            assert record.text == text_of(id_, padding)
            assert record.metadata == {"writer": id_.rsplit("-", 1)[0]}
    _words_and_vectors_agree(memory, kept=len(kept), sample=chance.sample(sorted(kept), 20))


def _words_and_vectors_agree(memory: Memory, *, kept: int, sample: list[str]) -> None:
    """The word index, the vectors and the metadata hold the same records as the table."""
    assert memory.collections()[0].n_records == kept
    assert len(memory.recall("c", "record", mode="lexical", top_k=10**6)) == kept
    assert len(memory.recall("c", "record", mode="dense", top_k=10**6)) == kept
    for id_ in sample:
        name, number = id_.rsplit("-", 1)
        where = {"writer": name}
        found = memory.recall("c", f"record {name} {number}", mode="lexical", where=where, top_k=10**6)
        assert id_ in [record.id for record in found]
        assert len(memory.recall("c", "record", mode="dense", where=where, top_k=10**6)) == len(
            memory.list("c", where=where, limit=10**6)
        )


def test_two_processes_see_each_others_records_at_once(tmp_path: Path, memory: Memory, start: Start) -> None:
    searcher = start(SEARCHER, str(tmp_path / "memory"))
    assert searcher.stdin is not None
    assert searcher.stdout is not None

    def search(query: str) -> str:
        assert searcher.stdin is not None
        assert searcher.stdout is not None
        print(query, file=searcher.stdin, flush=True)
        return searcher.stdout.readline().strip()

    assert search("the mill") == ""
    memory.remember("c", ["the mill", "the river"], id=["mill", "river"])
    assert search("the mill") == "mill"
    memory.remember("c", "the stone", id="mill")
    assert search("the mill") == ""
    assert search("the stone") == "mill"
    memory.forget("c", "mill")
    assert search("the stone") == ""
    for n in range(40):
        memory.remember("c", "the stone", id=f"n{n}")
        if n % 2:
            memory.forget("c", f"n{n}")
    assert search("the stone") == ",".join(sorted(f"n{n}" for n in range(0, 40, 2)))
    memory.forget("c", all=True)
    assert search("the river") == ""
    memory.remember("c", "the river", id="again")
    assert search("the river") == "again"


def test_writers_that_begin_together_make_one_file(tmp_path: Path, memory: Memory, start: Start) -> None:
    logs = [tmp_path / f"w{n}.log" for n in range(4)]
    writers = [start(WRITER, str(tmp_path / "memory"), log.stem, log=log) for log in logs]
    while not all(acknowledged([log]) for log in logs):
        assert all(writer.poll() is None for writer in writers)
        time.sleep(0.02)
    for writer in writers:
        kill(writer)
    assert {json.dumps(r.metadata["writer"]) for r in memory.list("c", limit=10**6)} == {f'"w{n}"' for n in range(4)}
