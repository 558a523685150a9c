"""How often the present configuration would have alarmed on the log's own past, beside the budget that it states.

Chronological: the windows after the reference, judged one after the other as they would have been. Resampled: when
there are few of them, months put together from blocks of a few hours, each drawn from any day at its own time of day,
so that what belongs to the hour stays, and what ties neighbouring rows together stays within the block. It measures
false alarms only if nothing was wrong in that past: whatever really changed counts as an alarm, too.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from llmops.errors import CannotRun
from llmops.evaluation.statistics import sign_test_interval
from monitoring.decide.alarms import ROWS
from monitoring.decide.detectors import DetectorState, FlagBatch
from monitoring.decide.drift import examine_slice
from monitoring.decide.families import SincePin, examine_together
from monitoring.decide.limits import Limit, PastWindow, check_limits, judge_volume
from monitoring.decide.pinned_summaries import PinnedSummaries, count_families, slices_to_test
from monitoring.decide.rules import DriftRules
from monitoring.decide.watch import DetectorSpec
from monitoring.descriptors import Descriptor
from monitoring.store.ingest import Progress
from monitoring.store.summaries import FlagSummary, Summary
from monitoring.store.windows import WindowReader

HOUR = timedelta(hours=1)
MONTH_HOURS = 720
BLOCK_HOURS = 6
RESAMPLED_MONTHS = 100

Past = tuple[datetime, Summary]


class ReplayedAlarm(NamedTuple):
    """What alarmed, by which rule, in the window that begins at `since`."""

    since: datetime
    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Resampled:
    """Months made of the past's blocks. alarmed: those with any alarm; what: descriptor → months in which it did."""

    months: int
    alarmed: int
    what: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        low, high = sign_test_interval(self.alarmed, self.months - self.alarmed)
        return {
            "months": self.months,
            "months_with_an_alarm": self.alarmed,
            "share": self.alarmed / self.months if self.months else None,
            "ci95": [low, high],
            "descriptors": dict(self.what),
            "note": "all months are drawn from the same past: the interval does not cover that it is short",
        }


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    windows: judged in the order of time; untested: those with too few rows. months: windows over windows a month.
    alarmed: windows with any alarm; alarms that come together are one event. stated: the budget, by kind of rule.
    resampled: None when there are too few windows to draw from.
    """

    since: datetime
    until: datetime
    windows: int
    untested: int
    months: float
    alarmed: int
    alarms: Sequence[ReplayedAlarm]
    stated: Mapping[str, float]
    resampled: Resampled | None = None

    @property
    def per_month(self) -> float:
        return self.alarmed / self.months

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of alarmed windows a month (Garwood 1936, exact for Poisson counts)."""
        low, high = poisson_interval(self.alarmed)
        return low / self.months, high / self.months

    def to_json(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("windows", "untested", "months")}
        return {
            **named,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "alarmed_windows": self.alarmed,
            "alarms_per_month": self.per_month,
            "ci95": list(self.interval),
            "stated": dict(self.stated),
            "descriptors": dict(Counter(alarm.what for alarm in self.alarms)),
            "alarms": [{**alarm._asdict(), "since": alarm.since.isoformat()} for alarm in self.alarms],
            "resampled": self.resampled.to_json() if self.resampled else None,
        }


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """app, reference: as the monitor uses them. begin, until: the quiet past, after the reference. months: to resample,
    0 for none. The rest is the configuration."""

    app: str
    reference: PinnedSummaries
    begin: datetime
    until: datetime
    descriptors: Mapping[str, Descriptor]
    rules: DriftRules
    limits: Sequence[Limit] = ()
    dimensions: Sequence[str] = ()
    months: int = RESAMPLED_MONTHS
    seed: int = 0


def replay(reader: WindowReader, request: ReplayRequest, progress: Progress | None = None) -> Replay:
    """Measures false alarms on the past between begin and until.

    Raises:
        CannotRun: it holds no whole window.
        StoreUnavailable: the log cannot be read.
    """
    length = max(round(MONTH_HOURS / request.rules.windows_per_month), 1)
    begin = request.begin.replace(minute=0, second=0, microsecond=0)
    begin += HOUR if begin < request.begin else timedelta()
    count = int((request.until - begin) / (length * HOUR))
    if count < 1:
        raise CannotRun(
            f"nothing to replay: from {begin.isoformat()} to {request.until.isoformat()} there is no whole window "
            f"of {length} hours"
        )
    until = begin + count * length * HOUR
    hours = dict(reader.hours(request.app, begin, until))
    judge = _Judge(request)
    alarms, untested = [], 0
    for number in range(count):
        since = begin + number * length * HOUR
        slices = {each: reader.by_value(request.app, since, since + length * HOUR, each) for each in request.dimensions}
        parts = [(since + step * HOUR, hours.get(since + step * HOUR, Summary())) for step in range(length)]
        raised, tested = judge.window(since, length, parts, slices)
        alarms += raised
        untested += not tested
        if progress:
            progress(number + 1, count + request.months)
    return Replay(
        since=begin,
        until=until,
        windows=count,
        untested=untested,
        months=count / request.rules.windows_per_month,
        alarmed=len({alarm.since for alarm in alarms}),
        alarms=alarms,
        stated=request.rules.expected_false_alarms(flags=len(judge.flags), limits=len(request.limits)),
        resampled=_resample(request, hours, begin, count * length, length, progress),
    )


