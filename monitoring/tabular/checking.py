"""Judges a window of rows of a tabular model against a reference. Start reading here.

Four rules share one budget of false alarms (`TabularSettings`): the error has really risen; before labels come, a
trusted estimate of it has; a limit of data quality is broken; and, only where the settings say so, a column drifted.
Each is held in each window against its share of the budget over the number of windows, so that the false alarms of all
windows add up to at most the budget, whatever depends on what.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from llmops.errors import UsageError
from llmops.text_io import listed
from monitoring.tabular.columns import ColumnDrift, Quality, drift_of, quality_of
from monitoring.tabular.error import (
    ErrorEstimator,
    Losses,
    PastEstimate,
    Rise,
    Trust,
    compare_losses,
    error_interval,
    losses_of,
    metric_of,
    trust_of,
)
from monitoring.tabular.observed import observe
from monitoring.tabular.settings import Rule, TabularSettings

if TYPE_CHECKING:
    import pandas as pd

    from llmops.tabular.schema import RowSchema

_RULES: tuple[Rule, ...] = ("error", "estimate", "quality", "drift")
_MOST_NAMED = 6
State = Literal["ok", "alarm", "too-few-rows"]


@dataclass(frozen=True, slots=True)
class TabularAlarm:
    """One reason for an alarm. rule: which found it; what: `error`, or the column; why: in a sentence."""

    rule: Rule
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class ErrorEstimate:
    """The error expected before labels. rise: whether the window's expected losses are above the reference's."""

    error: float
    trust: Trust
    rise: Rise

    def to_json(self) -> dict[str, Any]:
        return {"error": self.error, **asdict(self.trust), "test": self.rise.to_json()}


@dataclass(frozen=True, slots=True)
class TabularVerdict:
    """The verdict on one window.

    rows, labelled: of the window; labelled rows have a prediction and a label. state: `too-few-rows` when nothing could
    be tested. why: the alarms, or what was found instead, in a sentence or two. metric: see `error.metric_of`,
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
    estimate: ErrorEstimate | None
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
        errors = ("error", "reference_error", "relative_rise", "estimated_error")
        plain = ("rows", "labelled", "state", "alarm", "why", "metric", "windows_in_budget", *errors)
        return {
            **{name: getattr(self, name) for name in plain},
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "error_interval": list(self.error_interval) if self.error_interval else None,
            "error_test": self.rise.to_json(),
            "estimate": self.estimate.to_json() if self.estimate else None,
            "quality": self.quality.to_json(),
            "drift": {name: found.to_json() for name, found in self.drift.items()},
            "drifted": list(self.drifted),
            "alphas": dict(self.alphas),
            "expected_false_alarms": self.false_alarms,
        }


def relative(error: float | None, reference: float | None) -> float | None:
    """How much larger an error is than the reference's, relative; None where that has no meaning."""
    if error is None or not reference or not math.isfinite(error):
        return None
    return error / reference - 1


def check(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    schema: RowSchema,
    settings: TabularSettings,
    *,
    windows_in_budget: int,
    past: Sequence[PastEstimate] = (),
    estimator: ErrorEstimator | None = None,
) -> TabularVerdict:
    """The verdict on `current`.

    reference, current: frames of the schema's inputs, `prediction`, `truth` (missing where a label is late), and, where
    there are any, `probability` (of the predicted class) and `block` (rows of one block, such as a day, depend on each
    other; blocks are in the order of their names). The reference's rows must be ones that the model was not fitted on.
    windows_in_budget: how many windows the settings' false alarms are for; 12 for months of a year. A window may be
    checked twice, before and after its labels came: that is one rule each. More looks are more false alarms.
    past: `past_estimate` of earlier verdicts, oldest first: whether estimates can be trusted.
    estimator: fitted on this reference before, to save time; fitted anew when None.

    Raises UsageError: a column is missing or wrong; only one of the frames has blocks.
    """
    before, after = observe(reference, schema, "reference"), observe(current, schema, "current")
    if (before.block is None) != (after.block is None):
        raise UsageError("reference and current rows must both have the column 'block', or neither")
    alphas: dict[str, float] = {rule: settings.alpha(rule, windows_in_budget) for rule in _RULES}
    known, labelled = losses_of(before, settings.loss), losses_of(after, settings.loss)
    enough = min(before.rows, after.rows) >= settings.minimum_rows
    rise = _rise(known, labelled, settings)
    quality = quality_of(before, after, schema, settings, alphas["quality"])
    estimate = None
    if settings.estimate and enough:
        estimator = estimator or ErrorEstimator.fit(before, schema, settings)
        expected = estimator.losses(after) if estimator else None
        if estimator is not None and expected is not None and expected.error is not None:
            trust = trust_of(past, quality.outside_rows, settings)
            estimate = ErrorEstimate(expected.error, trust, _rise(estimator.expected, expected, settings))
    has_labels = len(labelled.values) > 0
    verdict = TabularVerdict(
        rows=after.rows,
        labelled=len(labelled.values),
        state="ok" if enough else "too-few-rows",
        why="",
        metric=metric_of(schema.task, settings.loss),
        alarms=(),
        error=labelled.error,
        error_interval=error_interval(labelled, rise.correlation),
        reference_error=known.error,
        rise=rise,
        estimate=estimate,
        quality=quality,
        drift=drift_of(before, after, settings, alphas["drift"], schema.output.name, labelled=has_labels)
        if enough
        else {},
        alphas=alphas,
        false_alarms=settings.expected_false_alarms(),
        windows_in_budget=windows_in_budget,
    )
    if not enough:
        rows = f"{before.rows} rows in the reference, {after.rows} in the window"
        return replace(verdict, why=f"too few rows: {rows}; {settings.minimum_rows} are needed")
    alarms = tuple(_alarms(verdict, settings))
    return replace(verdict, state="alarm" if alarms else "ok", alarms=alarms, why=_why(verdict, alarms, settings))


