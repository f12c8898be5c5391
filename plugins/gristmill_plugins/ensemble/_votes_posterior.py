"""How sure a count of votes is: the Beta posterior that one answer is truly more frequent than another.

After Aggarwal et al. 2023, Let's Sample Step by Step: Adaptive-Consistency, section 3 (their "Beta" criterion): with
a uniform prior over the share of the leader among votes for the leader and the runner-up. It needs no library.
"""

from __future__ import annotations

import math

STEPS = 400
PRECISION = 1e-14


def lead_is_real(leader: float, runner_up: float) -> float:
    """Return P(share of the leader > 1/2) after so many votes for it and for the runner-up, from 0 to 1.

    Counts may be fractions, as weighted votes are; equal ones give 0.5.
    """
    return 1.0 - regularized_beta(0.5, leader + 1.0, runner_up + 1.0)


def regularized_beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), by its continued fraction (Lentz's method)."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - regularized_beta(1.0 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    tiny = 1e-300
    f, c, d = 1.0, 1.0, 0.0
    for i in range(STEPS):
        m = i // 2
        if i == 0:
            numerator = 1.0
        elif i % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / ((1.0 + numerator * d) or tiny)
        c = (1.0 + numerator / c) or tiny
        f *= c * d
        if abs(1.0 - c * d) < PRECISION:
            break
    return math.exp(front) * (f - 1.0) / a
