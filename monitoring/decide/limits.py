"""Declared limits: alarms that need no reference.

    [[limit]]
    descriptor = "output.refusal"
    share_at_most = 0.05

    [[limit]]
    descriptor = "latency_ms"
    quantile = 0.95
    at_most = 2000

A limit on a share, or on a quantile, is a statement about the service and not about the rows that happened to come: it
raises an alarm when the rows prove it broken, that is when the exact lower bound of the true share (Clopper & Pearson
1934) is beyond it. "95 % take at most 2,000 ms" is broken when more than 5 % surely take longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmops.errors import UsageError
from monitoring.decide.alarms import Alarm, EvidenceQuery
from monitoring.descriptors import Descriptor
from monitoring.store.packed_summaries import bins_of, edges_of
from monitoring.store.summaries import Summary


@dataclass(frozen=True, slots=True)
class Limit:
    """What must hold of a descriptor.

    share_at_most: of a flag, the largest share of rows that may carry it. quantile, at_most: of a number, the share of
    rows (0 to 1) that must not be above `at_most`, in the descriptor's unit.
    """

    descriptor: str
    share_at_most: float | None = None
    quantile: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        place = f"limit on {self.descriptor}"
        if self.share_at_most is not None:
            if self.quantile is not None or self.at_most is not None:
                raise UsageError(f"{place}: give share_at_most, or quantile and at_most, not both")
            if not 0 <= self.share_at_most < 1:
                raise UsageError(f"{place}: share_at_most must be from 0 to below 1, not {self.share_at_most}")
            return
        if self.quantile is None or self.at_most is None:
            raise UsageError(f"{place}: give share_at_most (flags), or quantile and at_most (numbers)")
        if not 0 < self.quantile < 1:
            raise UsageError(f"{place}: quantile must be between 0 and 1, not {self.quantile}")
        if not math.isfinite(self.at_most):
            raise UsageError(f"{place}: at_most must be a number, not {self.at_most}")

    @property
    def allowed(self) -> float:
        """The largest share of rows that may be beyond the limit."""
        return self.share_at_most if self.share_at_most is not None else 1 - float(self.quantile or 0)

    def check_kind(self, descriptors: Mapping[str, Descriptor]) -> None:
        """Raises UsageError when there is no such descriptor, or it is of another kind than the limit."""
        descriptor = descriptors.get(self.descriptor)
        if descriptor is None:
            raise UsageError(f"limit on {self.descriptor}: there is no such descriptor")
        wanted = "flag" if self.share_at_most is not None else "numeric"
        if descriptor.kind != wanted:
            raise UsageError(f"limit on {self.descriptor}: it is {descriptor.kind}, and this limit is for {wanted}")

    def __str__(self) -> str:
        if self.share_at_most is not None:
            return f"{self.descriptor} at most {self.share_at_most:.3g} of rows"
        return f"{self.descriptor} at most {self.at_most:g} in {float(self.quantile or 0):.3g} of rows"


@dataclass(frozen=True, slots=True)
class LimitFinding:
    """How a limit fared.

    rows: with a value. beyond: surely beyond the limit. undecided: in the same bin as the limit, so that the summary
    cannot tell; they are not held against it. resolution: that bin's numbers, from and below; None for flags, where
    nothing is undecided. lower_bound: of the true share beyond, at confidence 1 - alpha. broken: it is above what is
    allowed. note: why there is no verdict, else empty.
    """

    limit: Limit
    rows: int
    beyond: int
    undecided: int
    resolution: tuple[float, float] | None
    lower_bound: float
    alpha: float
    broken: bool
    note: str = ""

    @property
    def why(self) -> str:
        """The finding in a sentence."""
        share = self.beyond / self.rows if self.rows else 0.0
        return (
            f"{self.limit}: {self.beyond} of {self.rows} rows ({share:.1%}) are beyond it, surely more than "
            f"{self.lower_bound:.1%} of all; {self.limit.allowed:.3g} may be"
        )

    def to_json(self) -> dict[str, Any]:
        limit = {name: getattr(self.limit, name) for name in ("share_at_most", "quantile", "at_most")}
        return {
            "descriptor": self.limit.descriptor,
            **{name: value for name, value in limit.items() if value is not None},
            "rows": self.rows,
            "beyond": self.beyond,
            "undecided": self.undecided,
            "resolution": list(self.resolution) if self.resolution else None,
            "lower_bound": self.lower_bound,
            "allowed": self.limit.allowed,
            "alpha": self.alpha,
            "broken": self.broken,
            "note": self.note,
        }


def check_limits(limits: Iterable[Limit], window: Summary, alpha: float) -> list[LimitFinding]:
    """Every limit held against one window of rows; alpha: `DriftRules.limit_alpha` of the number of checks."""
    found = []
    for limit in limits:
        flag, number = window.flags.get(limit.descriptor), window.numbers.get(limit.descriptor)
        if limit.share_at_most is not None and flag is not None and flag.n:
            rows, beyond, undecided, resolution = flag.n, flag.hits, 0, None
        elif limit.at_most is not None and number is not None and number.n:
            # Numbers of the limit's own bin may be above it, unless the extremes decide.
            own = int(bins_of(np.array([limit.at_most], dtype=np.float32))[0])
            rows, resolution = number.n, edges_of(own)
            beyond = int(number.counts[number.bins > own].sum())
            undecided = int(number.counts[number.bins == own].sum()) if number.maximum > limit.at_most else 0
            if number.minimum > limit.at_most:
                beyond, undecided = rows, 0
        else:
            found.append(LimitFinding(limit, 0, 0, 0, None, 0.0, alpha, False, "no row of the window has a value"))
            continue
        bound = lower_bound(beyond, rows, alpha)
        found.append(LimitFinding(limit, rows, beyond, undecided, resolution, bound, alpha, bound > limit.allowed))
    return found


def limit_alarms(app: str, found: Sequence[LimitFinding], descriptors: Mapping[str, Descriptor]) -> list[Alarm]:
    """One alarm for each broken limit."""
    raised = []
    for each in found:
        if each.broken:
            name, most = each.limit.descriptor, each.limit.at_most
            evidence = EvidenceQuery(name, "equal", 1.0) if most is None else EvidenceQuery(name, "high", most)
            side = descriptors[name].side
            raised.append(Alarm(name, each.why, side, ({"app": app},), "limit", evidence=evidence))
    return raised


def lower_bound(hits: int, rows: int, alpha: float) -> float:
    """Clopper & Pearson's one-sided lower bound of a share: above the true share with a chance of at most alpha."""
    if not hits:
        return 0.0
    from scipy.stats import beta

    return float(beta.ppf(alpha, hits, rows - hits + 1))
