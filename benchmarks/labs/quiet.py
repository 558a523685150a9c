"""Quiet years and risen errors of the labs' monitor, by simulation; exits 1 when a claim does not hold.

    python -m benchmarks.labs.quiet [--years 30]

A year is a reference and twelve windows of rows with inputs, predictions and labels, judged by `monitoring.tabular`
with its default settings: 0.1 false alarms a year. In one world rows are independent; in another they are the hours of
days, and days are like the day before: an AR(1) process moves inputs, the error's level and its size. A rate is held
against its bound with the error of the simulation allowed for, as in `benchmarks.monitoring.simulation`. Seeds are
fixed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.monitoring.simulation import Claim
from llmops.tabular.schema import Column, RowSchema
from monitoring.tabular.checking import check
from monitoring.tabular.error import ErrorEstimator
from monitoring.tabular.observed import observe
from monitoring.tabular.settings import TabularSettings

WINDOWS = 12
BUDGET = 0.1
INPUTS = (Column("temp", "number"), Column("wind", "number"), Column("hour", "integer"), Column("sky", "text"))
REGRESSION = RowSchema(INPUTS, Column("count", "number"), "regression")
CLASSIFICATION = RowSchema(INPUTS, Column("kind", "text"), "classification")
# Drift is an alarm here so that it is counted, too; `default` counts the alarms that the default settings raise.
SETTINGS = TabularSettings(false_alarms=BUDGET, alarm_on_drift=True, estimate=False)

Draw = Callable[[int, np.random.Generator], pd.DataFrame]


@dataclass(frozen=True)
class World:
    """draw: so many days (or tens of rows) in a row. reference, window: how many of them each has."""

    name: str
    schema: RowSchema
    draw: Draw
    reference: int
    window: int

    def year(self, seed: int, worse: float = 1.0) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        """A reference and its windows, one stretch of time cut into pieces. worse: factor of the windows' errors."""
        number = int.from_bytes(self.name.encode()[:4], "big")
        everything = self.draw(self.reference + WINDOWS * self.window, np.random.default_rng([5, seed, number]))
        cuts = [0, *range(self.reference, self.reference + WINDOWS * self.window + 1, self.window)]
        parts = [
            everything[(everything["day"] >= since) & (everything["day"] < until)] for since, until in pairwise(cuts)
        ]
        if worse != 1.0:
            parts[1:] = [
                part.assign(truth=part["prediction"] + worse * (part["truth"] - part["prediction"]))
                for part in parts[1:]
            ]
        return parts[0], parts[1:]


def ar1(days: int, correlation: float, chance: np.random.Generator) -> Any:
    """A stationary process of variance 1."""
    steps, fresh = chance.standard_normal(days), (1 - correlation**2) ** 0.5
    for day in range(1, days):
        steps[day] = correlation * steps[day - 1] + fresh * steps[day]
    return steps


def independent(tens: int, chance: np.random.Generator) -> pd.DataFrame:
    """Ten rows a piece; the error's size is lognormal, so that squared errors have a heavy tail."""
    return _frame(tens, 10, 0.0, chance).drop(columns="block")


def hours_of_days(days: int, chance: np.random.Generator) -> pd.DataFrame:
    return _frame(days, 24, 0.6, chance)


def hours_of_a_season(days: int, chance: np.random.Generator) -> pd.DataFrame:
    """As hours_of_days, the temperature following the year besides: inputs drift, and the error stays as it is."""
    frame = hours_of_days(days, chance)
    return frame.assign(temp=frame["temp"] + 3 * np.sin(frame["day"] * 2 * np.pi / 365))


def classes(tens: int, chance: np.random.Generator) -> pd.DataFrame:
    """One row in twenty gets the wrong class."""
    frame = independent(tens, chance)
    kinds = chance.choice(["a", "b", "c"], len(frame))
    wrong = chance.random(len(frame)) < 0.05
    return frame.assign(truth=kinds, prediction=np.where(wrong, np.where(kinds == "a", "b", "a"), kinds))


def _frame(days: int, hours: int, correlation: float, chance: np.random.Generator) -> pd.DataFrame:
    day, rows = np.repeat(np.arange(days), hours), days * hours
    effects = {name: ar1(days, correlation, chance)[day] for name in ("temp", "wind", "sky", "level", "size")}
    shared = 1.0 if correlation else 0.0
    prediction = 200 + 30 * chance.standard_normal(rows)
    size = np.exp(0.4 * (shared * effects["size"] + chance.standard_normal(rows)))
    error = 20 * size * (0.5 * shared * effects["level"] + chance.standard_normal(rows))
    return pd.DataFrame(
        {
            "temp": shared * effects["temp"] + chance.standard_normal(rows),
            "wind": np.exp(0.5 * (shared * effects["wind"] + chance.standard_normal(rows))),
            "hour": np.tile(np.arange(hours), days),
            "sky": np.where(shared * effects["sky"] + chance.standard_normal(rows) > 0.5, "clear", "cloud"),
            "prediction": prediction,
            "truth": prediction + error,
            "block": day,
            "day": day,
        }
    )


