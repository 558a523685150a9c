"""Volume: whether a window has as many rows as windows like it had before.

Numbers of requests scatter far more than Poisson's law says, and by a factor rather than by a number. So the logarithms
of the rows of past windows predict the logarithm of this one's: by Student's t with one degree of freedom fewer than
windows, exact when they are normal and independent. With few past windows the prediction is wide, as it should be. Its
scatter is never taken for less than Poisson's, so that a very even history raises no alarm over nothing. Where there
are enough windows of the same weekday, only they count: a Sunday is like a Sunday.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from monitoring.decide.alarms import ROWS, Alarm
from monitoring.decide.rules import DriftRules
from monitoring.store.windows import WindowReader

VolumeState = Literal["ok", "fall", "rise", "no-history"]

LEAST_WINDOWS = 7
LEAST_OF_WEEKDAY = 7
MOST_WINDOWS = 84
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class PastWindow:
    """A window of the same length as the one that is judged."""

    since: datetime
    rows: int


@dataclass(frozen=True, slots=True)
class VolumeFinding:
    """Whether a window's number of rows is to be expected.

    expected, low, high: rows, and the range outside of which an alarm is raised; None without a verdict. windows: past
    ones that were used. p_value: two-sided. note: what was compared, or why there is no verdict.
    """

    state: VolumeState
    rows: int
    expected: float | None
    low: float | None
    high: float | None
    p_value: float
    alpha: float
    windows: int
    note: str

    @property
    def alarm(self) -> bool:
        return self.state in ("fall", "rise")

    @property
    def why(self) -> str:
        """The finding in a sentence."""
        if self.expected is None or self.low is None or self.high is None:
            return f"{self.rows} rows; {self.note}"
        word = {"fall": "fell", "rise": "rose"}.get(self.state, "kept")
        return (
            f"traffic {word}: {self.rows} rows where {self.expected:.0f} were expected "
            f"({self.low:.0f} to {self.high:.0f}; {self.note})"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def volume_of(
    reader: WindowReader, app: str, since: datetime, until: datetime, rows: int, rules: DriftRules
) -> VolumeFinding | None:
    """The window's number of rows against those of windows of its length before it.

    None for a window that is not some whole hours long, or not over yet. Raises StoreUnavailable.
    """
    length = until - since
    if length < _HOUR or length % _HOUR or until > datetime.now(UTC):
        return None
    # The past windows that the log has whole, by hours: they end at the full hour before `since`.
    end = datetime.fromtimestamp(since.timestamp() // 3600 * 3600, UTC)
    hours = [(hour, each.rows) for hour, each in reader.hours(app, end - MOST_WINDOWS * length, end)]
    counts: dict[int, int] = {}
    for hour, count in hours:
        number = -((hour - end) // length)  # 1 for the window that ends at `end`
        counts[number] = counts.get(number, 0) + count
    whole = (end - hours[0][0]) // length if hours else 0
    past = [PastWindow(end - number * length, counts.get(number, 0)) for number in range(1, whole + 1)]
    return judge_volume(since, rows, past, rules.volume_alpha(), rules.volume_floor)


def volume_alarms(app: str, found: VolumeFinding | None) -> list[Alarm]:
    """The alarm of an unusual number of rows, if it is one; it names no rows."""
    if found is None or not found.alarm:
        return []
    return [Alarm(ROWS, found.why, "service", ({"app": app},), "volume", "medium")]


def judge_volume(since: datetime, rows: int, past: Sequence[PastWindow], alpha: float, floor: float) -> VolumeFinding:
    """One window against the past ones, which must not overlap it; the newest MOST_WINDOWS of them count.

    alpha: `DriftRules.volume_alpha`. floor: `DriftRules.volume_floor`.
    """
    from scipy.stats import t

    recent = sorted(past, key=lambda window: window.since)[-MOST_WINDOWS:]
    if len(recent) < LEAST_WINDOWS:
        note = f"no verdict: {len(recent)} past windows of the {LEAST_WINDOWS} needed"
        return VolumeFinding("no-history", rows, None, None, None, 1.0, alpha, len(recent), note)
    # Windows of the same weekday when windows are days or more and there are enough of them, else all.
    alike, note = recent, f"{len(recent)} past windows"
    same = [window for window in recent if window.since.weekday() == since.weekday()]
    steps = [after.since - before.since for before, after in itertools.pairwise(recent)]
    if len(same) >= LEAST_OF_WEEKDAY and min(steps) >= _DAY:
        alike, note = same, f"{len(same)} past windows of the same weekday"
    counts = np.array([window.rows for window in alike], dtype=float)
    logs = np.log(counts + 0.5)
    centre, windows = float(logs.mean()), len(logs)
    expected = math.exp(centre)
    # Of a Poisson count with this mean, the variance of the logarithm; one with a mean of 0 has none, hence the half.
    least = 1 / max(float(counts.mean()), 0.5)
    scale = math.sqrt(max(float(logs.var(ddof=1)), least) * (1 + 1 / windows))
    distance = (math.log(rows + 0.5) - centre) / scale
    p_value = float(2 * t.sf(abs(distance), windows - 1))
    reach = max(float(t.isf(alpha / 2, windows - 1)) * scale, -math.log(1 - floor))
    low, high = max(expected * math.exp(-reach) - 0.5, 0.0), expected * math.exp(min(reach, 700.0)) - 0.5
    outside = abs(math.log(rows + 0.5) - centre) > reach
    state: VolumeState = "ok" if not outside else "fall" if distance < 0 else "rise"
    return VolumeFinding(state, rows, expected - 0.5, low, high, p_value, alpha, windows, note)
