"""False alarms and detection of the monitor, by simulation of months; exits 1 when a claim does not hold.

    python -m benchmarks.monitoring.simulation [--months 200] [--quick]

Each month has a reference of its own and 30 daily windows of rows like those of a chat app: ten correlated descriptors,
six numbers (three of which are one signal) and four flags. They go through the functions of the product: summaries,
families of tests, windows taken together, detectors advanced by the hour, limits and volume, with the default rules.
Any alarm of any kind counts. A rate is held against its bound with the error of the simulation allowed for: a claim
fails when a true rate at the bound would give what was measured less than once in 1,000 simulations. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from scipy import stats

from llmops.evaluation.statistics import sign_test_interval
from monitoring.config import read_config
from monitoring.decide.detectors import DetectorState, FlagBatch, FlagDetector
from monitoring.decide.drift import examine_slice
from monitoring.decide.families import SincePin, examine_together
from monitoring.decide.limits import Limit, PastWindow, check_limits, judge_volume
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.rows import DescribedRows
from monitoring.store.summaries import FlagSummary, Summariser, Summary

Column = np.ndarray[Any, Any]
Change = Callable[[dict[str, Column], np.random.Generator], None]

DAYS = 30
TICKS = 24
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
RULES = DriftRules()
SIZES = (200, 1_000, 1_001, 5_000)

DESCRIPTORS = {
    each.name: each
    for each in (
        Descriptor("output.length", "numeric", "output"),
        Descriptor("output.words", "numeric", "output"),
        Descriptor("output.sentences", "numeric", "output"),
        Descriptor("output.non_letter", "numeric", "output"),
        Descriptor("latency_ms", "numeric", "service"),
        Descriptor("output.sentiment", "numeric", "output"),
        Descriptor("output.link", "flag", "output"),
        Descriptor("output.refusal", "flag", "output", harmful=True),
        Descriptor("output.pii_email", "flag", "output", harmful=True),
        Descriptor("output.empty", "flag", "output", harmful=True),
    )
}
SHARES = {"output.link": 0.08, "output.refusal": 0.05, "output.pii_email": 0.03, "output.empty": 0.04}
LIMITS = (Limit("output.refusal", share_at_most=0.05), Limit("latency_ms", quantile=0.95, at_most=12.0))
HARMFUL = [name for name, each in DESCRIPTORS.items() if each.harmful]
PACKAGED = [name for name, each in read_config().descriptors.descriptors.items() if each.harmful]
"""The harmful flags of default.toml, which share the detectors' part of the budget there."""


def draw(rows: int, chance: np.random.Generator) -> dict[str, Column]:
    """Quiet rows; one number of each row, its length, moves three descriptors."""
    length = chance.lognormal(3.6, 0.5, rows)
    columns = {
        "output.length": (length * 6).astype(int),
        "output.words": (length * np.exp(chance.normal(0, 0.05, rows))).astype(int),
        "output.sentences": np.maximum(1, (length / 9).astype(int)),
        "output.non_letter": chance.gamma(2, 1, rows),
        "latency_ms": chance.gamma(1.5, 2, rows),
        "output.sentiment": np.clip(chance.normal(0.2, 0.4, rows), -1, 1),
    }
    return columns | {name: chance.random(rows) < share for name, share in SHARES.items()}


def refusing(share: float) -> Change:
    def change(columns: dict[str, Column], chance: np.random.Generator) -> None:
        columns["output.refusal"] = chance.random(len(columns["output.refusal"])) < share

    return change


def shifted(name: str, by: float, sd: float) -> Change:
    def change(columns: dict[str, Column], _chance: np.random.Generator) -> None:
        columns[name] = columns[name] + by * sd

    return change


def summarise(columns: dict[str, Column]) -> Summary:
    described = {name: column.astype(np.float32) for name, column in columns.items()}
    rows = len(next(iter(described.values())))
    keys = [""] * rows
    at = np.zeros(rows)
    return Summariser(DescribedRows(keys, keys, at, {}, described), DESCRIPTORS).by_group(at.astype(np.int64), 1)[0]


