"""Local GGUF models, run by llama.cpp in a process of their own.

Importing this package imports neither llama_cpp nor numpy and reads no file. Invariant: declaring a model is
cheap; its first call pays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from gristmill import DoctorLine, ModelFile, UsageError, model_provider

if TYPE_CHECKING:
    from gristmill import Model

__all__ = ["LlamaPlugin"]

AdapterSpec = str | dict[str, Any]
Share = Annotated[float, Field(ge=0)]


class LlamaPlugin:
    """Runs GGUF models on this machine with llama.cpp, each in a process of its own."""

    @model_provider
    def llama(
        self,
        *,
        model: Annotated[
            ModelFile, Field(description="smollm2 (bundled), a path to a GGUF file, or hf:owner/repo/file.gguf")
        ] = "smollm2",
        sha256: Annotated[str | None, Field(description="What the file's SHA-256 must be, in hex")] = None,
        context_tokens: Annotated[
            int | None, Field(ge=16, description="Longest prompt plus answer; default: the model's own, at most 8192")
        ] = None,
        cache_tokens: Annotated[
            int | None, Field(ge=16, description="Tokens that all running and remembered prompts share room for")
        ] = None,
        gpu_layers: Annotated[
            int | Literal["auto"], Field(description="Layers on the GPU; auto: all where the build can")
        ] = "auto",
        split: Annotated[
            Sequence[Share] | None,
            Field(max_length=16, description="Each GPU's share of the model, such as [3, 1]; default: by memory"),
        ] = None,
        flash_attention: Annotated[
            Literal["auto", "on", "off"], Field(description="auto: where the backend has it; never if reproducible")
        ] = "auto",
        cache_type: Annotated[
            Literal["f16", "f32", "q8_0"], Field(description="Of the key-value cache; q8_0 halves it, at some loss")
        ] = "f16",
        threads: Annotated[int | None, Field(ge=1, le=512, description="Default: the physical cores")] = None,
        batch_tokens: Annotated[
            int | None, Field(ge=32, le=8192, description="Tokens read at once; `gristmill model tune` measures it")
        ] = None,
        adapters: Annotated[
            Mapping[str, AdapterSpec] | None,
            Field(description="LoRA adapters on offer: {name: path} or {name: {path: ..., scale: ...}}"),
        ] = None,
        max_running: Annotated[int, Field(ge=1, le=127, description="Sequences decoded together")] = 32,
        max_waiting: Annotated[int, Field(ge=1, description="Requests that may wait before the model is busy")] = 1024,
        reproducible: Annotated[
            bool, Field(description="Same numbers alone and in a batch; a lone stream runs at half the speed")
        ] = False,
        prefix_disk_mb: Annotated[
            int, Field(ge=0, description="Keep long prompts' state on disk, up to so many MB; the next run reads it")
        ] = 0,
        prompt_lookup: Annotated[
            Literal["auto", "on", "off"],
            Field(
                description="Guess greedy answers ahead from their prompt; auto: while few run; never if reproducible"
            ),
        ] = "auto",
        use_mmap: Annotated[bool, Field(description="Map the file; off: read it into memory")] = True,
    ) -> Model:
        """A GGUF model run by llama.cpp on this machine."""
        from gristmill_plugins.llama._client import AdapterFile, LlamaModel, LlamaOptions

        if cache_type == "q8_0" and (reproducible or flash_attention == "off"):
            off = "reproducible turns off" if reproducible else "is off"
            raise UsageError(f"cache_type: q8_0 needs flash attention, which {off}", hint="take cache_type: f16")
        offered = {name: AdapterFile(**_adapter_fields(spec)) for name, spec in (adapters or {}).items()}
        return LlamaModel(
            LlamaOptions(
                model=model,
                sha256=sha256,
                context_tokens=context_tokens,
                cache_tokens=cache_tokens,
                gpu_layers=gpu_layers,
                split=tuple(split or ()),
                flash_attention=flash_attention,
                cache_type=cache_type,
                threads=threads,
                batch_tokens=batch_tokens,
                adapters=offered,
                max_running=max_running,
                max_waiting=max_waiting,
                reproducible=reproducible,
                use_mmap=use_mmap,
                prefix_disk_mb=prefix_disk_mb,
                prompt_lookup=prompt_lookup,
            )
        )

    def doctor(self) -> list[DoctorLine]:
        """Return what `gristmill doctor` says of llama.cpp and its model files."""
        from gristmill_plugins.llama._doctor import examine

        return list(examine())

    def pull_model(
        self, name: str, *, sha256: str | None = None, on_progress: Callable[[int, int | None], None]
    ) -> Path:
        """Fetch an `hf:` file into the store, for `gristmill model pull`."""
        from gristmill_plugins.llama._files import pull

        return pull(name, sha256=sha256, on_progress=on_progress)

    def list_models(self) -> list[dict[str, Any]]:
        """Return the models on this machine, for `gristmill model list`."""
        from gristmill_plugins.llama._tools import list_models

        return list_models()

    def describe_model(self, name: str) -> dict[str, Any]:
        """Return what a model file says of itself, for `gristmill model info`."""
        from gristmill_plugins.llama._tools import describe

        return describe(name)

    def read_gguf(self, name: str | Path) -> dict[str, Any]:
        """Return what the header of any GGUF file says, as data; no count or offset in it leads out of the file."""
        from gristmill_plugins.llama._tools import read_gguf

        return read_gguf(str(name))

    def check_adapter(self, path: str | Path, *, base: str) -> None:
        """Refuse a LoRA adapter that is damaged or does not fit a model, as a load would."""
        from gristmill_plugins.llama._tools import check_adapter

        check_adapter(path, base)

    def quantize_model(self, name: str, *, to: str, output: Path | None = None) -> Path:
        """Write a model in another format, for `gristmill model quantize`."""
        from gristmill_plugins.llama._tools import quantize

        return quantize(name, to, output)

    def tune_model(
        self,
        name: str,
        *,
        text: Path,
        formats: Sequence[str] | None = None,
        max_loss: float,
        write: Path | None = None,
        on_step: Callable[[str], None],
    ) -> dict[str, Any]:
        """Measure a model's formats and settings on this machine, for `gristmill model tune`."""
        from gristmill_plugins.llama._tune import FORMATS, tune

        return tune(name, text, formats=formats or FORMATS, write=write, max_loss=max_loss, on_step=on_step)


def _adapter_fields(spec: AdapterSpec) -> dict[str, Any]:
    """Return path and scale of an adapter declared in either form."""
    return dict(spec) if isinstance(spec, Mapping) else {"path": str(Path(spec))}
