"""What a check of a window found: a plain value with its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from monitoring.tabular.columns import ColumnDrift
from monitoring.tabular.estimate import PastEstimate, Trust
from monitoring.tabular.loss import Rise
from monitoring.tabular.quality import Quality
from monitoring.tabular.settings import Rule

State = Literal["ok", "alarm", "too-few-rows"]


@dataclass(frozen=True, slots=True)
class TabularAlarm:
    """One reason for an alarm. rule: which found it; what: `error`, or the column; why: in a sentence."""

    rule: Rule
    what: str
    why: str

    def to_json(self) -> dict[str, str]:
        return {"rule": self.rule, "what": self.what, "why": self.why}


@dataclass(frozen=True, slots=True)
class Estimate:
    """The error expected before labels. rise: whether the window's expected losses are above the reference's."""

    error: float
    trust: Trust
    rise: Rise

    def to_json(self) -> dict[str, Any]:
        return {
            "error": self.error,
            "trusted": self.trust.trusted,
            "why": self.trust.why,
            "miss": self.trust.miss,
            "test": self.rise.to_json(),
        }


@dataclass(frozen=True, slots=True)
class TabularVerdict:
    """The verdict on one window.

    rows, labelled: of the window; labelled rows have a prediction and a label. state: `too-few-rows` when nothing could
    be tested. why: the alarms, or what was found instead, in a sentence or two. metric: `rmse`, `mae` or `error_rate`,
    the unit of all errors. error: None before labels. error_interval: 95 %. rise: the test of it. estimate: None where
    none could be made. drift: by column; told, and an alarm only where the settings say so. alphas: what each rule was
    held against. false_alarms: expected in windows_in_budget windows, at most.
    """

    rows: int
    labelled: int
    state: State
    why: str
    metric: str
    alarms: tuple[TabularAlarm, ...]
    error: float | None
    error_interval: tuple[float, float] | None
    reference_error: float | None
    rise: Rise
    estimate: Estimate | None
    quality: Quality
    drift: Mapping[str, ColumnDrift]
    alphas: Mapping[str, float]
    false_alarms: float
    windows_in_budget: int

    @property
    def alarm(self) -> bool:
        return bool(self.alarms)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Columns that drifted."""
        return tuple(name for name, found in self.drift.items() if found.drifted)

    @property
    def relative_rise(self) -> float | None:
        """Of the error over the reference's: 0.1 is 10 % more. None without both, or from an error of 0."""
        return relative(self.error, self.reference_error)

    @property
    def estimated_error(self) -> float | None:
        return self.estimate.error if self.estimate else None

    @property
    def estimate_trusted(self) -> bool:
        return self.estimate is not None and self.estimate.trust.trusted

    @property
    def past_estimate(self) -> PastEstimate | None:
        """For `past` of later checks; None while there is no estimate, or no error yet to hold it against."""
        if self.estimate is None or self.error is None or self.rise.test == "none":
            return None
        return self.estimate.error, self.error

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without NaN."""
        return {
            "rows": self.rows,
            "labelled": self.labelled,
            "state": self.state,
            "alarm": self.alarm,
            "why": self.why,
            "alarms": [alarm.to_json() for alarm in self.alarms],
            "metric": self.metric,
            "error": self.error,
            "error_interval": list(self.error_interval) if self.error_interval else None,
            "reference_error": self.reference_error,
            "relative_rise": self.relative_rise,
            "error_test": self.rise.to_json(),
            "estimated_error": self.estimated_error,
            "estimate": self.estimate.to_json() if self.estimate else None,
            "quality": self.quality.to_json(),
            "drift": {name: found.to_json() for name, found in self.drift.items()},
            "drifted": list(self.drifted),
            "alphas": dict(self.alphas),
            "expected_false_alarms": self.false_alarms,
            "windows_in_budget": self.windows_in_budget,
        }


def relative(error: float | None, reference: float | None) -> float | None:
    """How much larger an error is than the reference's, relative; None where that has no meaning."""
    if error is None or not reference or not math.isfinite(error):
        return None
    return error / reference - 1
