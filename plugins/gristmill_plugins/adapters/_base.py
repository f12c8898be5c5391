"""The base model that is trained on, read from the GGUF itself and given factors.

It downloads nothing: transformers dequantises the file. Invariant: only the factors can be trained.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

from gristmill import FunctionError, UsageError
from gristmill_plugins.adapters._plan import TrainOptions

NEEDS = 'pip install "gristmill[train]" (a CPU build of torch first, where there is no GPU: pip install torch --index-url https://download.pytorch.org/whl/cpu)'  # noqa: E501


def require_extra() -> None:
    """Raise a UsageError where torch, transformers or peft is not installed."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"training needs {', '.join(missing)}, which is not installed", hint=NEEDS)


def device_and_precision(asked: str) -> tuple[str, str]:
    """Return where a run computes and in what, for a precision of auto, float32, bfloat16 or nf4.

    Raises:
        UsageError: nf4 was asked for, and bitsandbytes is not installed.
    """
    device = "cpu"
    if importlib.util.find_spec("torch") is not None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("nf4 needs bitsandbytes, which is not installed", hint="pip install bitsandbytes")
    if asked == "auto":
        asked = "bfloat16" if device == "cuda" or _multiplies_bfloat16() else "float32"
    return device, asked


def _multiplies_bfloat16() -> bool:
    """Return whether the processor has instructions for bfloat16 products (Linux says so in /proc/cpuinfo)."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        return False
    return bool(flags and {"avx512_bf16", "amx_bf16", "bf16"} & set(flags[1].split()))


def load_base(path: Path, options: TrainOptions, *, device: str, precision: str, layers: list[int]) -> Any:
    """Return the base with untrained factors (their change is zero) on `device`.

    Raises:
        FunctionError: transformers cannot read this kind of GGUF.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    torch.manual_seed(options.seed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    try:
        base = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=dtype, local_files_only=True, **_dequantised()
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise FunctionError(f"transformers cannot read {path} to train on it: {error}") from error
    if precision == "nf4":
        _to_nf4(base)
    base = base.to(device)
    base.config.use_cache = False
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, use_rslora=options.rslora,
        target_modules=list(options.targets), layers_to_transform=layers, bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(base, config)


def _dequantised() -> dict[str, Any]:
    """Return what makes transformers unpack every weight; since 5.23 it would look for kernels on the hub first."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _to_nf4(model: Any) -> None:
    """Put every matrix but the output's into 4 bits (NormalFloat), which are multiplied in bfloat16."""
    import bitsandbytes as bnb  # type: ignore[import-not-found, unused-ignore]
    import torch

    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                made = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, child.bias is not None,
                    compute_dtype=torch.bfloat16, quant_type="nf4",
                )  # fmt: skip
                made.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
                if child.bias is not None:
                    made.bias = child.bias
                setattr(parent, name, made)
    model.is_loaded_in_4bit = True
