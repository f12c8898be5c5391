"""The training loop: factors on a frozen base, AdamW, a cosine schedule, checkpoints.

It reads no data and judges no answers. Invariants: what is kept on disk is safetensors and JSON, and a checkpoint has
its name only once it is whole; a run that was killed and goes on computes what it would have computed (same batches,
same schedule; only a limit in minutes makes it depend on the clock).

LoRA: Hu et al. 2021. Rank-stabilised: Kalajdzievski 2023. 4-bit base (nf4): Dettmers et al. 2023, QLoRA, section 3.
Warm-up and cosine: Loshchilov & Hutter 2017, without restarts.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gristmill_plugins.adapters._curve import Curve
from gristmill_plugins.adapters._plan import TrainOptions, n_steps
from gristmill_plugins.adapters._tokens import Sequenced

PLAIN_HEADS = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma")
"""Kinds of model whose logits are the output matrix times the last hidden state, and nothing else."""
MOST_HELD_OUT = 64
"""Held-out examples whose loss is taken at each evaluation: a loss needs fewer than an accuracy."""

Stop = Literal["steps", "minutes", "patience", "cancelled"]


@dataclass(slots=True)
class Progress:
    """Where a run stands; all of it is in a checkpoint's state.json."""

    step: int = 0
    elapsed_s: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    n_worse: int = 0
    """Evaluations since the best one."""
    first_loss: float = math.inf
    """On the held-out part, before any training."""


