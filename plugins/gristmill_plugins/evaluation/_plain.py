"""The JSON form of anything that a run hands out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePath
from typing import Any

from gristmill import Value


def jsonable(value: Any) -> Any:
    """Return JSON-ready data: values become objects, paths text, what is no number null; the rest is shown by type."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Value):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return jsonable(int(value) if whole else float(value))
    if isinstance(value, PurePath) or hasattr(value, "isoformat"):
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"<{type(value).__name__}>"