ROWS = World("independent rows", REGRESSION, independent, 200, 50)
DAYS = World("hours of AR(1) days", REGRESSION, hours_of_days, 120, 30)
WEEK = World("week held out, reference grows", REGRESSION, hours_of_days, 7, 30)
SEASON = World("season, hours of AR(1) days", REGRESSION, hours_of_a_season, 120, 30)
CLASSES = World("wrong classes", CLASSIFICATION, classes, 9, 9)


def quiet(world: World, years: int) -> Iterator[Claim]:
    """Share of quiet years with any alarm: by default, and with drift as an alarm."""
    default = drifting = windows = 0
    rules: Counter[str] = Counter()
    for seed in range(years):
        reference, parts = world.year(seed)
        found = [check(reference, part, world.schema, SETTINGS, windows_in_budget=WINDOWS) for part in parts]
        alarmed = {alarm.rule for verdict in found for alarm in verdict.alarms}
        default += bool(alarmed - {"drift"})
        drifting += bool(alarmed)
        windows += sum(bool(verdict.drifted) for verdict in found)
        rules.update(alarmed)
    note = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items())) or "no alarm"
    yield Claim(f"{world.name}: quiet years with any alarm, default settings", default, years, BUDGET, True, note)
    text, of = f"{world.name}: windows in which an input drifted, no alarm by default", years * WINDOWS
    if world is SEASON:
        yield Claim(text, windows, of, None, True)
        return
    yield Claim(f"{world.name}: the same where drift is an alarm", drifting, years, BUDGET, True, note)


def with_growing_reference(world: World, years: int, worse: float, bound: float | None) -> Claim:
    """The same where each window without alarm joins the reference, as in the bike lab: the share of years with any
    alarm. worse: factor of the errors from the fourth window on, of which three are looked at."""
    settings, quiet_windows, alarmed = replace(SETTINGS, alarm_on_drift=False), 3, 0
    for seed in range(years):
        reference, parts = world.year(seed)
        if worse != 1.0:
            parts = [*parts[:quiet_windows], *world.year(seed, worse)[1][quiet_windows:][:3]]
        for part in parts:
            if check(reference, part, world.schema, settings, windows_in_budget=WINDOWS).alarm:
                alarmed += 1
                break
            reference = pd.concat([reference, part], ignore_index=True)
    if worse == 1.0:
        return Claim(f"{world.name}: quiet years with any alarm", alarmed, years, bound, True)
    return Claim(
        f"{world.name}: an error {worse - 1:+.0%} after three windows, found in 3", alarmed, years, bound, False
    )


def quiet_before_labels(world: World, years: int) -> Claim:
    """The same for trusted estimates, with no label in any window."""
    settings, past = TabularSettings(false_alarms=BUDGET), [(1.0, 1.0)] * 3
    alarmed = 0
    for seed in range(years):
        reference, parts = world.year(seed)
        estimator = ErrorEstimator.fit(observe(reference, world.schema, "reference"), world.schema, settings)
        unlabelled = (part.assign(truth=np.nan) for part in parts)
        alarmed += any(
            check(
                reference, part, world.schema, settings, windows_in_budget=WINDOWS, past=past, estimator=estimator
            ).alarm
            for part in unlabelled
        )
    return Claim(f"{world.name}: quiet years with any alarm before labels", alarmed, years, BUDGET, True)


def detected(world: World, years: int, worse: float, bound: float | None) -> Claim:
    """Share of years in which a rise of the error is found within three windows."""
    first = within = 0
    settings = replace(SETTINGS, alarm_on_drift=False)
    for seed in range(years):
        reference, parts = world.year(seed, worse)
        found = [check(reference, part, world.schema, settings, windows_in_budget=WINDOWS).alarm for part in parts[:3]]
        first += found[0]
        within += any(found)
    text = f"{world.name}: an error {worse - 1:+.0%}, found within 3 windows"
    return Claim(text, within, years, bound, False, f"in the first window {first / years:.0%}")


def claims(years: int) -> Iterator[Claim]:
    for world in (ROWS, CLASSES, DAYS, SEASON):
        yield from quiet(world, years)
    yield with_growing_reference(WEEK, years, 1.0, BUDGET)
    yield with_growing_reference(WEEK, years, 1.5, None)
    yield with_growing_reference(WEEK, years, 2.0, None)
    yield quiet_before_labels(DAYS, max(years // 4, 1))
    yield detected(ROWS, years, 1.25, 0.95)
    yield detected(DAYS, years, 1.25, None)
    yield detected(DAYS, years, 1.5, None)
    yield detected(DAYS, years, 2.0, 0.95)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labs.quiet")
    parser.add_argument("--years", type=int, default=30, help="simulated for each line; default 30")
    years = parser.parse_args().years
    started, failed = time.perf_counter(), 0
    with threadpool_limits(1):  # small products: a second thread only waits
        for claim in claims(years):
            print(claim, flush=True)
            failed += not claim.holds
    print(f"{years} years a line, {time.perf_counter() - started:.0f} s; {failed} claims failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
