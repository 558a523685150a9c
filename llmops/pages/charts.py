"""What charts.html draws with: the scale of a plot, classes of a histogram, the scales of a level over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmops.pages.numbers import number, signed

_BARS = 20
_NICE_STEPS = (1, 2, 2.5, 5, 10)
Point = tuple[float, float, str]
"""A time, the level then, NaN where it is not known, and what to say of it."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values drawn over the width of a plot, from one place to the other."""

    low: float
    high: float
    start: float = 18
    end: float = 222

    @classmethod
    def around_zero(cls, values: Iterable[float]) -> Axis:
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
        """The value's place in the plot."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 2)

    @property
    def ticks(self) -> tuple[float, ...]:
        return tuple(self.low + (self.high - self.low) * part / 4 for part in range(5))

    def labels(self, differences: bool) -> list[tuple[float, str]]:
        """The places and numbers at its ends and in its middle: `+0.2` rather than `+0.200`."""
        shown = [(tick, signed(tick) if differences else number(tick)) for tick in self.ticks[::2]]
        return [(self.at(tick), text.rstrip("0").rstrip(".") if "." in text else text) for tick, text in shown]


def classes(changes: Sequence[float]) -> tuple[Axis, list[int], int, int, int]:
    """The rows in each class of equal width on either side of 0, but those that did not change; and how many went down,
    stayed the same, went up."""
    axis, counts = Axis.around_zero(changes), [0] * _BARS
    for change in changes:
        if change:
            position = math.floor((change + axis.high) / (2 * axis.high) * _BARS)
            # A change next to 0 keeps to its own side, whatever rounding does.
            low, high = (_BARS // 2, _BARS - 1) if change > 0 else (0, _BARS // 2 - 1)
            counts[min(high, max(low, position))] += 1
    down, up = sum(1 for change in changes if change < 0), sum(1 for change in changes if change > 0)
    return axis, counts, down, len(changes) - down - up, up


def time_scales(points: Sequence[Point]) -> tuple[Axis, Axis, list[list[Point]]]:
    """The axis of times, that of levels, which holds 0, and the points in stretches without a gap."""
    parts = groupby(points, key=lambda point: math.isfinite(point[1]))
    stretches = [list(part) for is_known, part in parts if is_known]
    levels = [level for stretch in stretches for _, level, _ in stretch]
    times = Axis(stretches[0][0][0], stretches[-1][-1][0], 4, 516)
    return times, Axis(min(0.0, *levels), max(levels), 64, 8), stretches


def _round_up(value: float) -> float:
    """The least of 1, 2, 2.5, 5 × a power of ten that is not below the value, rounding errors aside."""
    value = max(value, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _NICE_STEPS if step * power >= value * (1 - 1e-9))
