"""How often an engine answers the same question differently by itself.

Slots that are decoded together, and prompt beginnings that are computed once for several requests, change the order of
floating-point sums. Where two tokens are almost equally likely, even greedy decoding then falls to one side or the
other. The share of such flips is measured once for each engine, its settings and weights, and stands beside every
comparison: a difference that is no larger than the noise is no difference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Noise:
    """flips of n answers differed between two runs that took nothing from the generation cache."""

    n: int
    flips: int

    @property
    def share(self) -> float:
        return self.flips / self.n if self.n else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        """Clopper–Pearson interval of the share."""
        from statsmodels.stats.proportion import proportion_confint

        low, high = proportion_confint(self.flips, self.n, alpha=0.05, method="beta")
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flip_share": self.share, "ci95": list(self.ci95)}
