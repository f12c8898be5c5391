"""Find the format, threads and batch size with which a model runs best on this machine.

Every file is made and measured in a child process, one after another. It decides by numbers it returns, and never
replaces a model. Invariant: what is called chosen lost at most the divergence that was allowed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gristmill import UsageError
from gristmill_plugins.llama import _files, _gguf
from gristmill_plugins.llama._machine import default_threads
from gristmill_plugins.llama._tools import format_named, quantisation, quantize, run_job

FORMATS = ("Q8_0", "Q4_0", "Q4_K_M", "F16")
BATCHES = (128, 256, 512)
DEFAULT_BATCH = 256
"""What the engine decodes at once on a processor."""
N_REPEATS = 3
N_WINDOWS = 4
"""Windows of 512 tokens that are compared: the log-probabilities of half of them are kept on disk meanwhile."""
MAX_TEXT_BYTES = 10 << 20
MAX_LOSS = 0.05

OnStep = Callable[[str], None]


def tune(
    name: str,
    text: Path,
    *,
    formats: Sequence[str] = FORMATS,
    write: Path | None = None,
    max_loss: float = MAX_LOSS,
    on_step: OnStep = lambda _: None,
) -> dict[str, Any]:
    """Measure a model in several formats; return every number and the choice.

    Rows are the original and each format: size_bytes; prefill_per_s, batched_per_s (16 sequences) and single_per_s in
    tokens a second; perplexity on the text; kl_mean, the mean Kullback-Leibler divergence from the original in nats a
    token. The choice is the highest geometric mean of prefill and batched rate whose kl_mean is at most `max_loss`.

    Raises:
        UsageError: a format, the text or the output cannot be used.
        ModelError: the model cannot be read, or llama.cpp failed.
    """
    wanted = [format_named(each) for each in formats]
    content = _read_text(text)
    if write is not None and write.exists():
        raise UsageError(f"{write} exists already", hint="remove it, or name another file")
    source = _files.resolve(name)
    original = quantisation(_gguf.check_model(source))
    with tempfile.TemporaryDirectory(prefix="gristmill-tune-") as folder:
        bench = _Tuning(source, Path(folder), content, on_step)
        bench.add(original, source)
        for each in dict.fromkeys(wanted):
            if each != original:
                on_step(f"writing {each}")
                bench.add(each, quantize(str(source), each, Path(folder) / f"{each}.gguf"))
        chosen = choose(bench.rows, max_loss)
        settings = bench.settings(chosen)
        written = None
        if write is not None and chosen != original:
            written = str(quantize(str(source), chosen, write))
    return {
        "name": name, "original": original, "text": str(text), "n_scored": bench.rows[0]["n_scored"],
        "rows": bench.rows, "max_loss": max_loss, "chosen": chosen, "settings": settings, "written": written,
    }  # fmt: skip


def choose(rows: Sequence[dict[str, Any]], max_loss: float) -> str:
    """Return the fastest format among those that lost little enough; the original lost nothing."""
    fit = [row for row in rows if row["kl_mean"] <= max_loss]
    return str(max(fit, key=lambda row: row["prefill_per_s"] * row["batched_per_s"])["format"])


class _Tuning:
    """The files of one model and what was measured of them."""

    def __init__(self, source: Path, folder: Path, text: str, on_step: OnStep) -> None:
        self._source = source
        self._reference = str(folder / "reference.f32")
        self._text = text
        self._on_step = on_step
        self._paths: dict[str, Path] = {}
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, path: Path) -> None:
        """Measure one file; the first is what the others are compared with."""
        self._on_step(f"measuring {name}")
        found = self._measure(path, default_threads(), DEFAULT_BATCH, text=self._text)
        self._paths[name] = path
        self.rows.append({"format": name, "size_bytes": path.stat().st_size, **found})

    def settings(self, name: str) -> list[dict[str, Any]]:
        """Measure the rates of one file with other threads, then with other batch sizes."""
        cores = default_threads()
        rows = [self._setting(name, threads, DEFAULT_BATCH) for threads in sorted({1, max(1, cores // 2), cores})]
        best = max(rows, key=lambda row: row["prefill_per_s"] * row["batched_per_s"])["threads"]
        return rows + [self._setting(name, best, batch) for batch in BATCHES if batch != DEFAULT_BATCH]

    def _setting(self, name: str, threads: int, batch: int) -> dict[str, Any]:
        self._on_step(f"measuring {name} with {threads} threads, batches of {batch}")
        return {"threads": threads, "batch": batch, **self._measure(self._paths[name], threads, batch, text=None)}

    def _measure(self, path: Path, threads: int, batch: int, *, text: str | None) -> dict[str, Any]:
        job = {
            "job": "measure", "path": str(path), "threads": threads, "n_batch": batch, "use_extra_bufts": True,
            "text": text, "n_windows": N_WINDOWS, "n_repeats": N_REPEATS,
            "reference": self._reference, "writes_reference": not self.rows,
        }  # fmt: skip
        return run_job(job, model=str(self._source))


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise UsageError(f"{path} is larger than {MAX_TEXT_BYTES >> 20} MB", hint="a few pages are enough")
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", hint="convert it"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a text file with --text") from error