def _rise(reference: Losses, current: Losses, settings: TabularSettings) -> Rise:
    for losses, which in ((reference, "reference"), (current, "window")):
        if len(losses.values) < settings.minimum_rows:
            return Rise("none", 1.0, note=f"{len(losses.values)} labelled rows in the {which}")
        if losses.block is not None and losses.units < settings.minimum_blocks:
            return Rise("none", 1.0, note=f"{losses.units} labelled blocks in the {which}")
    return compare_losses(reference, current)


def _alarms(verdict: TabularVerdict, settings: TabularSettings) -> Iterator[TabularAlarm]:
    error, reference, rise = verdict.error, verdict.reference_error, verdict.rise
    tested = rise.test != "none" and error is not None and reference is not None
    if tested and rise.p_value <= verdict.alphas["error"]:
        relative_rise = verdict.relative_rise
        if relative_rise is None or relative_rise >= settings.rise_floor:
            by = "from 0" if relative_rise is None else f"by {relative_rise:.0%}"
            change = f"from {reference:.4g} to {error:.4g} (p = {rise.p_value:.2g})"
            yield TabularAlarm("error", "error", f"the error ({verdict.metric}) rose {by}, {change}")
    estimate = verdict.estimate
    # An estimate counts only while labels are late: what they say counts more.
    if rise.test == "none" and estimate is not None and estimate.trust.trusted:
        expected = relative(estimate.error, reference)
        high = expected is not None and expected >= settings.rise_floor + estimate.trust.miss
        if high and estimate.rise.p_value <= verdict.alphas["estimate"]:
            change = f"by {expected:.0%}, from {reference:.4g} to {estimate.error:.4g}"
            sure = f"(p = {estimate.rise.p_value:.2g}; {estimate.trust.why})"
            why = f"labels are late; the error is estimated to have risen {change} {sure}"
            yield TabularAlarm("estimate", "error", why)
    for each in verdict.quality.broken:
        yield TabularAlarm("quality", each.column or "rows", each.why)
    for name in verdict.drifted if settings.alarm_on_drift else ():
        drift = verdict.drift[name]
        change = f"{abs(drift.result.effect):.0%} of rows would have to change (adjusted p = {drift.p_adjusted:.2g})"
        yield TabularAlarm("drift", name, f"{name} ({drift.role}) drifted: {change}")


def _why(verdict: TabularVerdict, alarms: Sequence[TabularAlarm], settings: TabularSettings) -> str:
    told = [alarm.why for alarm in alarms]
    error, reference, rise, change = verdict.error, verdict.reference_error, verdict.rise, verdict.relative_rise
    if not told and error is None:
        told = ["labels have not come yet"]
    elif not told and (reference is None or rise.test == "none"):
        told = [f"error {error:.4g}, not tested: {rise.note}"]
    elif not told:
        by = "" if change is None else f" ({change:+.0%})"
        told = [f"error {error:.4g} against the reference's {reference:.4g}{by}, p = {rise.p_value:.2g}"]
    moved = verdict.drifted
    if moved and not settings.alarm_on_drift:
        told.append(f"drifted, which is no harm by itself: {listed(moved, _MOST_NAMED)}")
    return "; ".join(told)
