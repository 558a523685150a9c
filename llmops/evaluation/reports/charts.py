"""Small charts as inline SVG: intervals on a common axis, paired outcomes, a histogram of changes.

Colours come from the page's style sheet by class, so that they follow light and dark. Every chart says in its label
what it shows, and its marks differ in shape as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports.markup import Child, Markup, element
from llmops.evaluation.reports.wording import Standing, count, interval, interval_told, number, outcomes, signed

_WIDTH, _HEIGHT, _EDGE = 240, 26, 18
_NICE_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values drawn over the width of a plot."""

    low: float
    high: float

    @classmethod
    def around_zero(cls, values: Sequence[float]) -> Axis:
        """As far on either side of 0 as the values reach, rounded up to a number that reads well."""
        reach = _round_up(max((abs(value) for value in values), default=0.0) or 1.0)
        return cls(-reach, reach)

    @classmethod
    def around(cls, values: Sequence[float]) -> Axis:
        """From below the smallest to above the largest value, both rounded to a number that reads well."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        step = _round_up((high - low) / 4 or abs(high) or 1.0)
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step)

    def at(self, value: float) -> float:
        """The value's place in the plot, from its left edge."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(_EDGE + min(1.0, max(0.0, share)) * (_WIDTH - 2 * _EDGE), 2)

    @property
    def ticks(self) -> tuple[float, ...]:
        return tuple(self.low + (self.high - self.low) * part / 4 for part in range(5))


def axis_labels(axis: Axis, *, differences: bool) -> Markup:
    """The numbers of a column of plots, for its head."""
    write = signed if differences else number
    labels = [
        element("text", _trimmed(write(tick)), x=axis.at(tick), y=12, text_anchor="middle", class_="tick")
        for tick in (axis.ticks[0], axis.ticks[2], axis.ticks[4])
    ]
    return _drawing(f"axis from {write(axis.low)} to {write(axis.high)}", *labels, height=16)


def difference_plot(metric: MetricComparison, axis: Axis, found: Standing) -> Markup:
    """A difference with its interval; a grey band holds what is too small to be detected with so many rows."""
    detectable = metric.detectable
    ci95 = metric.ci95
    label = f"{signed(metric.difference)}, 95 % interval {interval_told(metric)}: {found.value}"
    return _drawing(
        label,
        _band(axis, -detectable, detectable) if detectable else None,
        *_grid(axis),
        _line(axis.at(0), 0, axis.at(0), _HEIGHT, "zero"),
        *(_whisker(axis, ci95[0], ci95[1], found.name.lower()) if ci95 else []),
        _mark(axis.at(metric.difference), found),
    )


def mean_plot(mean: float, ci95: Sequence[float] | None, axis: Axis) -> Markup:
    """A mean with its interval."""
    whisker = _whisker(axis, ci95[0], ci95[1], "plain") if ci95 else []
    dot = element("circle", cx=axis.at(mean), cy=_HEIGHT / 2, r=4.5, class_="plain")
    return _drawing(f"{number(mean)}, 95 % interval {interval(ci95)}", *_grid(axis), *whisker, dot)


def outcome_bar(metric: MetricComparison) -> Markup:
    """How many rows b lost, tied and won (or went down and up, when neither is better), as parts of one bar."""
    width, height, x = 132, 10, 0.0
    kinds = ("down", "ties", "up") if metric.higher_is_better is None else ("losses", "ties", "wins")
    parts = []
    for kind, rows in zip(kinds, (metric.losses, metric.ties, metric.wins), strict=True):
        part = width * rows / (metric.n or 1)
        parts.append(element("rect", x=round(x, 2), y=0, width=round(part, 2), height=height, class_=kind))
        x += part
    return _drawing(outcomes(metric), *parts, width=width, height=height)