@dataclass(slots=True)
class Loop:
    """One training run; `model` is a PEFT model whose factors alone are trainable."""

    model: Any
    train: Sequence[Sequenced]
    held: Sequence[Sequenced]
    options: TrainOptions
    folder: Path
    curve: Curve
    on_step: Callable[[int, int, float, float | None], None]
    """Called with the step, how many there are, its loss, and after an evaluation the held-out loss."""
    cancelled: Callable[[], bool] = lambda: False
    progress: Progress = field(default_factory=Progress)

    # The run

    def run(self) -> Stop:
        """Train until one of the ends is reached; the best factors are then in the model and in `best.safetensors`."""
        import torch

        steps = n_steps(len(self.train), self.options)
        every = max(1, steps // max(1, self.options.evaluations))
        optimiser = torch.optim.AdamW(self._factors().values(), lr=self.options.learning_rate, weight_decay=0.0)
        self._resume(optimiser)
        if not self.progress.step:
            self.progress.first_loss = self.progress.best_loss = self.evaluate()
            self.curve.add(step=0, held_out=self.progress.first_loss)
            self._save_best()
        self.model.train()
        end = (self._end(steps) or self._impatient()) if self.progress.step else None  # it may have been over already
        while end is None:
            began = time.monotonic()
            loss = self._step(optimiser, steps)
            self.progress.step += 1
            self.progress.elapsed_s += time.monotonic() - began
            self.curve.add(step=self.progress.step, loss=loss)
            end = self._end(steps)
            held = self._judge() if end or self.progress.step % every == 0 else None
            end = end or self._impatient()
            self.on_step(self.progress.step, steps, loss, held)
            if end or held is not None or self.progress.step % self.options.checkpoint_every == 0:
                self._save(optimiser)
        self._load_factors(self.folder / "best.safetensors")
        return end

    def _step(self, optimiser: Any, steps: int) -> float:
        import torch

        done = self._done(steps)
        for group in optimiser.param_groups:
            group["lr"] = self.options.learning_rate * schedule(done, self.options.warmup)
        first = self.progress.step * self.options.accumulate
        batches = [self._batch(first + part) for part in range(self.options.accumulate)]
        n_tokens = sum(len(one.ids) - one.start for batch in batches for one in batch)
        total = 0.0
        for batch in batches:
            loss = self._loss(batch) / n_tokens
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self._factors().values(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return total

    def _done(self, steps: int) -> float:
        """Return how much of the run is over, by steps or by the clock, whichever is further."""
        share = self.progress.step / steps
        if self.options.minutes is not None:
            share = max(share, self.progress.elapsed_s / (60 * self.options.minutes))
        return min(1.0, share)

    def _end(self, steps: int) -> Stop | None:
        if self.progress.step >= steps:
            return "steps"
        if self._done(steps) >= 1:
            return "minutes"
        return "cancelled" if self.cancelled() else None

    def _impatient(self) -> Stop | None:
        return "patience" if 0 < self.options.patience <= self.progress.n_worse else None

    def _batch(self, number: int) -> list[Sequenced]:
        """Return one batch of the run; alike in length, in an order that the seed and the epoch decide."""
        per_epoch = math.ceil(len(self.train) / self.options.batch)
        order = batches_of_epoch([len(one.ids) for one in self.train], self.options, number // per_epoch)
        return [self.train[index] for index in order[number % per_epoch]]

    # Losses

    def _loss(self, batch: Sequence[Sequenced]) -> Any:
        """Return the summed cross-entropy of a batch in nats; only where a loss is due are logits computed."""
        import torch

        device = next(self.model.parameters()).device
        longest = max(len(one.ids) for one in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        due = torch.zeros((len(batch), longest - 1), dtype=torch.bool)
        for row, one in enumerate(batch):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
            mask[row, : len(one.ids)] = 1
            due[row, one.start - 1 : len(one.ids) - 1] = True
        ids, mask, due = ids.to(device), mask.to(device), due.to(device)
        base = self.model.get_base_model()
        if base.config.model_type in PLAIN_HEADS:
            hidden = base.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = base.get_output_embeddings()(hidden[:, :-1][due])
        else:
            logits = base(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][due]
        return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][due], reduction="sum")

    def evaluate(self) -> float:
        """Return the mean loss a token on the held-out part."""
        import torch

        self.model.eval()
        held = sorted(self.held[:MOST_HELD_OUT], key=lambda one: len(one.ids))
        total = 0.0
        with torch.no_grad():
            for at in range(0, len(held), self.options.batch):
                total += float(self._loss(held[at : at + self.options.batch]))
        self.model.train()
        return total / sum(len(one.ids) - one.start for one in held)

    def _judge(self) -> float:
        loss, now = self.evaluate(), self.progress
        self.curve.add(step=now.step, held_out=loss)
        if loss < now.best_loss:
            now.best_loss, now.best_step, now.n_worse = loss, now.step, 0
            self._save_best()
        else:
            now.n_worse += 1
        return loss

    # Checkpoints

    def _factors(self) -> dict[str, Any]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def _save_best(self) -> None:
        from safetensors.torch import save_file

        temporary = self.folder / "best.part"
        save_file({name: value.detach().cpu().contiguous() for name, value in self._factors().items()}, str(temporary))
        os.replace(temporary, self.folder / "best.safetensors")

    def _load_factors(self, path: Path) -> None:
        import torch
        from safetensors.torch import load_file

        found = load_file(str(path))
        with torch.no_grad():
            for name, value in self._factors().items():
                value.copy_(found[name])

    def _save(self, optimiser: Any) -> None:
        """Write a checkpoint under its name in one move, then remove the one before."""
        import torch
        from safetensors.torch import save_file

        temporary = self.folder / "checkpoint.part"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        tensors = {"random": torch.get_rng_state()}
        for name, value in self._factors().items():
            state = optimiser.state[value]
            tensors[f"factor/{name}"] = value.detach().cpu().contiguous()
            tensors[f"mean/{name}"] = state["exp_avg"].cpu().contiguous()
            tensors[f"square/{name}"] = state["exp_avg_sq"].cpu().contiguous()
        save_file(tensors, str(temporary / "tensors.safetensors"))
        state = {name: getattr(self.progress, name) for name in Progress.__slots__}
        (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        os.rename(temporary, self.folder / f"checkpoint-{self.progress.step:07}")
        for old in checkpoints(self.folder)[:-1]:
            shutil.rmtree(old, ignore_errors=True)

    def _resume(self, optimiser: Any) -> None:
        import torch
        from safetensors.torch import load_file

        found = checkpoints(self.folder)
        self.curve.resume(checkpoint_step(found[-1]) if found else -1)
        if not found:
            return
        state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
        self.progress = Progress(**state)
        tensors = load_file(str(found[-1] / "tensors.safetensors"))
        torch.set_rng_state(tensors["random"])
        with torch.no_grad():
            for name, value in self._factors().items():
                value.copy_(tensors[f"factor/{name}"])
                optimiser.state[value] = {
                    "step": torch.tensor(float(self.progress.step)),
                    "exp_avg": tensors[f"mean/{name}"].to(value.device),
                    "exp_avg_sq": tensors[f"square/{name}"].to(value.device),
                }


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if (path / "state.json").is_file())


def checkpoint_step(path: Path) -> int:
    """Return the step that a checkpoint was taken after."""
    return int(path.name.rpartition("-")[2])


def schedule(done: float, warmup: float) -> float:
    """Return the learning rate as a share of its highest: a straight rise, then half a cosine down to 0."""
    if done < warmup:
        return max(done / warmup, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def batches_of_epoch(lengths: Sequence[int], options: TrainOptions, epoch: int) -> list[list[int]]:
    """Return the indices of each batch of an epoch: shuffled, then sorted by length within 32 batches, so that little
    is padded; the batches themselves come in any order."""
    chance = random.Random(f"{options.seed}/{epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches = list(_sorted_batches(order, lengths, options.batch))
    chance.shuffle(batches)
    return batches


def _sorted_batches(order: list[int], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    for at in range(0, len(order), 32 * size):
        pool = sorted(order[at : at + 32 * size], key=lambda index: lengths[index])
        for start in range(0, len(pool), size):
            yield pool[start : start + size]
