"""The HTML report of a tabular model's window: our verdict, then Evidently's tables and plots of the same columns.

Evidently is given our verdict as its test of each column, as in the report of texts (`monitoring.show.report`), so that
its tables cannot contradict it. The file works without a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops.errors import CannotRun
from llmops.pages.rendering import embedded, page
from monitoring.evidently_import import evidently
from monitoring.show.report import SAMPLE_ROWS, evidently_page
from monitoring.show.verdict_page import distribution
from monitoring.store.summaries import LabelSummary, NumberSummary
from monitoring.tabular.observed import PREDICTION, TRUTH, ObservedRows, Values, observe

if TYPE_CHECKING:
    import pandas as pd

    from llmops.tabular.schema import RowSchema
    from monitoring.tabular.checking import TabularVerdict

_TITLES = {"ok": ("good", "No alarm"), "alarm": ("bad", "Alarm"), "too-few-rows": ("open", "Too few rows")}
_METRICS = {
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "relative_error": "relative error",
    "actual_over_expected": "actual over expected",
    "error_rate": "error rate",
}
_MOST_CHARTS = 12
_TEMPLATE = "monitoring/tabular/verdict.html"


def verdict_section(title: str, verdict: TabularVerdict, reference: ObservedRows, current: ObservedRows) -> str:
    """The section with its own style, for a page that is not ours: what was decided and why, the errors, columns that
    drifted, faults of rows."""
    return embedded(_TEMPLATE, **_values(title, verdict, reference, current))


def _values(title: str, verdict: TabularVerdict, reference: ObservedRows, current: ObservedRows) -> dict[str, Any]:
    pairs = {name: (values, current.inputs[name]) for name, values in reference.inputs.items()}
    pairs[PREDICTION] = reference.prediction, current.prediction
    pairs |= {name: (reference.truth, current.truth) for name, found in verdict.drift.items() if found.role == "target"}
    badge, state = _TITLES[verdict.state]
    return {
        "title": title,
        "badge": badge,
        "state": state,
        "verdict": verdict,
        "metric": _METRICS[verdict.metric],
        "charts_of": [
            (name, distribution(_summary(pairs[name][0]), _summary(pairs[name][1])))
            for name in verdict.drifted[:_MOST_CHARTS]
        ],
        "reference": reference,
        "current": current,
    }


def _summary(values: Values) -> NumberSummary | LabelSummary:
    return NumberSummary.of(values.data) if values.numeric else LabelSummary.of(values.data)


_SEED = 20_011


def write_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    schema: RowSchema,
    verdict: TabularVerdict,
    path: Path,
    title: str = "Tabular model",
) -> Path:
    """Writes the report of a verdict on these frames to `path`, making its folder; returns `path`. Takes seconds.

    Raises:
        UsageError: a column is missing or wrong.
        CannotRun: the file cannot be written.
    """
    before, after = observe(reference, schema, "reference"), observe(current, schema, "current")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # first: drawing takes seconds
        path.write_text(_page(title, before, after, verdict), encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotRun(f"cannot write the report to {path}: {error.strerror}") from error
    return path


def _page(title: str, before: ObservedRows, after: ObservedRows, verdict: TabularVerdict) -> str:
    # What both windows have values of: Evidently fails on a column that is empty in one of them.
    pairs = {name: (each, after.inputs[name]) for name, each in before.inputs.items()}
    pairs |= {PREDICTION: (before.prediction, after.prediction), TRUTH: (before.truth, after.truth)}
    columns = {name: pair for name, pair in pairs.items() if all(each.present.any() for each in pair)}
    if not columns:
        return page(_TEMPLATE, **_values(title, verdict, before, after))
    datasets = _dataset(before, columns, 0), _dataset(after, columns, 1)
    drifts = {TRUTH if each.role == "target" else name: each.to_json() for name, each in verdict.drift.items()}
    presets: list[Any] = []
    if TRUTH in columns:
        library = evidently()
        # Without tests of their own both fail in Evidently 0.7.23; the report runs none of them.
        presets.append(library.RegressionPreset() if before.truth.numeric else library.ClassificationPreset())
    section = verdict_section(title, verdict, before, after)
    return evidently_page(section, list(columns), datasets, drifts, verdict.alphas["drift"], *presets)


def _dataset(observed: ObservedRows, columns: dict[str, tuple[Values, Values]], which: int) -> Any:
    import pandas as pd

    library = evidently()
    chosen = np.arange(observed.rows)
    if observed.rows > SAMPLE_ROWS:
        chosen = np.sort(np.random.default_rng(_SEED).choice(observed.rows, SAMPLE_ROWS, replace=False))
    frame = pd.DataFrame({name: pair[which].data[chosen] for name, pair in columns.items()})
    numeric = [name for name, pair in columns.items() if pair[which].numeric]
    labels = [name for name in columns if name not in numeric]
    task = _task(columns, library)
    definition = library.DataDefinition(numerical_columns=numeric, categorical_columns=labels, **task)
    return library.Dataset.from_pandas(frame, data_definition=definition)


def _task(columns: dict[str, tuple[Values, Values]], library: Any) -> dict[str, Any]:
    if not {PREDICTION, TRUTH} <= set(columns):
        return {}
    if columns[TRUTH][0].numeric:
        return {"regression": [library.Regression(target=TRUTH, prediction=PREDICTION)]}
    named = {"target": TRUTH, "prediction_labels": PREDICTION}
    classes = sorted(
        {str(label) for name in (TRUTH, PREDICTION) for each in columns[name] for label in each.data[each.present]}
    )
    if len(classes) > 2:
        return {"classification": [library.MulticlassClassification(**named)]}
    return {"classification": [library.BinaryClassification(**named, pos_label=classes[-1])]}
