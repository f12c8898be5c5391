"""What an adapter file says of itself, and whether it fits a base model.

It changes nothing and starts no engine. Invariant: whatever the file holds, the answer is facts or a reason in words.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from gristmill import GristmillError, Value
from gristmill_plugins.adapters._adapter import Adapter, read_adapter
from gristmill_plugins.adapters._llama import llama


class AdapterInfo(Value):
    """An adapter file."""

    text_field = "path"

    path: str
    name: str = ""
    architecture: str = ""
    """Of the base model that it was made for."""
    base: str = ""
    """The base model's name, where the file has it."""
    ranks: tuple[int, ...] = ()
    """Every rank that one of its pairs has, smallest first."""
    alpha: float = 0.0
    targets: dict[str, int] = {}
    """Kind of matrix ("attn_q") to how many of them it changes."""
    format: str = ""
    n_parameters: int = 0
    size_bytes: int = 0
    sha256: str = ""
    changes: bool = True
    """False where every change is zero: an adapter that was not trained."""
    error: str = ""
    """Why the file cannot be used; then nothing else is known."""


class Verdict(Value):
    """Whether an adapter can be used with a base model."""

    text_field = "reason"

    path: str
    base: str
    fits: bool
    reason: str
    """Everything that is wrong, or that nothing is."""
    hint: str = ""


def inspect_adapter(path: str | Path) -> AdapterInfo:
    """Return what a file says; its numbers are read as well.

    Raises:
        ModelError: it is no LoRA adapter in GGUF, or a damaged one.
    """
    adapter = read_adapter(path)
    facts = adapter.facts
    sizes: Counter[str] = Counter()
    for tensor in facts["tensors"]:
        sizes[tensor["type"]] += tensor["size_bytes"]
    return AdapterInfo(
        path=str(path),
        name=adapter.name,
        architecture=adapter.architecture,
        base=str(facts["metadata"].get("general.base_model.0.name", "")),
        ranks=tuple(sorted({pair.rank for pair in adapter.pairs.values()})),
        alpha=adapter.alpha,
        targets=dict(Counter(_kind(target) for target in adapter.pairs)),
        format=sizes.most_common(1)[0][0],
        n_parameters=sum(pair.a.size + pair.b.size for pair in adapter.pairs.values()),
        size_bytes=facts["size_bytes"],
        sha256=facts["sha256"],
        changes=changes_anything(adapter),
    )


def _kind(target: str) -> str:
    """Return the part of a tensor's name that its layers have in common."""
    parts = target.removesuffix(".weight").split(".")
    return ".".join(part for part in parts if part != "blk" and not part.isdigit())


def changes_anything(adapter: Adapter) -> bool:
    """Return whether any pair has two factors that are not zero."""
    return any(pair.a.any() and pair.b.any() for pair in adapter.pairs.values())


def verify_adapter(path: str | Path, base: str) -> Verdict:
    """Return whether an adapter can be loaded beside a base model; never raises for what the adapter holds.

    Raises:
        ModelError: the base model itself cannot be read.
    """
    plugin = llama()
    plugin.read_gguf(base)
    try:
        plugin.check_adapter(path, base=base)
        adapter = read_adapter(path)
    except GristmillError as error:
        return Verdict(path=str(path), base=base, fits=False, reason=error.message, hint=error.hint or "")
    if not changes_anything(adapter):
        reason = f"{path}: every change it makes is zero: it was not trained"
        return Verdict(path=str(path), base=base, fits=False, reason=reason, hint="train it, or convert it again")
    n = len(adapter.pairs)
    return Verdict(path=str(path), base=base, fits=True, reason=f"{path}: its {n} pairs fit {base}")


def list_adapters(folder: str | Path) -> list[AdapterInfo]:
    """Return the adapters of one folder by name; GGUF files of other kinds are left out, broken ones tell why.

    Raises:
        UsageError: there is no such folder.
    """
    found = []
    for path in sorted(_existing(Path(folder)).glob("*.gguf")):
        try:
            if llama().read_gguf(path)["metadata"].get("general.type") == "adapter":
                found.append(inspect_adapter(path))
        except GristmillError as error:
            found.append(AdapterInfo(path=str(path), error=error.message))
    return found


def _existing(folder: Path) -> Path:
    from gristmill import UsageError

    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="name a folder with adapter files")
    return folder