def histogram(changes: Sequence[float], *, higher_is_better: bool | None) -> Markup:
    """How many rows changed by how much: 20 classes around 0, and those that did not change as a bar in the middle."""
    axis, bars, height = Axis.around_zero(changes), 20, 84
    counts, same = _classes(changes, axis.high, bars), sum(1 for change in changes if change == 0)
    tallest = max(*counts, same, 1)
    left, right = ("wins", "losses") if higher_is_better is False else ("losses", "wins")
    sides = ("ties", "ties") if higher_is_better is None else (left, right)
    drawn: list[Child] = []
    step = (axis.at(axis.high) - axis.at(axis.low)) / bars
    for position, rows in enumerate(counts):
        x = axis.at(axis.low) + position * step
        drawn.append(_bar(x + 0.5, step - 1, rows / tallest, height, sides[position >= bars // 2]))
    drawn.append(_bar(axis.at(0) - 1.5, 3, same / tallest, height, "same"))
    for tick in (axis.ticks[0], axis.ticks[2], axis.ticks[4]):
        text = _trimmed(signed(tick))
        drawn.append(element("text", text, x=axis.at(tick), y=height + 14, text_anchor="middle", class_="tick"))
    fewer, more = sum(1 for change in changes if change < 0), sum(1 for change in changes if change > 0)
    label = f"{count(fewer)} rows went down, {count(same)} stayed the same, {count(more)} went up"
    return _drawing(label, *drawn, _line(_EDGE, height, _WIDTH - _EDGE, height, "grid"), height=height + 18)


def _classes(changes: Sequence[float], reach: float, bars: int) -> list[int]:
    """Rows in each class of equal width over ±reach; rows that did not change are in none."""
    counts = [0] * bars
    for change in changes:
        if change:
            position = math.floor((change + reach) / (2 * reach) * bars)
            # A change next to 0 keeps to its own side, whatever rounding does.
            low, high = (bars // 2, bars - 1) if change > 0 else (0, bars // 2 - 1)
            counts[min(high, max(low, position))] += 1
    return counts


def _bar(x: float, width: float, share: float, height: int, kind: str) -> Markup:
    tall = round(max(1.5, share * (height - 4)) if share else 0.0, 2)
    return element("rect", x=round(x, 2), y=round(height - tall, 2), width=round(width, 2), height=tall, class_=kind)


def _drawing(label: str, *shapes: Child, width: int = _WIDTH, height: int = _HEIGHT) -> Markup:
    return element(
        "svg", *shapes,
        viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=label,
    )  # fmt: skip


def _grid(axis: Axis) -> list[Markup]:
    return [_line(axis.at(tick), 0, axis.at(tick), _HEIGHT, "grid") for tick in axis.ticks]


def _band(axis: Axis, low: float, high: float) -> Markup:
    x = axis.at(low)
    return element("rect", x=x, y=0, width=round(axis.at(high) - x, 2), height=_HEIGHT, class_="band")


def _whisker(axis: Axis, low: float, high: float, kind: str) -> list[Markup]:
    left, right, middle = axis.at(low), axis.at(high), _HEIGHT / 2
    ends = [_line(x, middle - 4, x, middle + 4, kind) for x in (left, right)]
    return [_line(left, middle, right, middle, kind), *ends]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _mark(x: float, found: Standing) -> Markup:
    y, kind = _HEIGHT / 2, found.name.lower()
    if found is Standing.UNDECIDED:
        return element("circle", cx=x, cy=y, r=4.5, class_=kind)
    outlines = {
        Standing.BETTER: ((0, -6), (6, 5), (-6, 5)),
        Standing.WORSE: ((0, 6), (6, -5), (-6, -5)),
        Standing.CHANGED: ((0, -6), (6, 0), (0, 6), (-6, 0)),
    }
    points = " ".join(f"{round(x + dx, 2)},{y + dy}" for dx, dy in outlines[found])
    return element("polygon", points=points, class_=kind)


def _round_up(value: float) -> float:
    """The least of 1, 2, 2.5, 5 × a power of ten that is not below the value, rounding errors aside."""
    value = max(value, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _NICE_STEPS if step * power >= value * (1 - 1e-9))


def _trimmed(shown: str) -> str:
    """`+0.200` as `+0.2`."""
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
