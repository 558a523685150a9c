"""Small charts of the report as SVG and HTML: two distributions side by side, and a level over time. No script."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

import numpy as np

from monitoring.store.number_grid import middle_of
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Summary

BEFORE, AFTER = "#9aa5b1", "#2563eb"
_WIDTH, _HEIGHT, _BARS = 520, 120, 26
_MOST_LABELS = 8
_SKEW = 30.0


def distribution(name: str, before: Summary, after: Summary, unit: str = "") -> str:
    """Both windows' distributions of one descriptor; a sentence where either has no values."""
    if name in before.numbers and name in after.numbers and before.numbers[name].n and after.numbers[name].n:
        return _number_chart(before.numbers[name], after.numbers[name], unit)
    if name in before.flags and name in after.flags and before.flags[name].n and after.flags[name].n:
        return _flag_chart(before.flags[name], after.flags[name])
    if name in before.labels and name in after.labels and before.labels[name].n and after.labels[name].n:
        return _label_chart(before.labels[name], after.labels[name])
    return '<p class="quiet">One of the windows has no values of it.</p>'


def over_time(points: Sequence[tuple[datetime, float]], since: datetime, share: bool) -> str:
    """A level over time, with a gap where it is not known (NaN); the current window, from `since` on, is marked."""
    known = [(at, value) for at, value in points if math.isfinite(value)]
    if len(known) < 2:
        return ""
    start, end = known[0][0], known[-1][0]
    low, high = min(0.0, *(value for _, value in known)), max(value for _, value in known)
    span, height = (end - start).total_seconds() or 1.0, high - low or 1.0
    width, tall = _WIDTH, 70

    def x(at: datetime) -> float:
        return round((at - start).total_seconds() / span * (width - 8) + 4, 1)

    def y(value: float) -> float:
        return round(tall - 6 - (value - low) / height * (tall - 14), 1)

    lines = "".join(
        f'<polyline points="{" ".join(f"{x(at)},{y(value)}" for at, value in part)}" fill="none" stroke="{BEFORE}" '
        f'stroke-width="1.5"/>'
        for is_known, part in groupby(points, key=lambda point: math.isfinite(point[1]))
        if is_known
    )
    dots = "".join(
        f'<circle cx="{x(at)}" cy="{y(value)}" r="2.5" fill="{AFTER if at > since else BEFORE}">'
        f"<title>{at:%Y-%m-%d %H:%M} UTC: {shown(value, share)}</title></circle>"
        for at, value in known
    )
    marked = max(x(max(since, start)), 0.0)
    return (
        f'<svg viewBox="0 0 {width} {tall}" width="{width}" height="{tall}" role="img">'
        f'<rect x="{marked}" y="0" width="{max(width - marked, 0)}" height="{tall}" fill="{AFTER}" opacity="0.08"/>'
        f"{lines}{dots}</svg>"
        f'<div class="axis"><span>{start:%d %b %H:%M}</span><span>{shown(known[-1][1], share)} now, '
        f"{shown(low, share)} to {shown(high, share)}</span><span>{end:%d %b %H:%M} UTC</span></div>"
    )


def shown(value: float, share: bool = False) -> str:
    """A number for people: at most four digits that count, shares as percentages."""
    if share:
        return f"{value:.1%}" if value >= 0.001 or not value else f"{value:.2%}"
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _number_chart(before: NumberSummary, after: NumberSummary, unit: str) -> str:
    edges, in_steps = _edges(before, after)
    heights = [_shares(part, edges) for part in (before, after)]
    top = max(float(part.max()) for part in heights) or 1.0
    step = _WIDTH / (len(edges) - 1)
    bars = []
    for place in range(len(edges) - 1):
        about = f"{shown(float(edges[place]))} to {shown(float(edges[place + 1]))} {unit}"
        for shares, colour, shift in ((heights[0], BEFORE, 0.08), (heights[1], AFTER, 0.5)):
            tall = float(shares[place]) / top * (_HEIGHT - 4)
            bars.append(
                f'<rect x="{place * step + shift * step:.1f}" y="{_HEIGHT - tall:.1f}" width="{step * 0.42:.1f}" '
                f'height="{tall:.1f}" fill="{colour}"><title>{html.escape(about)}: {shares[place]:.1%}</title></rect>'
            )
    middle = float(edges[len(edges) // 2])
    ends = f"{shown(float(edges[0]))}</span><span>{shown(middle)}</span><span>{shown(float(edges[-1]))}"
    scale = " (each step a multiple of the last)" if in_steps else ""
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img">'
        f'<line x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}" stroke="#cbd5e1"/>{"".join(bars)}</svg>'
        f'<div class="axis"><span>{ends} {html.escape(unit)}</span></div>'
        f'<div class="quiet">median {shown(before.quantile(0.5))} → {shown(after.quantile(0.5))}, mean '
        f"{shown(before.mean)} → {shown(after.mean)} {html.escape(unit)}{scale}</div>"
    )


def _edges(before: NumberSummary, after: NumberSummary) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], bool]:
    """Edges of the bars over what nearly all numbers lie in; the last bars hold what is beyond."""
    low = min(before.quantile(0.005), after.quantile(0.005))
    high = max(before.quantile(0.995), after.quantile(0.995))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    middle = max(before.quantile(0.5), after.quantile(0.5))
    if low > 0 and high > _SKEW * max(min(before.quantile(0.5), after.quantile(0.5)), low):
        return np.geomspace(low, high, _BARS + 1), True
    whole = all(float(value).is_integer() for value in (low, high)) and high - low < _BARS
    if whole and middle.is_integer():
        return np.arange(low - 0.5, high + 1.5), False
    return np.linspace(low, high, _BARS + 1), False


def _shares(part: NumberSummary, edges: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[
    tuple[int], np.dtype[np.float64]
]:  # fmt: skip
    middles = np.array([middle_of(int(place)) for place in part.bins]).clip(edges[0], edges[-1])
    counted, _ = np.histogram(middles, bins=edges, weights=part.counts)
    return counted / max(part.n, 1)


def _flag_chart(before: FlagSummary, after: FlagSummary) -> str:
    most = max(before.share, after.share) or 1.0
    return _pairs(
        [("", before.share, f"({before.hits:,} of {before.n:,})", after.share, f"({after.hits:,} of {after.n:,})")],
        most,
    )


def _label_chart(before: LabelSummary, after: LabelSummary) -> str:
    rows = [
        (label, before.counts.get(label, 0) / before.n, "", after.counts.get(label, 0) / after.n, "")
        for label in {*before.counts, *after.counts}
    ]
    rows.sort(key=lambda row: (-max(row[1], row[3]), row[0]))
    return _pairs(rows[:_MOST_LABELS], max(max(row[1], row[3]) for row in rows))


def _pairs(rows: Sequence[tuple[str, float, str, float, str]], most: float) -> str:
    """Horizontal bars, two for each row: label, share and note before, share and note after."""
    drawn = []
    for label, old, old_note, new, new_note in rows:
        bars = "".join(
            f'<div class="bar"><i style="width:{value / most * 60:.1f}%;background:{colour}"></i>'
            f"<span>{shown(value, share=True)} {html.escape(note)}</span></div>"
            for value, note, colour in ((old, old_note, BEFORE), (new, new_note, AFTER))
        )
        name = f'<div class="label">{html.escape(label)}</div>' if label else ""
        drawn.append(f'<div class="pair">{name}<div class="bars">{bars}</div></div>')
    return "".join(drawn)
