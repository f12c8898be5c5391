"""The `adapters` plugin: LoRA adapters as files: inspect, verify, convert, blend, merge, train.

It applies none: an adapter is loaded beside its base by the model that declares it, and a step names it. Importing this
package imports neither numpy nor torch. Invariant: whatever an adapter file holds, the answer is a value or an error in
words; nothing native sees a file that was not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill import Context, FunctionError, ModelRef, Value, function
from gristmill_plugins.adapters._advise import Advice
from gristmill_plugins.adapters._inspect import AdapterInfo, Verdict
from gristmill_plugins.adapters._plan import ALL_LINEAR, TrainOptions, TrainPlan
from gristmill_plugins.adapters._train import TrainReport

__all__ = ["AdaptersPlugin"]

AdapterFile = Annotated[Path, "An adapter in GGUF."]
Base = Annotated[ModelRef, "The model that it is for."]
Output = Annotated[Path, "The file to write; there must be none."]
Format = Annotated[Literal["F32", "F16"], "F16 is half the size."]
DataFile = Annotated[Path, "A .csv or .jsonl file with a row for each example."]
PromptTemplate = Annotated[str, "Made of each row; a column is $${name}."]
CompletionTemplate = Annotated[str, "What is to be answered."]


class Offered(Value):
    """An adapter that a model of the recipe has."""

    text_field = "name"

    name: str
    sha256: str


class AdaptersPlugin:
    """LoRA adapters: inspect, verify, convert, blend, merge, train, and when to."""

    plugin_api = 1

    @function
    async def list(self, context: Context, *, model: Base) -> list[Offered]:
        """Return the adapters that a model offers to steps, with the digests of their files."""
        pins = context.model(model).model.pins()
        return [Offered(name=role[8:], sha256=digest) for role, digest in pins.items() if role.startswith("adapter:")]

    @function(pure=True)
    def inspect(self, path: AdapterFile) -> AdapterInfo:
        """Return what an adapter file holds."""
        from gristmill_plugins.adapters._inspect import inspect_adapter

        return inspect_adapter(path)

    @function
    def verify(self, path: AdapterFile, context: Context, *, model: Base) -> Verdict:
        """Say whether an adapter is sound and fits a model, with the reason."""
        from gristmill_plugins.adapters._inspect import verify_adapter

        return verify_adapter(path, base_of(context, model))

    @function(writes=True)
    def convert(
        self, folder: Annotated[Path, "What PEFT's save_pretrained wrote."], output: Output, context: Context, *,
        model: Base, format: Format = "F32",
    ) -> AdapterInfo:  # fmt: skip
        """Convert a PEFT adapter (safetensors) to GGUF, without torch."""
        from gristmill_plugins.adapters._convert import convert_adapter

        return convert_adapter(folder, base_of(context, model), output, type=format)

    @function(writes=True)
    def blend(
        self, files: Annotated[dict[str, float], "Adapter file to its weight."], output: Output, context: Context, *,
        format: Format = "F32",
    ) -> AdapterInfo:  # fmt: skip
        """Make one adapter whose change is the weighted sum of several; exact, its rank is their sum."""
        from gristmill_plugins.adapters._blend import blend_adapters
        from gristmill_plugins.adapters._inspect import inspect_adapter

        return inspect_adapter(blend_adapters(_inside(context, files), output, type=format))

    @function(writes=True)
    def merge(
        self, files: Annotated[dict[str, float], "Adapter file to its weight."], output: Output, context: Context, *,
        model: Base,
        format: Annotated[str | None, "By default the model's own, at least Q8_0."] = None,
    ) -> str:  # fmt: skip
        """Write a model with adapters folded into its weights, and return the file's path."""
        from gristmill_plugins.adapters._blend import merge_adapters

        return str(merge_adapters(base_of(context, model), _inside(context, files), output, format=format))

    @function
    def advise(
        self,
        data: DataFile,
        *,
        prompt: PromptTemplate = "${prompt}",
        completion: CompletionTemplate = "${completion}",
        measured: Annotated[dict[str, float] | None, "prompting, retrieval, fine-tuning: accuracies, if known."] = None,
        n_measured: Annotated[int, "On how many examples."] = 0,
    ) -> Advice:
        """Say whether prompting, retrieval or fine-tuning fits a task, and why."""
        from gristmill_plugins.adapters._advise import advise
        from gristmill_plugins.adapters._examples import Columns, read_examples

        return advise(read_examples(data, Columns(prompt, completion)), measured, n_measured)

    @function
    async def plan(
        self, data: DataFile, output: Output, context: Context, *,
        model: Base,
        options: Annotated[dict[str, Any] | None, "As `train` takes them."] = None,
    ) -> TrainPlan:  # fmt: skip
        """Say what training would do: examples, steps, memory. Needs no torch."""
        from gristmill_plugins.adapters._train import prepare

        return (await prepare(base_of(context, model), data, output, options_of(options))).plan

    @function(writes=True)
    def train(
        self, data: DataFile, output: Output, context: Context, *,
        model: Base,
        test: Annotated[Path | None, "Measure on this file, not on a held-out part."] = None,
        options: Annotated[dict[str, Any] | None, "prompt, completion, system, rank, epochs, minutes, ..."] = None,
        restart: Annotated[bool, Field(description="Throw away what an earlier run of this output did.")] = False,
    ) -> TrainReport:  # fmt: skip
        """Train an adapter, convert it, and measure the model before and after; goes on where it was stopped."""
        from gristmill_plugins.adapters._train import train_adapter

        def on_step(step: int, steps: int, loss: float, held_out: float | None) -> None:
            if held_out is not None:
                context.note(f"step {step} of {steps}: loss {loss:.3f}, held out {held_out:.3f}")

        return train_adapter(
            base_of(context, model), data, output, options_of(options), test=test, restart=restart,
            on_step=on_step, on_stage=context.note, cancelled=lambda: context.cancelled,
        )  # fmt: skip


def base_of(context: Context, model: str) -> str:
    """Return the file of a model that the recipe declares.

    Raises:
        FunctionError: it is not a local model.
    """
    found = context.model(model).model
    if not found.holds_weights:
        raise FunctionError(
            f"{found.name} is no local model: adapters are files beside one", hint="declare `use: llama`"
        )
    return found.name


def options_of(given: Mapping[str, Any] | None) -> TrainOptions:
    """Return training options from a recipe's mapping; `targets` may be a list.

    Raises:
        FunctionError: there is no such option, or its value is of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    fields = dict(given or {})
    unknown = sorted(set(fields) - set(TrainOptions.__slots__))
    if unknown:
        known = ", ".join(TrainOptions.__slots__)
        raise FunctionError(f"{unknown[0]!r} is no option of training", hint=f"there are {known}")
    try:
        return TypeAdapter(TrainOptions).validate_python({"targets": ALL_LINEAR, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise FunctionError(f"the option {first['loc'][0]!r} is {first['input']!r}: {first['msg']}") from error


def _inside(context: Context, files: Mapping[str, float]) -> dict[str | Path, float]:
    return {context.path(path): weight for path, weight in files.items()}
