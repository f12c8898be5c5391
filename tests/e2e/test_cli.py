"""The command line as a user meets it: real processes, the real bundled model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("llama_cpp", reason="the command line's main job needs the extra gristmill[llama]")

QUESTION = "question=How many legs does a spider have?"
LONG = """\
version: 1
name: long
models:
  main: {use: llama, model: smollm2, context_tokens: 4096}
steps:
  story:
    prompt: Write a very long story about a mill, a river and a miller's daughter.
    temperature: 1.0
    logit_bias: {"2": -1000}
    max_tokens: 3500
"""


def gristmill(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gristmill", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_quickstart_answers_with_the_bundled_model_and_the_second_run_is_cached() -> None:
    first = gristmill("run", "quickstart", "--input", QUESTION)
    assert first.returncode == 0, first.stderr
    assert "eight" in first.stdout
    assert "answer: done" in first.stderr
    again = gristmill("run", "quickstart", "--json", "--input", QUESTION)
    record = json.loads(again.stdout)
    assert record["output"] == first.stdout.strip()
    assert record["steps"]["answer"]["cached"] is True
    assert record["usage"]["calls"] == 0
    assert {"output", "steps", "usage", "elapsed_s"} <= set(record)


def test_no_cache_neither_reads_nor_writes() -> None:
    for _ in range(2):
        record = json.loads(gristmill("run", "few_shot", "--no-cache", "--json", "--input", "text=Lovely.").stdout)
        assert record["usage"]["calls"] == 1
    stats = json.loads(gristmill("cache", "stats", "--json").stdout)
    assert stats["entries"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "quickstrat"], "did you mean 'quickstart'?"),
        (["run", "./nowhere.yaml"], "does not exist"),
        (["run", "quickstart"], "needs 'question'"),
        (["run", "quickstart", "--input", "questoin=x"], "did you mean 'question'?"),
        (["run", "quickstart", "--input", "question"], "is not NAME=VALUE"),
        (["run", "quickstart", "--input", QUESTION, "--set", "answer.temperature=hot"], "temperature: "),
        (["run", "quickstart", "--input", QUESTION, "--set", "anwser.temperature=1"], "did you mean 'answer'?"),
        (["run", "quickstart", "--input", QUESTION, "--from-run", "never"], "no record of a run 'never'"),
        (["check", "compose", "nothing"], "no recipe is called 'nothing'"),
        (["graph", "compose", "--format", "png"], "'png' is no format"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_use_exits_with_2_and_says_what_to_do(arguments: list[str], told: str) -> None:
    done = gristmill(*arguments)
    assert done.returncode == 2, done
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_invalid_recipe_is_explained_before_anything_is_loaded(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("version: 1\nsteps:\n  a: {use: text.splt, with: {text: x}}\n")
    done = gristmill("check", "./bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith(
        "bad.yaml:3:12: error: 'text.splt' is not a function of plugin 'text'\n"
        "  |\n3 |   a: {use: text.splt, with: {text: x}}\n  |            ^^^^^^^^^ did you mean 'text.split'?"
    )
    as_json = json.loads(gristmill("check", "./bad.yaml", "--json", cwd=tmp_path).stdout)
    assert (as_json["errors"], as_json["diagnostics"][0]["line"], as_json["diagnostics"][0]["column"]) == (1, 3, 12)
    annotated = gristmill("check", "./bad.yaml", "--github", cwd=tmp_path).stdout
    assert annotated.startswith("::error file=bad.yaml,line=3,col=12::")


def test_overrides_change_a_step_and_a_model(tmp_path: Path) -> None:
    record = json.loads(
        gristmill("run", "quickstart", "--json", "--input", QUESTION, "--set", "answer.max_tokens=2").stdout
    )
    assert record["steps"]["answer"]["value"]["finish_reason"] == "length"
    (tmp_path / "broken.gguf").write_bytes(b"<!DOCTYPE html><title>404</title>")
    done = gristmill("run", "quickstart", "--input", QUESTION, "--model", str(tmp_path / "broken.gguf"))
    assert done.returncode == 1
    assert "broken.gguf" in done.stderr
    assert "it is a web page, not a model" in done.stderr
    assert "Traceback" not in done.stderr


def test_inputs_come_from_files_and_keep_their_types(tmp_path: Path) -> None:
    (tmp_path / "types.yaml").write_text(
        "version: 1\ninputs: {n: integer, words: [string], text: string}\n"
        "steps:\n  joined: {use: text.join, with: {items: '${inputs.words}'}}\n"
        "output: {n: '${inputs.n + 1}', joined: '${joined}', text: '${inputs.text}'}\n"
    )
    (tmp_path / "long.txt").write_text("from a file")
    (tmp_path / "inputs.json").write_text('{"n": 4, "words": ["a", "b"]}')
    done = gristmill(
        "run", "./types.yaml", "--input-file", "inputs.json", "--input", "text=@long.txt", "--json", cwd=tmp_path
    )
    assert json.loads(done.stdout)["output"] == {"n": 5, "joined": "a\nb", "text": "from a file"}


def test_a_failed_run_goes_on_from_its_finished_steps(tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text(
        "from pathlib import Path\nfrom gristmill import FunctionError, function\n"
        "@function\ndef fail_once(flag: Path) -> str:\n"
        '    """Fail unless the flag exists."""\n'
        "    if not flag.exists():\n        raise FunctionError('not yet')\n    return 'through'\n"
    )
    (tmp_path / "two.yaml").write_text(
        "version: 1\nmodels: {main: {use: llama}}\nsteps:\n"
        "  first: {prompt: Say yes., max_tokens: 8, temperature: 0.9, cache: off}\n"
        "  second: {use: plug.fail_once, with: {flag: ./flag}, needs: first}\n"
        "output: ${first.text ~ second}\n"
    )
    failed = gristmill("run", "./two.yaml", "--plugin", "plug.py", cwd=tmp_path)
    assert failed.returncode == 1
    assert "step 'second': not yet" in failed.stderr
    run_id = failed.stderr.split("--from-run ")[1].split()[0]
    (tmp_path / "flag").touch()
    resumed = gristmill("run", "./two.yaml", "--plugin", "plug.py", "--from-run", run_id, "--json", cwd=tmp_path)
    record = json.loads(resumed.stdout)
    assert record["steps"]["first"]["status"] == "resumed"
    assert record["steps"]["second"]["status"] == "done"
    assert record["output"].endswith("through")


def test_a_trace_is_json_lines_with_inputs_outputs_and_tokens(tmp_path: Path) -> None:
    trace = tmp_path / "run.jsonl"
    assert gristmill("run", "few_shot", "--input", "text=Dull.", "--trace", str(trace)).returncode == 0
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "run_started",
        "step_started",
        "model_called",
        "step_finished",
        "run_finished",
    ]
    finished = events[3]
    assert finished["inputs"]["messages"][-1] == {"role": "user", "content": "Dull."}
    assert finished["output"]["text"] in ("positive", "negative")
    assert finished["usage"]["prompt_tokens"] > 50


def test_a_lock_refuses_what_differs(tmp_path: Path) -> None:
    recipe = tmp_path / "locked.yaml"
    recipe.write_text("version: 1\nmodels: {main: {use: llama}}\nsteps:\n  a: {prompt: Say yes., max_tokens: 3}\n")
    assert gristmill("lock", "./locked.yaml", cwd=tmp_path).returncode == 0
    assert gristmill("run", "./locked.yaml", cwd=tmp_path).returncode == 0
    lock = tmp_path / "locked.lock.json"
    pins = json.loads(lock.read_text())
    pins["pins"]["models.main.model"] = "0" * 64
    lock.write_text(json.dumps(pins))
    refused = gristmill("run", "./locked.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "models.main.model: locked 000000000000…, now " in refused.stderr


def test_every_command_shows_help_and_the_module_runs_too() -> None:
    for command in ("run", "check", "schema", "graph", "list", "plugins", "doctor", "lock", "test", "cache", "new"):
        assert gristmill(command, "--help").returncode == 0
    assert gristmill("--version").stdout.startswith("gristmill ")
    assert "quickstart" in gristmill("list").stdout
    assert "text.split" in gristmill("plugins").stdout
    doctor = gristmill("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "plugin llama" in doctor.stdout


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A run in the middle of its answer, in a process group of its own, and its engine."""
    (tmp_path / "long.yaml").write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, "-m", "gristmill", "run", "./long.yaml", "--no-cache", "--trace", "trace.jsonl"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, _engine_of(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _engine_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Wait until the engine has been busy for a while, so that it is in mid-answer."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children(recursive=True):
            if "_engine" in " ".join(child.cmdline()) and sum(child.cpu_times()[:2]) > 3:
                return child
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError("no engine was started")


def test_a_killed_engine_is_a_typed_error_and_the_next_run_works(
    long_run: tuple[subprocess.Popen[str], psutil.Process],
) -> None:
    process, engine = long_run
    engine.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "SIGKILL" in errors
    assert "Traceback" not in errors
    assert gristmill("run", "quickstart", "--input", QUESTION).returncode == 0


def test_an_interrupt_ends_a_run_cleanly_and_leaves_no_process(
    long_run: tuple[subprocess.Popen[str], psutil.Process],
) -> None:
    process, engine = long_run
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "story: cancelled, the run was stopped" in errors
    assert "Traceback" not in errors
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_a_killed_host_takes_its_engine_with_it(long_run: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    process, engine = long_run
    process.kill()
    psutil.wait_procs([engine], timeout=60)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
