"""Every plugin that ships passes the contract that third parties are held to, through the same door."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from gristmill._registry import GROUP
from gristmill.testing import check_plugin

OURS = [point for point in importlib.metadata.entry_points(group=GROUP) if point.value.startswith("gristmill_plugins.")]


@pytest.mark.parametrize("point", {point.name: point for point in OURS}.values(), ids=lambda point: point.name)
def test_a_built_in_plugin_keeps_the_contract(point: importlib.metadata.EntryPoint) -> None:
    spec = check_plugin(point.name, point.load())
    assert spec.functions or spec.providers


def test_reading_every_plugins_signatures_imports_no_heavy_library() -> None:
    program = (
        "import sys\nfrom gristmill import Kernel\n"
        "assert not [row.error for row in Kernel(cache=False).registry.status() if row.error]\n"
        "heavy = 'semantic_kernel llama_cpp llama_index sklearn torch ray numpy jsonschema'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