@dataclass
class Month:
    """One month against one reference. flags: those that share the detectors' part of the budget. alarms: (day, kind,
    descriptor)."""

    reference: Summary
    flags: Sequence[str] = field(default_factory=lambda: HARMFUL)
    states: dict[str, DetectorState] = field(default_factory=dict)
    past: list[PastWindow] = field(default_factory=list)
    since_pin: SincePin = field(default_factory=SincePin)
    alarms: list[tuple[int, str, str]] = field(default_factory=list)

    def run_day(self, day: int, columns: dict[str, Column], families: int = 1) -> None:
        """Judges one day's rows: hour by hour by the detectors, then as a window."""
        current = summarise(columns)
        found = examine_slice({"app": "a"}, self.reference, current, DESCRIPTORS, RULES, RULES.alpha(families))
        self.alarms += [(day, "drift", name) for name, drift in found.descriptors.items() if drift.drifted]
        self.alarms += [(day, "sequential", name) for name in self._sequential(day, columns)]
        alpha = RULES.limit_alpha(len(LIMITS))
        self.alarms += [
            (day, "limit", each.limit.descriptor) for each in check_limits(LIMITS, current, alpha) if each.broken
        ]
        self.alarms += [(day, "pooled", name) for name in self._pooled(day, current)]
        since = BEGIN + timedelta(days=day)
        judged = judge_volume(since, current.rows, self.past, RULES.volume_alpha(), RULES.volume_floor)
        self.past.append(PastWindow(since, current.rows))
        self.alarms += [(day, "volume", "rows")] * judged.alarm

    def _pooled(self, day: int, current: Summary) -> list[str]:
        pool = self.since_pin.add(current)
        if any(alarmed == day for alarmed, _, _ in self.alarms):
            self.since_pin.reject()
        if pool is None:
            return []
        number, after, between = pool
        before, alpha = Summary.merged([self.reference, between]), RULES.pooled_alpha(number, 0)
        found = examine_together("a", before, after, DESCRIPTORS, RULES, alpha)
        return [name for name, drift in found.descriptors.items() if drift.drifted]

    def _sequential(self, day: int, columns: dict[str, Column]) -> Iterator[str]:
        begin, hour = (BEGIN + timedelta(days=day)).timestamp(), 86_400.0 / TICKS
        for name in HARMFUL:
            detector = detector_of(name, self.reference.flags[name], self.flags)
            state = self.states.get(name) or detector.open(begin, "pinned")
            parts = np.array_split(columns[name], TICKS)
            batches = [
                FlagBatch(begin + tick * hour, begin + (tick + 1) * hour, len(part), int(part.sum()))
                for tick, part in enumerate(parts)
            ]
            self.states[name], crossings = detector.advance(state, batches)
            if crossings:
                yield name


def detector_of(name: str, reference: FlagSummary, flags: Sequence[str]) -> FlagDetector:
    """As for the whole app, where releases are watched beside it."""
    return FlagDetector(reference, RULES.flag_alpha(name, flags), RULES.floor(DESCRIPTORS[name]))


def run_month(
    chance: np.random.Generator, reference: int, daily: int, days: int, change: Change | None = None, from_day: int = 0
) -> Month:
    month = Month(summarise(draw(reference, chance)))
    for day in range(days):
        columns = draw(daily, chance)
        if change is not None and day >= from_day:
            change(columns, chance)
        month.run_day(day, columns)
    return month


@dataclass(frozen=True)
class Claim:
    """A line of the table. bound: None for what is only told."""

    text: str
    found: int
    of: int
    bound: float | None
    at_most: bool
    note: str = ""

    @property
    def holds(self) -> bool:
        if self.bound is None:
            return True
        if self.at_most:
            return self.found <= float(stats.binom.ppf(0.999, self.of, self.bound))
        return self.found >= float(stats.binom.ppf(0.001, self.of, self.bound))

    def __str__(self) -> str:
        low, high = sign_test_interval(self.found, self.of - self.found)
        sign = "" if self.bound is None else f"{'≤' if self.at_most else '≥'} {self.bound:.0%}"
        verdict = "told " if self.bound is None else "holds" if self.holds else "FAILS"
        share = f"{self.found / self.of:6.1%} [{low:.1%}, {high:.1%}]"
        return f"{verdict} {self.text:<86} {share:<24} {sign:<7} {self.note}"


def detected_as_packaged(months: int, from_day: int) -> Claim:
    """As `detected`, by the detector of refusals alone, beside as many harmful flags as default.toml declares."""
    found, first = 0, 0
    for number in range(months):
        chance = np.random.default_rng([4, number, from_day])
        reference = summarise(draw(1_001, chance))
        detector = detector_of("output.refusal", reference.flags["output.refusal"], PACKAGED)
        state, days = detector.open(BEGIN.timestamp(), "pinned"), []
        for day in range(from_day + 2):
            share = 0.09 if day >= from_day else SHARES["output.refusal"]
            hits = chance.binomial(np.diff(np.linspace(0, 1_000, TICKS + 1).astype(int)), share)
            since = BEGIN.timestamp() + day * 86_400
            for tick, rows in enumerate(np.diff(np.linspace(0, 1_000, TICKS + 1).astype(int)).tolist()):
                batch = FlagBatch(since + tick * 3600, since + (tick + 1) * 3600, rows, int(hits[tick]))
                state, crossings = detector.advance(state, [batch])
                days += [day] * len(crossings)
        found += any(day >= from_day for day in days)
        first += from_day in days
    place = "at once after the pin" if from_day == 0 else f"on day {from_day + 1}"
    text = f"the same beside default.toml's {len(PACKAGED)} flags, {place}: within 2 days against 1,001"
    return Claim(text, found, months, 0.90, False, f"first day {first / months:.0%}; by sequential alone")


