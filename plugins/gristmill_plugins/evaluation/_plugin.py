"""The `evaluation` plugin: one metric as a step; the commands that measure recipes are in `_commands`.

Evaluating, comparing and running recipes on many rows is done from outside a recipe, by commands; inside one there is
`evaluation.score`, for a recipe that judges its own answer. Invariant: a metric has one definition, used by both.
"""

from __future__ import annotations

from typing import Annotated

from gristmill import FunctionError, function


class EvaluationPlugin:
    """Measures recipes on data and compares them."""

    plugin_api = 1

    @function(pure=True)
    def score(
        self,
        answer: Annotated[str, "What was answered."],
        expected: Annotated[list[str], "Every answer that counts as right; the best score counts."],
        *,
        metric: Annotated[str, "A metric of single answers, such as f1, exact_match, rouge_l or numeric_match."],
    ) -> float:
        """Return how well an answer fits what was expected, from 0 to 1."""
        from gristmill_plugins.evaluation._metrics import find_metrics
        from gristmill_plugins.evaluation._samples import Sample

        found = find_metrics([metric])[0]
        if found.row is None or not set(found.needs) <= {"expected"}:
            raise FunctionError(f"{metric!r} needs more than one answer and what was expected")
        return found.row(Sample(answer, tuple(expected))) or 0.0
