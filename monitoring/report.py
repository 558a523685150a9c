"""Evidently's HTML report of both windows, headed by our verdict.

Verdicts are ours (`drift`): corrected over all descriptors and held to a false-alarm budget and effect floors, which
Evidently's own tests are not. So that its tables do not contradict them unsaid, Evidently is given our tests by name,
and for each column the p-value below which our verdict counts it: the family's Benjamini–Hochberg cutoff, or 0 where
the effect is below its floor or nothing was tested. Its p-values are those of our tests, uncorrected. The plots show
at most 5,000 rows of each window, drawn with a fixed seed; on such a sample its p-values are weaker than ours, and the
table at the top, made from all rows, is the one that counts.

The file works without a network: Evidently embeds its scripts.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llmops.errors import CannotRun
from monitoring.descriptor_store import DescribedRows
from monitoring.descriptors import DESCRIPTORS
from monitoring.drift import SliceDrift, present
from monitoring.evidently_import import evidently
from monitoring.result import MonitorResult
from monitoring.rules import DriftRules
from monitoring.two_sample import Comparison, compare_flags, compare_labels, compare_numbers

SAMPLE_ROWS = 5_000
SEED = 20_011

_SMALLEST_P = 1e-300  # a p-value that underflows to 0 must not pass a threshold of 0


def save_report(
    result: MonitorResult, reference: DescribedRows, current: DescribedRows, out: Path, rules: DriftRules
) -> Path:
    """Writes the report to `out`, making its folder; returns `out`. Raises CannotRun."""
    if not len(reference) or not len(current):
        raise CannotRun(
            f"no report: the reference window has {len(reference)} rows and the current one {len(current)}; "
            "choose other --since and --until"
        )
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)  # first: drawing takes seconds
    before, after = _sample(reference), _sample(current)
    names = [name for name in DESCRIPTORS if len(present(before.columns[name])) and len(present(after.columns[name]))]
    asked = _evidently_report(names, _thresholds(result, rules))
    with np.errstate(invalid="ignore", divide="ignore"):  # Evidently correlates columns that never vary, too
        snapshot = asked.run(_dataset(after, names), _dataset(before, names))
        page = str(snapshot.get_html_str(as_iframe=False))
    with _writing(out):
        out.write_text(page.replace("<body>", "<body>" + verdict_section(result), 1), encoding="utf-8")
    return out


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotRun(f"cannot write the report to {out}: {error.strerror}") from error


def verdict_section(result: MonitorResult) -> str:
    """Our verdict as HTML: the windows, the alarms with their reasons, what the budget is."""
    title = {"ok": "No alarm", "alarm": f"{len(result.alarms)} alarm(s)", "too-few-rows": "Too few rows for a verdict"}
    alarms = "".join(
        f"<tr><td>{_e(alarm.what)}</td><td>{_e(alarm.why)}</td><td>{_e(', '.join(alarm.rows[:5]))}</td></tr>"
        for alarm in result.alarms
    )
    head = "<tr><th>what</th><th>why</th><th>requests to look at</th></tr>"
    table = f'<table border="1" cellpadding="6" style="border-collapse:collapse">{head}{alarms}</table>'
    windows = (
        f"current: {_when(result.window)}<br>reference: {_when(result.reference)}<br>expected false alarms a month: "
        f"at most {result.expected_false_alarms_per_month:.2g}"
    )
    return (
        '<section style="font-family:sans-serif;margin:24px">'
        f"<h1>{_e(result.app)}: {title[result.state]}</h1><p>{windows}</p><p>{_e(result.note)}</p>"
        f"{table if alarms else ''}<p>This verdict counts. The tables below show the same tests for each descriptor, "
        "uncorrected, on a sample where there are many rows.</p></section>"
    )


def _when(window: Any) -> str:
    return f"{window.rows} rows from {window.since.isoformat()} to {window.until.isoformat()}"


def _e(text: str) -> str:
    return html.escape(text)


def _sample(rows: DescribedRows) -> DescribedRows:
    if len(rows) <= SAMPLE_ROWS:
        return rows
    return rows.select(np.sort(np.random.default_rng(SEED).choice(len(rows), SAMPLE_ROWS, replace=False)))


def _dataset(rows: DescribedRows, names: list[str]) -> Any:
    import pandas as pd

    library = evidently()
    frame = pd.DataFrame({name: _shown(name, rows.columns[name]) for name in names})
    numeric = [name for name in names if DESCRIPTORS[name].kind == "numeric"]
    other = [name for name in names if DESCRIPTORS[name].kind != "numeric"]
    definition = library.DataDefinition(numerical_columns=numeric, categorical_columns=other)
    return library.Dataset.from_pandas(frame, data_definition=definition)


def _shown(name: str, column: Any) -> Any:
    if DESCRIPTORS[name].kind != "flag":
        return column.astype(float) if DESCRIPTORS[name].kind == "numeric" else column
    words = np.where(column == 1.0, "yes", "no").astype(object)
    words[np.isnan(column)] = None
    return words


def _evidently_report(names: list[str], thresholds: dict[str, float]) -> Any:
    library = evidently()
    _register_tests()
    drift = library.DataDriftPreset(
        columns=names,
        per_column_method={name: _test_name(name) for name in names},
        per_column_threshold={name: thresholds.get(name, 0.0) for name in names},
        include_tests=False,
    )
    return library.Report([drift, library.DataSummaryPreset(columns=names)], include_tests=False)


def _thresholds(result: MonitorResult, rules: DriftRules) -> dict[str, float]:
    if not result.slices:
        return {}
    whole = result.slices[0]
    cutoff = _cutoff(whole)
    return {
        name: cutoff if abs(drift.result.effect) >= rules.floor(drift.descriptor) and drift.result.testable else 0.0
        for name, drift in whole.descriptors.items()
    }


def _cutoff(part: SliceDrift) -> float:
    """The largest uncorrected p-value that the correction lets through, or the first step's when there is none."""
    family = [drift for drift in part.descriptors.values() if drift.result.testable]
    passed = [drift.result.p_value for drift in family if drift.p_adjusted <= part.alpha]
    return max(passed, default=part.alpha / max(len(family), 1))


def _test_name(name: str) -> str:
    descriptor = DESCRIPTORS[name]
    return "llmops_rise" if descriptor.harmful else f"llmops_{descriptor.kind}"


@cache
def _register_tests() -> None:
    """Makes our tests known to Evidently by name, once in a process."""
    library = evidently()
    kinds = library.ColumnType
    _register("llmops_numeric", "Kolmogorov-Smirnov p", kinds.Numerical, compare_numbers)
    _register("llmops_label", "chi-square p, rare labels together", kinds.Categorical, compare_labels)
    _register("llmops_flag", "Fisher exact p", kinds.Categorical, _compare_words)
    _register("llmops_rise", "Fisher exact p, for a rise", kinds.Categorical, _compare_words_for_rise)


def _register(name: str, shown: str, kind: Any, compare: Any) -> None:
    def test(reference: Any, current: Any, _kind: Any, threshold: float) -> tuple[float, bool]:
        found: Comparison = compare(reference.dropna().to_numpy(), current.dropna().to_numpy())
        p = max(found.p_value, _SMALLEST_P)
        return p, p <= threshold

    library = evidently()
    library.register_stattest(library.StatTest(name, shown, [kind], 0.0), test)


def _compare_words(reference: Any, current: Any) -> Comparison:
    return compare_flags(reference == "yes", current == "yes", only_rise=False)


def _compare_words_for_rise(reference: Any, current: Any) -> Comparison:
    return compare_flags(reference == "yes", current == "yes", only_rise=True)
