"""Rules that need no reference: declared limits (`[[limit]]`, see docs/monitoring.md), and the volume of traffic.

A limit on a share, or on a quantile, is a statement about the service and not about the rows that happened to come: it
raises an alarm when the rows prove it broken, that is when the exact lower bound of the true share (Clopper & Pearson
1934) is beyond it. "95 % take at most 2,000 ms" is broken when more than 5 % surely take longer.

Volume: whether a window has as many rows as windows like it had before. Numbers of requests scatter far more than
Poisson's law says, and by a factor rather than by a number. So the logarithms of the rows of past windows predict the
logarithm of this one's: by Student's t with one degree of freedom fewer than windows, exact when they are normal and
independent. With few past windows the prediction is wide, as it should be. Its scatter is never taken for less than
Poisson's, so that a very even history raises no alarm over nothing. Where there are enough windows of the same weekday,
only they count: a Sunday is like a Sunday.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

import numpy as np

from llmops.errors import UsageError
from monitoring.decide.alarms import ROWS, Alarm, EvidenceQuery
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.packed_summaries import bins_of, edges_of
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader


@dataclass(frozen=True, slots=True)
class Limit:
    """What must hold of a descriptor.

    share_at_most: of a flag, the largest share of rows that may carry it. quantile, at_most: of a number, the share of
    rows (0 to 1) that must not be above `at_most`, in the descriptor's unit.
    """

    descriptor: str
    share_at_most: float | None = None
    quantile: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        place = f"limit on {self.descriptor}"
        if self.share_at_most is not None:
            if self.quantile is not None or self.at_most is not None:
                raise UsageError(f"{place}: give share_at_most, or quantile and at_most, not both")
            if not 0 <= self.share_at_most < 1:
                raise UsageError(f"{place}: share_at_most must be from 0 to below 1, not {self.share_at_most}")
            return
        if self.quantile is None or self.at_most is None:
            raise UsageError(f"{place}: give share_at_most (flags), or quantile and at_most (numbers)")
        if not 0 < self.quantile < 1:
            raise UsageError(f"{place}: quantile must be between 0 and 1, not {self.quantile}")
        if not math.isfinite(self.at_most):
            raise UsageError(f"{place}: at_most must be a number, not {self.at_most}")

    @property
    def allowed(self) -> float:
        """The largest share of rows that may be beyond the limit."""
        return self.share_at_most if self.share_at_most is not None else 1 - float(self.quantile or 0)

    def check_kind(self, descriptors: Mapping[str, Descriptor]) -> None:
        """Raises UsageError when there is no such descriptor, or it is of another kind than the limit."""
        descriptor = descriptors.get(self.descriptor)
        if descriptor is None:
            raise UsageError(f"limit on {self.descriptor}: there is no such descriptor")
        wanted = "flag" if self.share_at_most is not None else "numeric"
        if descriptor.kind != wanted:
            raise UsageError(f"limit on {self.descriptor}: it is {descriptor.kind}, and this limit is for {wanted}")

    def __str__(self) -> str:
        if self.share_at_most is not None:
            return f"{self.descriptor} at most {self.share_at_most:.3g} of rows"
        return f"{self.descriptor} at most {self.at_most:g} in {float(self.quantile or 0):.3g} of rows"


@dataclass(frozen=True, slots=True)
class LimitFinding:
    """How a limit fared.

    rows: with a value. beyond: surely beyond the limit. undecided: in the same bin as the limit, so that the summary
    cannot tell; they are not held against it. resolution: that bin's numbers, from and below; None for flags, where
    nothing is undecided. lower_bound: of the true share beyond, at confidence 1 - alpha. broken: it is above what is
    allowed. note: why there is no verdict, else empty.
    """

    limit: Limit
    rows: int
    beyond: int
    undecided: int
    resolution: tuple[float, float] | None
    lower_bound: float
    alpha: float
    broken: bool
    note: str = ""

    @property
    def why(self) -> str:
        """The finding in a sentence."""
        share = self.beyond / self.rows if self.rows else 0.0
        return (
            f"{self.limit}: {self.beyond} of {self.rows} rows ({share:.1%}) are beyond it, surely more than "
            f"{self.lower_bound:.1%} of all; {self.limit.allowed:.3g} may be"
        )

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        declared = {name: value for name, value in found.pop("limit").items() if value is not None}
        resolution = list(self.resolution) if self.resolution else None
        return {**declared, **found, "resolution": resolution, "allowed": self.limit.allowed}


def check_limits(limits: Iterable[Limit], window: Summary, alpha: float) -> list[LimitFinding]:
    """Every limit held against one window of rows; alpha: `DriftRules.limit_alpha` of the number of checks."""
    findings = []
    for limit in limits:
        flag, number = window.flags.get(limit.descriptor), window.numbers.get(limit.descriptor)
        if limit.share_at_most is not None and flag is not None and flag.n:
            rows, beyond, undecided, resolution = flag.n, flag.hits, 0, None
        elif limit.at_most is not None and number is not None and number.n:
            # Numbers of the limit's own bin may be above it, unless the extremes decide.
            own = int(bins_of(np.array([limit.at_most], dtype=np.float32))[0])
            rows, resolution = number.n, edges_of(own)
            beyond = int(number.counts[number.bins > own].sum())
            undecided = int(number.counts[number.bins == own].sum()) if number.maximum > limit.at_most else 0
            if number.minimum > limit.at_most:
                beyond, undecided = rows, 0
        else:
            findings.append(LimitFinding(limit, 0, 0, 0, None, 0.0, alpha, False, "no row of the window has a value"))
            continue
        bound = lower_bound(beyond, rows, alpha)
        findings.append(LimitFinding(limit, rows, beyond, undecided, resolution, bound, alpha, bound > limit.allowed))
    return findings


def limit_alarms(app: str, findings: Sequence[LimitFinding], descriptors: Mapping[str, Descriptor]) -> list[Alarm]:
    """One alarm for each broken limit."""
    raised = []
    for each in findings:
        if each.broken:
            name, most = each.limit.descriptor, each.limit.at_most
            evidence = EvidenceQuery(name, "equal", 1.0) if most is None else EvidenceQuery(name, "high", most)
            side = descriptors[name].side
            raised.append(Alarm(name, each.why, side, ({"app": app},), "limit", evidence=evidence))
    return raised


def lower_bound(hits: int, rows: int, alpha: float) -> float:
    """Clopper & Pearson's one-sided lower bound of a share: above the true share with a chance of at most alpha."""
    if not hits:
        return 0.0
    from scipy.stats import beta

    return float(beta.ppf(alpha, hits, rows - hits + 1))


VolumeState = Literal["ok", "fall", "rise", "no-history"]

LEAST_WINDOWS = 7
LEAST_OF_WEEKDAY = 7
MOST_WINDOWS = 84
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class PastWindow(NamedTuple):
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
    hours = reader.hours(app, end - MOST_WINDOWS * length, end)
    counts = Counter[int]()
    for hour, each in hours:
        counts[-((hour - end) // length)] += each.rows  # 1 for the window that ends at `end`
    whole = (end - hours[0][0]) // length if hours else 0
    past = [PastWindow(end - number * length, counts[number]) for number in range(1, whole + 1)]
    return judge_volume(since, rows, past, rules.volume_alpha(), rules.volume_floor)


def volume_alarms(app: str, volume: VolumeFinding | None) -> list[Alarm]:
    """The alarm of an unusual number of rows, if it is one; it names no rows."""
    if volume is None or not volume.alarm:
        return []
    return [Alarm(ROWS, volume.why, "service", ({"app": app},), "volume", "medium")]


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
