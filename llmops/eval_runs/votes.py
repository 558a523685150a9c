"""What people voted between two releases, side by side in the gateway's page or through its feedback route."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from llmops.evaluation.shares import sign_test_interval, sign_test_p
from llmops.production_log import ProductionLog
from llmops.versions import Release


@dataclass(frozen=True, slots=True)
class Votes:
    """Votes between releases a and b. n: all of them. share_b: of those that found one better, how many found b; with
    its 95 % interval. p_value: two-sided, of the exact binomial test that either is as likely, which the interval
    inverts. The last three are None where nobody found one better."""

    a: str
    b: str
    n: int
    wins_a: int
    wins_b: int
    ties: int
    share_b: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95) if self.ci95 else None}

    def sentence(self) -> str:
        """All of it, for people."""
        counts = f"votes: {self.wins_a} for {self.a}, {self.wins_b} for {self.b}, {self.ties} for neither"
        if self.share_b is None or self.ci95 is None:
            return counts
        low, high = self.ci95
        shares = f"{self.share_b:.0%} of those decided prefer {self.b} (95 % interval {low:.0%} to {high:.0%})"
        return f"{counts}; {shares}, p = {self.p_value:.3g}"


def votes_between(log: ProductionLog, a: Release | None, b: Release | None) -> Votes | None:
    """None where a and b are not two releases of one app, or where nobody voted. Raises StoreUnavailable."""
    if a is None or b is None or a.app != b.app or a.ref == b.ref:
        return None
    counts = log.votes(a.app)
    if (found := counts.get((a.ref, b.ref))) is not None:
        return judged(a.ref, b.ref, found.a, found.b, found.tie)
    if (found := counts.get((b.ref, a.ref))) is not None:
        return judged(a.ref, b.ref, found.b, found.a, found.tie)
    return None


def judged(a: str, b: str, wins_a: int, wins_b: int, ties: int) -> Votes:
    """The votes with what they say."""
    decided = wins_a + wins_b
    if not decided:
        return Votes(a, b, ties, 0, 0, ties)
    share = wins_b / decided
    interval = sign_test_interval(wins_b, wins_a)
    return Votes(a, b, decided + ties, wins_a, wins_b, ties, share, interval, sign_test_p(wins_b, wins_a))
