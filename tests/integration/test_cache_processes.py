"""The prompt cache between processes: shared, begun together, forked, and killed in the middle of a write."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from tests.integration.processes import Start, kill

from gristmill._cache import MISS, PromptCache, cache_key

WRITER = """
import os, sys
from gristmill._cache import PromptCache, cache_key
directory, name = sys.argv[1:]
cache = PromptCache(directory)
i = 0
while True:
    keys = [cache_key({"writer": name, "i": i + sample}) for sample in range(1 + i % 3)]
    # Long and short entries, so that some spill over several pages.
    if cache.set_many((key, {"text": key * (1 + i % 97)}) for key in keys):
        os.write(1, "".join(f"{key} {1 + i % 97}\\n" for key in keys).encode())
    i += 3
"""


def acknowledged(logs: list[Path]) -> dict[str, int]:
    """Return key to length of every entry that a writer was told is kept."""
    whole = [line for log in logs for line in log.read_text().split("\n")[:-1]]
    return {key: int(times) for key, times in (line.split() for line in whole)}


def test_no_acknowledged_entry_is_missing_or_wrong_after_writers_are_killed(tmp_path: Path, start: Start) -> None:
    chance = random.Random(9)
    logs: list[Path] = []
    with PromptCache(tmp_path / "cache") as reader:
        for round_ in range(6):
            writers = []
            for worker in range(4):
                logs.append(tmp_path / f"{round_}-{worker}.log")
                writers.append(start(WRITER, str(reader.directory), logs[-1].name, log=logs[-1]))
            before = len(acknowledged(logs))
            end = time.monotonic() + chance.uniform(0.3, 0.9)
            while time.monotonic() < end or len(acknowledged(logs)) == before:
                assert all(writer.poll() is None for writer in writers)
                known = acknowledged(logs)
                for key in chance.sample(sorted(known), min(20, len(known))):
                    assert reader.get(key) == {"text": key * known[key]}
            for writer in writers:
                kill(writer)
            if round_ % 2:
                reader.close()  # the next to open recovers the log alone
        known = acknowledged(logs)
        wrong = [key for key in known if reader.get(key) != {"text": key * known[key]}]
        report = reader.verify()
    assert wrong == []
    assert report.ok
    assert report.checked >= len(known)


def test_processes_that_begin_a_cache_together_all_keep_their_entries(tmp_path: Path, start: Start) -> None:
    code = (
        "import sys, time; from gristmill._cache import PromptCache; import gristmill._cache._disk\n"
        "time.sleep(max(0, float(sys.argv[3]) - time.time()))\n"
        "with PromptCache(sys.argv[1]) as cache: print(cache.set(sys.argv[2], sys.argv[2]))"
    )
    for attempt in range(4):
        directory = tmp_path / str(attempt)
        together = str(time.time() + 0.4)
        workers = [start(code, str(directory), str(worker), together) for worker in range(6)]
        assert [worker.communicate(timeout=120)[0].strip() for worker in workers] == ["True"] * 6
        with PromptCache(directory) as cache:
            assert cache.get_many([str(worker) for worker in range(6)]) == [str(worker) for worker in range(6)]
            assert cache.verify().ok


def test_two_processes_answer_from_each_others_entries(tmp_path: Path, start: Start) -> None:
    code = (
        "import sys; from gristmill._cache import MISS, PromptCache\n"
        "with PromptCache(sys.argv[1]) as cache:\n"
        "    for line in sys.stdin:\n"
        "        found = cache.get(line.strip()); cache.set(line.strip() + '-reply', 'from the child')\n"
        "        print(found, flush=True)"
    )
    child = start(code, str(tmp_path / "cache"))
    assert child.stdin is not None
    assert child.stdout is not None
    with PromptCache(tmp_path / "cache") as cache:
        for i in range(50):
            cache.set(f"k{i}", f"parent {i}")
            print(f"k{i}", file=child.stdin, flush=True)
            assert child.stdout.readline() == f"parent {i}\n"
            assert cache.get(f"k{i}-reply") == "from the child"


def test_one_process_clears_while_others_write(tmp_path: Path, start: Start) -> None:
    logs = [tmp_path / f"{worker}.log" for worker in range(3)]
    writers = [start(WRITER, str(tmp_path / "cache"), log.name, log=log) for log in logs]
    with PromptCache(tmp_path / "cache") as cache:
        for _ in range(15):
            time.sleep(0.1)
            cache.clear()
        time.sleep(0.3)
        assert [writer.poll() for writer in writers] == [None] * 3
        for writer in writers:
            kill(writer)
        report = cache.verify()
        quarantined = cache.stats().quarantined
    assert report.ok
    assert report.checked > 0
    assert quarantined == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parent_and_child_of_a_fork_both_go_on(tmp_path: Path, start: Start) -> None:
    # In a process of its own: forking one that has threads is not what this is about.
    code = (
        "import os, sys; from gristmill._cache import MISS, PromptCache\n"
        "cache = PromptCache(sys.argv[1])\n"
        "cache.set('before', 1); assert cache.get('before') == 1\n"
        "cache._own_sides()[1].lock.acquire()  # as another thread would hold it in the middle of a write\n"
        "child = os.fork()\n"
        "if child: cache._own_sides()[1].lock.release()\n"
        "for i in range(200): assert cache.set(f'{child == 0} {i}', i) and cache.get('before') == 1\n"
        "if child == 0: cache.close(); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert all(cache.get(f'{side} {i}') == i for side in (True, False) for i in range(200))\n"
        "print(cache.verify().ok); cache.close()"
    )
    child = start(code, str(tmp_path / "cache"))
    assert child.communicate(timeout=60)[0].strip() == "True"


def test_a_killed_process_leaves_a_cache_that_a_read_only_one_can_use(tmp_path: Path, start: Start) -> None:
    writer = start(WRITER, str(tmp_path / "cache"), "w", log=tmp_path / "log")
    while not acknowledged([tmp_path / "log"]):
        time.sleep(0.05)
    kill(writer)
    known = acknowledged([tmp_path / "log"])
    with PromptCache(tmp_path / "cache", read_only=True) as reader:
        assert all(reader.get(key) == {"text": key * known[key]} for key in known)
        assert reader.get(cache_key({"never": "asked"})) is MISS
    assert known
