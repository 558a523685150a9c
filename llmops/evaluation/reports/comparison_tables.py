"""Tables of differences with their intervals drawn in: one line for each metric, or for each slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports.charts import Axis, axis_labels, difference_plot, outcome_bar
from llmops.evaluation.reports.contents import Report
from llmops.evaluation.reports.markup import Markup, element, joined
from llmops.evaluation.reports.page import table
from llmops.evaluation.reports.wording import (
    counted,
    direction,
    gain,
    interval_told,
    number,
    outcomes,
    probability,
    signed,
    standing,
)


def metric_tables(report: Report) -> list[Markup]:
    """The metrics of the scale 0 to 1 on one axis; all others each on its own."""
    metrics = report["comparison"]["metrics"]
    shares = {name: metric for name, metric in metrics.items() if _is_share(metric)}
    others = {name: metric for name, metric in metrics.items() if name not in shares}
    tables = []
    if shares:
        axis = Axis.around_zero(_ends(shares.values()))
        lines = [_metric_line(report, name, metric, axis) for name, metric in shares.items()]
        tables.append(table("Metrics from 0 to 1", _head("metric", axis), lines, "differences"))
    if others:
        lines = [_metric_line(report, name, metric, None) for name, metric in others.items()]
        tables.append(table("Metrics each on a scale of its own", _head("metric", None), lines, "differences"))
    return tables


def slice_tables(report: Report) -> list[Markup]:
    """A table for each metric that was compared within slices; the slices of a tag together, the worst first."""
    by_metric: dict[str, dict[str, MetricComparison]] = {}
    for part, metrics in report["comparison"]["slices"].items():
        for name, metric in metrics.items():
            by_metric.setdefault(name, {})[part] = metric
    return [_slice_table(name, parts) for name, parts in by_metric.items()]


def _slice_table(name: str, parts: Mapping[str, MetricComparison]) -> Markup:
    def worst_first(item: tuple[str, MetricComparison]) -> tuple[str, float]:
        part, metric = item
        gained = gain(metric.difference, metric.higher_is_better)
        return part.partition("=")[0], metric.difference if gained is None else gained

    axis = Axis.around_zero(_ends(parts.values()))
    lines = [
        difference_line(part, counted(metric.n, "row"), metric, axis, chosen_beforehand=False)
        for part, metric in sorted(parts.items(), key=worst_first)
    ]
    return table(f"{name} in each slice", _head("slice", axis), lines, "differences")


def _ends(metrics: Iterable[MetricComparison]) -> list[float]:
    """What an axis has to hold: the ends of the intervals, or the difference where there is none."""
    return [end for metric in metrics for end in metric.ci95 or [metric.difference]]


def _metric_line(report: Report, name: str, metric: MetricComparison, axis: Axis | None) -> Markup:
    notes = [direction(metric.higher_is_better)]
    decides = name == report["primary"]
    if decides:
        notes.insert(0, "decides")
    for letter, side in (("A", report["a"]), ("B", report["b"])):
        summary = side["metrics"].get(name)
        if summary and summary["n_failed"]:
            notes.append(f"no score in {counted(summary['n_failed'], 'row')} of {letter}")
    return difference_line(name, "; ".join(notes), metric, axis, chosen_beforehand=decides)


def difference_line(
    name: str, note: str, metric: MetricComparison, axis: Axis | None, *, chosen_beforehand: bool
) -> Markup:
    """One line of the table. axis: the one shared by all lines; None draws the line's own under its plot."""
    found = standing(metric, chosen_beforehand=chosen_beforehand)
    own = axis or Axis.around_zero(_ends([metric]))
    plot = difference_plot(metric, own, found)
    p_value = metric.p_value if chosen_beforehand else metric.p_adjusted
    shown = element("strong", f"{found.mark} {signed(metric.difference)}", class_=found.name.lower())
    return element(
        "tr",
        element("th", element("bdi", name), element("small", note), scope="row"),
        element("td", plot, None if axis else axis_labels(own, differences=True), class_="plot"),
        element("td", shown, element("small", interval_told(metric)), class_="figure gap"),
        element("td", found.value, element("small", probability(p_value)), class_="is"),
        element("td", number(metric.a), class_="figure a"),
        element("td", number(metric.b), class_="figure b"),
        element("td", outcome_bar(metric), element("small", outcomes(metric)), class_="outcomes"),
    )


def _head(first: str, axis: Axis | None) -> list[Markup | str]:
    title = element("span", "B − A, with 95 % interval")
    labels = axis_labels(axis, differences=True) if axis else None
    plot = element("th", joined([title, labels]), scope="col", class_="plot")
    figures = [element("th", text, scope="col", class_="figure") for text in ("A", "B")]
    return [first, plot, element("th", "difference", scope="col", class_="figure"), "B is", *figures, "row by row"]


def _is_share(metric: MetricComparison) -> bool:
    return 0 <= metric.a <= 1 and 0 <= metric.b <= 1