def poisson_interval(events: int) -> tuple[float, float]:
    """Garwood's (1936) 95 % interval of the mean of a Poisson count."""
    from scipy.stats import chi2

    low = float(chi2.ppf(0.025, 2 * events)) / 2 if events else 0.0
    return low, float(chi2.ppf(0.975, 2 * events + 2)) / 2


class _Judge:
    """Judges windows one after the other, as the monitor would. volume: whether their numbers of rows are judged."""

    def __init__(self, request: ReplayRequest, *, volume: bool = True) -> None:
        self._request, self._volume = request, volume
        self._past: list[PastWindow] = []
        self._since_pin = SincePin()
        whole = request.reference.whole
        spec = DetectorSpec(request.app, whole, "replay", request.begin, request.descriptors, request.rules)
        self.flags, sliced = spec.flags, bool(request.dimensions)
        self._detectors = {name: spec.detector(name, sliced=sliced) for name in self.flags}
        self._states: dict[str, DetectorState] = {}

    def window(
        self,
        since: datetime,
        length: int,
        parts: Sequence[Past],
        slices: Mapping[str, Mapping[str, Summary]],
    ) -> tuple[list[ReplayedAlarm], bool]:
        """The alarms of one window, and whether it had rows enough to be tested for drift."""
        whole = Summary.merged(part for _, part in parts)
        named = [("sequential", name) for name in self._sequential(parts, length)]
        request, rules = self._request, self._request.rules
        limits = check_limits(request.limits, whole, rules.limit_alpha(len(request.limits)))
        named += [("limit", each.limit.descriptor) for each in limits if each.broken]
        reference = request.reference.whole
        tested = min(whole.rows, reference.rows) >= rules.minimum_rows
        families = []
        if tested:
            tested_slices = slices_to_test(request.app, whole, slices, request.reference, rules.minimum_rows)
            alpha = rules.alpha(count_families(tested_slices))
            for place in tested_slices:
                label, before = place.label, place.reference
                families.append(examine_slice(label, before, place.current, request.descriptors, rules, alpha))
        named += [("drift", name) for family in families for name in family.drifted]
        pool = self._since_pin.add(whole)
        if named:
            self._since_pin.reject()
        if pool is not None and tested:  # the last windows as one; see `families`
            number, after, between = pool
            before, alpha = Summary.merged([reference, between]), rules.pooled_alpha(number, 0)
            together = examine_together(request.app, before, after, request.descriptors, rules, alpha)
            named += [("drift", name) for name in together.drifted]
        if self._volume:
            volume = judge_volume(since, whole.rows, self._past, rules.volume_alpha(), rules.volume_floor)
            named += [("volume", ROWS)] * volume.alarm
            self._past.append(PastWindow(since, whole.rows))
        return [ReplayedAlarm(since, kind, what) for kind, what in dict.fromkeys(named)], tested

    def _sequential(self, parts: Sequence[Past], length: int) -> Iterator[str]:
        step = length * 3600.0 / len(parts)
        for name, detector in self._detectors.items():
            for at, part in parts:
                begin, seen = at.timestamp(), part.flags.get(name, FlagSummary())
                state = self._states.get(name) or detector.open(begin, "replay")
                self._states[name], crossings = detector.advance(
                    state, [FlagBatch(begin, begin + step, seen.n, seen.hits)]
                )
                if crossings:
                    yield name


def _resample(
    request: ReplayRequest,
    hours: Mapping[datetime, Summary],
    begin: datetime,
    total: int,
    length: int,
    progress: Progress | None,
) -> Resampled | None:
    """Months of drawn blocks. Numbers of rows are not judged in them: drawing blocks evens them out."""
    block = min(BLOCK_HOURS, length)
    slots = max(24 // block, 1) if 24 % block == 0 else 1
    blocks: dict[int, list[Summary]] = {}
    for number in range(total // block):
        start = begin + number * block * HOUR
        summary = Summary.merged(hours[start + step * HOUR] for step in range(block) if start + step * HOUR in hours)
        blocks.setdefault(number % slots, []).append(summary)
    if not request.months or len(blocks) < slots or min(map(len, blocks.values())) < 2:
        return None
    chance = random.Random(request.seed)  # noqa: S311 - a simulation
    alarmed, what, steps = 0, Counter[str](), max(length // block, 1)
    for month in range(request.months):
        judge, names = _Judge(request, volume=False), set[str]()
        for window in range(request.rules.windows_per_month):
            since = begin + window * length * HOUR
            parts = [
                (since + step * block * HOUR, chance.choice(blocks[(window * steps + step) % len(blocks)]))
                for step in range(steps)
            ]
            names |= {alarm.what for alarm in judge.window(since, length, parts, {})[0]}
        alarmed += bool(names)
        what.update(names)
        if progress:
            progress(total // length + month + 1, total // length + request.months)
    return Resampled(request.months, alarmed, what)
