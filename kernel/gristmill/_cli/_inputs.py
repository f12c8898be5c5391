"""Reads what the command line says about inputs and overrides, by the types that the recipe declares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill._errors import UsageError, suggest
from gristmill._language._recipe import Recipe
from gristmill._language._types import Type
from gristmill._language._yaml import ListNode, MapNode, Node, Scalar, parse_yaml

if TYPE_CHECKING:
    from gristmill._kernel import Kernel


def read_inputs(recipe: Recipe, pairs: list[str], file: Path | None) -> dict[str, Any]:
    """Return the inputs given as NAME=VALUE and in a file; the former win.

    Raises:
        UsageError: a pair is malformed, a name unknown, or a file unreadable.
    """
    values = _from_file(file) if file else {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--input {pair!r} is not NAME=VALUE", hint=f"write --input {pair}=...")
        declared = recipe.inputs.get(name)
        if declared is None:
            hint = suggest(name, recipe.inputs) if recipe.inputs else "it takes none"
            raise UsageError(f"recipe {recipe.name!r} has no input {name!r}", hint=hint)
        values[name] = _value(name, text, declared.type)
    return values


def _value(name: str, text: str, declared: Type) -> Any:
    if declared.kind == "path":
        return text
    if text.startswith("@@"):
        text = text[1:]
    elif text.startswith("@"):
        path = Path(text[1:])
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--input {name}=@{path}: {error}", hint="write @@ for a text that begins with @"
            ) from error
    return text if declared.kind == "string" else _parse(f"--input {name}", text)


def read_document(path: Path) -> dict[str, Any]:
    """Return a YAML or JSON file that holds a mapping, read as recipes are.

    Raises:
        UsageError: it cannot be read, is no YAML (with line and column), or no mapping.
    """
    try:
        values = _parse(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: it cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no mapping of keys to values")
    return values


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = _parse(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--input-file {path}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--input-file {path} is not a mapping of inputs")
    return values


def _parse(where: str, text: str) -> Any:
    document = parse_yaml(where, text.encode())
    errors = [diagnostic for diagnostic in document.diagnostics if diagnostic.severity == "error"]
    if errors or document.root is None:
        told = errors[0].render() if errors else f"{where}: nothing is given"
        raise UsageError(told)
    return _data(document.root)


def _data(node: Node) -> Any:
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, ListNode):
        return [_data(item) for item in node.items]
    assert isinstance(node, MapNode)
    return {key: _data(value) for key, (_, value) in node.entries.items()}


def read_overrides(kernel: Kernel, recipe: str, models: list[str] | None, settings: list[str] | None) -> dict[str, str]:
    """Return the overrides that `--model` and `--set` ask for.

    Raises:
        UsageError: one is malformed, or `--model FILE` where there is not one model.
    """
    overrides = {}
    for setting in settings or ():
        path, equals, value = setting.partition("=")
        if not equals or path.count(".") < 1:
            raise UsageError(f"--set {setting!r} is not STEP.KEY=VALUE", hint="--set answer.temperature=0.7")
        overrides[path] = value
    if models:
        declared = list(kernel.check(recipe).models)
        for model in models:
            name, file = _model_override(model, declared)
            overrides[f"models.{name}.model"] = _quoted(file)
    return overrides


def _model_override(text: str, declared: list[str]) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if equals and name in declared:
        return name, file
    if len(declared) != 1:
        hint = f"write --model NAME={text}; {suggest(name, declared)}" if declared else "it declares none"
        raise UsageError(f"--model {text!r}: the recipe has {len(declared)} models", hint=hint)
    return declared[0], text


def _quoted(file: str) -> str:
    from gristmill._language._check_declarations import is_model_path

    path = str(Path(file).absolute()) if is_model_path(file) else file
    return "'" + path.replace("'", "''") + "'"
