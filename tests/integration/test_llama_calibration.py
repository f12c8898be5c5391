"""Calibrated choices on the bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill import Kernel


def test_calibration_evens_out_what_the_model_likes_anyway(tmp_path: Path) -> None:
    """Asked nothing at all, an uncalibrated model has its favourite, and a calibrated one has none."""
    head = "version: 1\nmodels: {main: {use: llama, context_tokens: 512}}\ninputs: {q: string}\nsteps:\n"
    step = "{prompt: '${inputs.q}', choices: [good, dreadful]"
    (tmp_path / "r.yaml").write_text(
        f"{head}  plain: {step}}}\n  fair: {step}, calibrate: true}}\noutput: ['${{plain}}', '${{fair}}']\n"
    )
    with Kernel() as kernel:
        recipe = kernel.recipe(tmp_path / "r.yaml")
        plain, fair = recipe.run(q="N/A").output
        asked, asked_fair = recipe.run(q="What a wonderful film! Is it good or dreadful?").output
    assert max(plain.probabilities.values()) > 0.6
    assert fair.probabilities == pytest.approx({"good": 0.5, "dreadful": 0.5})
    ratios = [asked.probabilities[label] / plain.probabilities[label] for label in ("good", "dreadful")]
    assert asked_fair.probabilities["good"] == pytest.approx(ratios[0] / sum(ratios), abs=0.02)
