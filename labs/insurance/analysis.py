"""What the first models show beside metrics: whether accidents help, levels by decile and by group, and coefficients
with intervals, held against the truth, which is known here.

Policies of one area share its latent risk, in every quarter. Claims therefore vary more than Poisson's law says, and
together: intervals that do not know it are too narrow for everything that differs between areas. So errors are those
of the jackknife that leaves out one area at a time (CV3 of MacKinnon, Nielsen & Webb, "Fast and reliable jackknife and
bootstrap methods for cluster-robust inference", 2023), with Student's t of as many degrees as areas less one. A band
has 20 areas: the usual sandwich (Liang & Zeger 1986) would be some 5 % too narrow for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labs.data import LabelledRows
from labs.evaluation import MetricEstimate, actual_over_expected, judge
from labs.insurance.models import RULES, SCORERS, design
from labs.insurance.simulation import TRUE_COEFFICIENTS
from labs.recording import figure_of
from labs.training import Trained, best_of
from llmops.evaluation.statistics import t_quantile

Json = dict[str, Any]
_ACCIDENTS = "+accidents"
_DECILES = 10
KEPT = Path(__file__).with_name("years.json")
"""What 100 simulated years came to: see `years`."""
WITHOUT, WITH = "without accidents", "with accidents"
ACCIDENTS = "log_accident_rate"


@dataclass(frozen=True, slots=True)
class Coefficient:
    """value: on the logarithm of claims. ci95: clustered by area. plain_ci95: as if all rows were independent."""

    value: float
    ci95: tuple[float, float]
    plain_ci95: tuple[float, float]


def coefficients(rows: LabelledRows, *, with_accidents: bool) -> dict[str, Coefficient]:
    """Of a Poisson regression, by the names of `TRUE_COEFFICIENTS`; the intercept is that of a year. With accidents
    also that of the logarithm of their rate."""
    import statsmodels.api as sm

    matrix = sm.add_constant(design(with_accidents).fit_transform(rows.features), has_constant="add")
    fitted = sm.GLM(rows.truth, matrix, family=sm.families.Poisson(), offset=np.full(len(rows), math.log(0.25))).fit()
    names = [*TRUE_COEFFICIENTS, *([ACCIDENTS] if with_accidents else [])]
    moved = _moved_without_an_area(matrix, rows, fitted.fittedvalues)
    areas = len(moved)
    deviations = np.sqrt((areas - 1) / areas * ((moved - moved.mean(axis=0)) ** 2).sum(axis=0))
    reach = t_quantile(areas - 1) * deviations
    found = zip(names, fitted.params, reach, fitted.conf_int(), strict=True)
    return {
        name: Coefficient(float(value), (value - wide, value + wide), (plain[0], plain[1]))
        for name, value, wide, plain in found
    }


def _moved_without_an_area(matrix: Any, rows: LabelledRows, expected: Any) -> Any:
    """By how much the coefficients would be others without each area, in one step of Newton's: areas × coefficients."""
    information = matrix.T @ (matrix * expected[:, None])
    area = np.unique([cluster.split()[1] for cluster in rows.clusters], return_inverse=True)[1]
    moved = []
    for number in range(int(area.max()) + 1):
        inside = area == number
        mine, missed = matrix[inside], rows.truth[inside] - expected[inside]
        rest = information - mine.T @ (mine * expected[inside, None])
        moved.append(np.linalg.solve(rest, mine.T @ missed))
    return np.stack(moved)


def findings(models: Sequence[Trained], best: Trained) -> list[Json]:
    """The tables that `Lab.findings` describes."""
    formula = models[0]
    return [accident_gate(models), _deciles(best), _groups(best, formula), _truth(best.training)]


def accident_gate(models: Sequence[Trained]) -> Json:
    """The best model that knows the accidents against the best that does not, on the rows held out."""
    informed, others = (
        best_of([model for model in models if (_ACCIDENTS in model.name) == known and model is not models[0]])
        for known in (True, False)
    )
    judged = judge(
        (informed.name, informed.predictions), (others.name, others.predictions), informed.holdout, SCORERS, RULES
    )
    rows = [
        [model.name, *(model.metrics[name].value for name in ("deviance", "actual_over_expected", "gini"))]
        for model in models
    ]
    verdict = judged.verdict.verdict
    return {
        "title": "With and without the accidents, on the rows held out",
        "columns": ["model", "deviance#", "claims / expected#", "Gini#"],
        "rows": rows,
        "told": f"gate, {informed.name} against {others.name}: {verdict}; {judged.verdict.reasons[0]}",
        "verdict": verdict,
    }