def quiet(months: int, size: int) -> Claim:
    """Share of quiet months with any alarm of any kind."""
    kinds: Counter[str] = Counter()
    alarmed = 0
    for number in range(months):
        found = run_month(np.random.default_rng([1, number, size]), size, size, DAYS).alarms
        alarmed += bool(found)
        kinds.update({kind for _, kind, _ in found})
    note = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "no alarm"
    text = f"quiet months with any alarm, daily windows of {size:,} rows"
    return Claim(text, alarmed, months, RULES.false_alarms_per_month, True, note)


def detected(
    months: int, text: str, reference: int, change: Change, what: str, within: int, from_day: int, bound: float | None
) -> Claim:
    """Share of months in which the changed descriptor alarmed within so many days of the change.

    Limits do not count: the one here is set to the true share, which is more than a reference can know.
    """
    found, first, kinds = 0, 0, Counter[str]()
    for number in range(months):
        chance = np.random.default_rng([2, number, reference, from_day])
        alarms = run_month(chance, reference, 1_000, from_day + within, change, from_day).alarms
        mine = [(day, kind) for day, kind, name in alarms if name == what and kind != "limit" and day >= from_day]
        found += bool(mine)
        first += any(day == from_day for day, _ in mine)
        kinds.update({kind for _, kind in mine})
    by = ", ".join(f"{kind} {count / months:.0%}" for kind, count in sorted(kinds.items()))
    place = "at once after the pin" if from_day == 0 else f"on day {from_day + 1}"
    note = f"first day {first / months:.0%}; by {by}"
    return Claim(f"{text}, {place}: within {within} days against {reference:,}", found, months, bound, False, note)


def minutes_to_alarm(months: int, share: float) -> str:
    """How soon a bad release is seen: minutes at 1,000 rows a day and at 1,000 an hour, the median and the slowest."""
    rows = []
    for number in range(months):
        chance = np.random.default_rng([3, number])
        reference = FlagSummary(5_000, int(chance.binomial(5_000, SHARES["output.refusal"])))
        detector = detector_of("output.refusal", reference, HARMFUL)
        state, seen = detector.open(BEGIN.timestamp(), "pinned"), 0
        while seen < 5_000:
            at = BEGIN.timestamp() + seen
            state, crossings = detector.advance(state, [FlagBatch(at, at + 1, 1, int(chance.random() < share))])
            seen += 1
            if crossings:
                break
        rows.append(seen)
    median, slow = (float(np.quantile(rows, q)) for q in (0.5, 0.95))
    return (
        f"told  a release that refuses {share:.0%} instead of 5 %: after {median:.0f} rows (95 %: {slow:.0f}), "
        f"{median * 60 / 1000:.1f} minutes at 1,000 rows an hour"
    )


def claims(months: int, sizes: Sequence[int]) -> Iterator[Claim]:
    for size in sizes:
        yield quiet(months, size)
    risen = "refusals 5 % → 9 %"
    wanted: Sequence[tuple[int, float | None]] = ((5_000, 0.95), (1_001, 0.90))
    for from_day in (0, 15):
        for reference, bound in wanted:
            yield detected(months, risen, reference, refusing(0.09), "output.refusal", 2, from_day, bound)
        yield detected_as_packaged(months, from_day)
    sds = {"output.non_letter": 2**0.5, "latency_ms": 6**0.5, "output.sentiment": 0.4}
    for reference, from_day in ((5_000, 0), (1_001, 0), (1_001, 1), (1_001, 15)):
        for name, sd in sds.items():
            change = shifted(name, 0.2, sd)
            yield detected(months, f"{name} + 0.2 sd", reference, change, name, 3, from_day, 0.95)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring.simulation")
    parser.add_argument("--months", type=int, default=200, help="simulated for each line; default 200")
    parser.add_argument("--quick", action="store_true", help="quiet months of 200 and 1,001 rows a day only")
    given = parser.parse_args()
    started, failed = time.perf_counter(), 0
    stated = RULES.expected_false_alarms(flags=len(HARMFUL), limits=len(LIMITS))
    print("stated false alarms a month, at most: " + ", ".join(f"{part} {x:.3f}" for part, x in stated.items()))
    for claim in claims(given.months, (200, 1_001) if given.quick else SIZES):
        print(claim, flush=True)
        failed += not claim.holds
    for share in (0.3, 0.6):
        print(minutes_to_alarm(given.months, share), flush=True)
    print(f"{given.months} months a line, {time.perf_counter() - started:.0f} s; {failed} claims failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