def levels(rows: LabelledRows, predictions: Any, group: Sequence[Any]) -> Mapping[str, tuple[int, MetricEstimate]]:
    """By group: rows, and claims over expected claims."""
    names, clusters, levels_of = np.asarray(group), np.asarray(rows.clusters), {}
    for name in sorted(set(group)):
        inside = names == name
        level = actual_over_expected(rows.truth[inside], np.asarray(predictions)[inside], clusters[inside])
        levels_of[str(name)] = (int(inside.sum()), level)
    return levels_of


def deciles(predictions: Any) -> Any:
    """Of each prediction the tenth it is in, from 1."""
    order = np.argsort(np.argsort(predictions, kind="stable"), kind="stable")
    return 1 + order * _DECILES // len(order)


def _deciles(model: Trained) -> Json:
    of_row = deciles(model.predictions)
    of_tenth = levels(model.holdout, model.predictions, [f"{each:02d}" for each in of_row])
    rows = [
        [int(name), count, 4 * float(model.predictions[of_row == int(name)].mean()), *_numbers(level)]
        for name, (count, level) in of_tenth.items()
    ]
    held = sum(low <= 1 <= high for *_, low, high in rows)
    return {
        "title": f"Calibration of {model.name} by tenth of the risk",
        "columns": ["tenth#", "rows#", "expected in a year#", "claims / expected#", "95 % from#", "to#"],
        "rows": rows,
        "told": f"1, which is right on average, lies in the interval of {held} of {len(rows)} tenths; "
        "by chance it misses one in twenty",
    }


def _groups(model: Trained, formula: Trained) -> Json:
    rows = []
    for tag, values in model.holdout.tags.items():
        ours, theirs = (levels(each.holdout, each.predictions, values) for each in (model, formula))
        rows += [
            [f"{tag} {name}", count, *_numbers(level), theirs[name][1].value] for name, (count, level) in ours.items()
        ]
    return {
        "title": f"Who pays for whom: claims over expected claims by group, {model.name}",
        "columns": ["group", "rows#", "claims / expected#", "95 % from#", "to#", "the formula's#"],
        "rows": rows,
        "told": "above 1 a group brings more claims than it is charged for, and others pay; below 1 it pays for others",
    }


def _numbers(estimate: MetricEstimate) -> tuple[float, float, float]:
    low, high = estimate.ci95 or (math.nan, math.nan)
    return estimate.value, low, high


def _truth(rows: LabelledRows) -> Json:
    estimated = coefficients(rows, with_accidents=False)
    lines = [
        [name, true, estimated[name].value, *estimated[name].ci95, "yes" if holds(estimated[name].ci95, true) else "NO"]
        for name, true in TRUE_COEFFICIENTS.items()
    ]
    held, kept = sum(line[-1] == "yes" for line in lines), json.loads(KEPT.read_text("utf-8"))
    share, gates = pooled(kept["coverage"][WITHOUT], kept["years"]), kept["gates"].values()
    mistaken = sum(gate["mistaken"] for gate in gates)
    return {
        "title": "Coefficients of the regression without accidents, and the truth",
        "columns": ["coefficient", "true#", "found#", "95 % from#", "to#", "holds the truth"],
        "rows": lines,
        "told": f"{held} of {len(lines)} intervals hold the truth; in {kept['years']} simulated years {share:.1%} did. "
        f"Of {sum(gate['passed'] for gate in gates)} models that passed a gate there, {mistaken} was no better",
    }


def pooled(coverage: Mapping[str, Mapping[str, int]], years: int, kind: str = "ci95") -> float:
    """The share of a regression's intervals that held the truth, of counts as `years.json` has them."""
    return sum(each[kind] for each in coverage.values()) / (years * len(coverage))


def holds(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def level_figure(model: Trained) -> Any:
    """Claims and expected claims of each tenth of the rows held out, in order of the risk."""
    of_row, truth = deciles(model.predictions), model.holdout.truth
    figure, axes = figure_of("tenth of the policies, in order of the risk", "claims in a year", model.name)
    numbers = range(1, _DECILES + 1)
    for values, mark, name in ((model.predictions, "o-", "expected"), (truth, "x", "claims")):
        axes.plot(numbers, [4 * float(values[of_row == number].mean()) for number in numbers], mark, label=name)
    axes.legend(frameon=False)
    return figure
