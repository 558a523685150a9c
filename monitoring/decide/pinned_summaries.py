"""What a reference was like, kept for good: its summaries, whole, by slice and by stratum of like questions."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from llmops.production_log import LogRecord
from monitoring.decide.drift import DriftTest, compare
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor, DescriptorSet
from monitoring.store.hourly import APP
from monitoring.store.ingest import describe
from monitoring.store.rows import DescribedRows
from monitoring.store.summaries import (
    OTHER,
    FlagSummary,
    LabelSummary,
    NumberSummary,
    Summariser,
    Summary,
    SummaryMerge,
)
from monitoring.store.windows import WindowReader

# Rows with like questions, and whether what changed in the answers is explained by what changed in the questions.
#
# Answers change when questions do: longer questions get longer answers, German ones German answers. To roll back a
# release then cures nothing. So where both sides drifted, each drifted descriptor of the answers is compared once more
# among rows with like questions: the same language, and lengths that differ by less than a fifth (direct
# standardisation to the current mix of questions; Rothman, Greenland & Lash, Modern Epidemiology, ch. 4). Strata are
# that narrow because within a wide one, such as the longest fifth of what was asked before, longer questions are still
# longer. The change is explained when among like questions it is below the effect floor, or at most half of what it
# was: some difference of the questions always remains. It is not explained when more than that remains, and is certain.
# Strata are small: a change that remains and is not certain is not thereby explained, and nothing is said.
#
# It says something of questions that differ in language or length alone. New topics in old lengths look like a change
# of the answers; the descriptors cannot see them.

STRATUM = "stratum"
LANGUAGE, LENGTH = "input.language", "input.length"
LANGUAGES = 3
LENGTH_STEPS = 4
"""Strata for each doubling of the length of a question: 19 % wide."""
LIKE_QUESTIONS = 0.5
"""Below this share of current rows with like questions in the reference, nothing can be said."""
MOST_EXPLAINED = 0.5
"""A change that is at most this share of itself among like questions is explained by the questions."""

LEAST_OF_FLAGS = 5
"""Rows of a stratum, on both sides, that a flag is compared in: its test adds up strata, and they may be small."""

_SMALLEST_P = 1e-300


@dataclass(frozen=True, slots=True)
class AmongLikeQuestions:
    """A descriptor compared among rows with like questions.

    share: of the current rows that have like questions in the reference. p_value: of flags the test of Mantel and
    Haenszel (1959), which adds up the strata's differences; else Fisher's combination over the strata, which are
    independent. effect: as in `drift`, of both windows with the strata weighted as they are now.
    """

    share: float
    p_value: float
    effect: float

    def explains(self, before: DriftTest, floor: float, alpha: float) -> bool | None:
        """Whether the questions explain the change `before`; None when that cannot be told: too few like questions
        were asked before, or what remains among them may be chance."""
        if self.share < LIKE_QUESTIONS:
            return None
        rest = abs(self.effect)
        if rest < floor or rest <= MOST_EXPLAINED * abs(before.effect):
            return True
        return False if self.p_value <= alpha else None


def compare_among_like_questions(
    descriptor: Descriptor, reference: Mapping[str, Summary], current: Mapping[str, Summary], rules: DriftRules
) -> AmongLikeQuestions:
    """Both windows' summaries by stratum."""
    least = LEAST_OF_FLAGS if descriptor.kind == "flag" else rules.minimum_rows
    what = descriptor.name
    total = sum(each.known(what) for each in current.values())
    pairs = [
        (reference[name], now)
        for name, now in current.items()
        if name in reference and min(reference[name].known(what), now.known(what)) >= least
    ]
    used = sum(now.known(what) for _, now in pairs)
    if not used:
        return AmongLikeQuestions(0.0, 1.0, 0.0)
    changes: dict[float | str, float] = {}
    for before, now in pairs:
        weight = now.known(what) / used
        for sign, summary in ((1, now), (-1, before)):
            for cell, share in _shares(descriptor, summary).items():
                changes[cell] = changes.get(cell, 0.0) + sign * weight * share
    if descriptor.kind == "flag":
        effect = changes.get(1.0, 0.0)
    elif descriptor.kind == "label":
        effect = sum(abs(change) for change in changes.values()) / 2
    else:
        ordered = [change for _, change in sorted(changes.items(), key=lambda item: float(item[0]))]
        effect = float(np.abs(np.cumsum(ordered)).max(initial=0.0))
    return AmongLikeQuestions(used / total, _p_value(descriptor, pairs), effect)


def _p_value(descriptor: Descriptor, pairs: Sequence[tuple[Summary, Summary]]) -> float:
    from scipy.stats import combine_pvalues, norm

    if descriptor.kind != "flag":
        p_values = [max(compare(descriptor, before, now).p_value, _SMALLEST_P) for before, now in pairs]
        return float(combine_pvalues(p_values, method="fisher").pvalue)
    # The p of a rare flag in a small stratum is near 1 whatever happened: combining those would say nothing.
    excess = variance = 0.0
    for before, now in ((pair[0].flags[descriptor.name], pair[1].flags[descriptor.name]) for pair in pairs):
        rows, hits = before.n + now.n, before.hits + now.hits
        excess += now.hits - now.n * hits / rows
        variance += hits * (rows - hits) * before.n * now.n / (rows**2 * (rows - 1))
    if not variance:
        return 1.0
    z = excess / variance**0.5
    return float(norm.sf(z) if descriptor.harmful else 2 * norm.sf(abs(z)))


def _shares(descriptor: Descriptor, summary: Summary) -> dict[float | str, float]:
    """The share of rows in each cell: a bin of numbers, a label, or a flag that is set."""
    part = summary.part(descriptor.name)
    if isinstance(part, NumberSummary):
        return {cell: count / part.n for cell, count in zip(part.bins.tolist(), part.counts.tolist(), strict=True)}
    if isinstance(part, FlagSummary):
        return {1.0: part.share}
    if isinstance(part, LabelSummary):
        return {label: count / part.n for label, count in part.counts.items()}
    return {}


WHOLE = ("", "")
# By these every release differs: slices of them are compared with the whole reference.
VERSIONED = ("release", "prompt", "model")
MOST_SLICES = 20
"""Of one dimension, so many slices with the most rows are kept and tested."""
STRATA_ROWS = 50_000
"""Strata are counted over about so many rows, in STRATA_SPANS pieces of the window."""
STRATA_SPANS = 6


@dataclass(frozen=True, slots=True)
class PinnedSummaries:
    """parts: by dimension and value of the slice; WHOLE for all rows."""

    parts: Mapping[tuple[str, str], Summary]

    @property
    def whole(self) -> Summary:
        return self.parts.get(WHOLE, Summary())

    def slice(self, dimension: str, value: str) -> Summary | None:
        """What a slice is compared with: all rows for a release, prompt or model version, its own rows otherwise."""
        return self.whole if dimension in VERSIONED else self.parts.get((dimension, value))

    @property
    def strata(self) -> dict[str, Summary]:
        """By stratum of like questions."""
        return {value: summary for (dimension, value), summary in self.parts.items() if dimension == STRATUM}


def freeze(
    reader: WindowReader,
    descriptors: DescriptorSet,
    app: str,
    since: datetime,
    until: datetime,
    *,
    dimensions: Sequence[str],
    release: str | None = None,
) -> PinnedSummaries:
    """What a window of the log is like. release: only its rows; slices other than strata are then left out, since
    hours are summarised by one dimension at a time. Raises StoreUnavailable."""
    if release is not None:
        whole = reader.by_value(app, since, until, "release").get(release, Summary())
    else:
        whole = reader.whole(app, since, until)
    parts = {WHOLE: whole}
    for dimension in () if release is not None else dimensions:
        if dimension not in VERSIONED:
            parts |= {
                (dimension, value): summary
                for value, summary in largest(reader.by_value(app, since, until, dimension)).items()
            }
    by_stratum = strata_of(reader, descriptors, whole, app, since, until, rows=whole.rows, release=release)
    return PinnedSummaries(parts | {(STRATUM, value): summary for value, summary in by_stratum.items()})


def freeze_records(descriptors: DescriptorSet, records: Sequence[LogRecord]) -> PinnedSummaries:
    """What answers from outside the log are like, such as the gate's: of their output alone."""
    of_output = descriptors.only([name for name, each in descriptors.descriptors.items() if each.side == "output"])
    rows, _ = describe(records, of_output)
    return PinnedSummaries({WHOLE: Summary.of(rows, of_output)})


def strata_of(
    reader: WindowReader,
    descriptors: DescriptorSet,
    reference: Summary,
    app: str,
    since: datetime,
    until: datetime,
    *,
    rows: int,
    release: str | None = None,
    columns: Collection[str] | None = None,
) -> dict[str, Summary]:
    """Summaries of a window by stratum, over a sample.

    reference: all of its rows; the commonest LANGUAGES of them have strata of their own.
    rows: about how many the window has.
    release: only its rows.
    columns: only these descriptors.

    Raises StoreUnavailable.
    """
    counts = reference.labels[LANGUAGE].counts if LANGUAGE in reference.labels else {}
    languages = sorted(counts, key=lambda name: (-counts[name], name))[:LANGUAGES]
    merges: dict[str, SummaryMerge] = {}
    wanted = None if columns is None else {*columns, LANGUAGE, LENGTH}
    where = None if release is None else {"release": release}
    spans, share = [(since, until)], STRATA_ROWS / max(rows, 1)
    if share < 1:
        step = (until - since) / STRATA_SPANS
        spans = [(since + number * step, since + (number + share) * step) for number in range(STRATA_SPANS)]
    for part in itertools.chain.from_iterable(reader.parts(app, *span, wanted, where) for span in spans):
        names, groups = np.unique(_stratum_of(part, languages), return_inverse=True)
        summaries = Summariser(part, descriptors.descriptors).by_group(groups.astype(np.int64), len(names))
        for name, summary in zip(names.tolist(), summaries, strict=True):
            merges.setdefault(name, SummaryMerge()).add(summary)
    return {name: merge.result() for name, merge in merges.items()}


def _stratum_of(rows: DescribedRows, languages: Collection[str]) -> list[str]:
    """The stratum of each row, such as `en/22`; questions without a length have one of their own."""
    named = rows.columns[LANGUAGE].tolist() if LANGUAGE in rows.columns else [None] * len(rows)
    lengths = rows.columns.get(LENGTH, np.full(len(rows), np.nan, dtype=np.float32))
    steps = np.floor(LENGTH_STEPS * np.log2(np.maximum(np.nan_to_num(lengths, nan=0.0), 0.0) + 1.0)).astype(int)
    return [
        f"{name if name in languages else 'other'}/{step}" for name, step in zip(named, steps.tolist(), strict=True)
    ]


def largest(by_value: Mapping[str, Summary]) -> dict[str, Summary]:
    """The MOST_SLICES slices with the most rows; rows without a value, or of no value in particular, are in none."""
    named = [(value, summary) for value, summary in by_value.items() if value and value != OTHER]
    return dict(sorted(named, key=lambda item: (-item[1].rows, item[0]))[:MOST_SLICES])


@dataclass(frozen=True, slots=True)
class TestedSlice:
    """Rows that are tested together. label: `{"app": …}` for all rows, else dimension and value of the slice."""

    label: dict[str, str]
    reference: Summary
    current: Summary


def slices_to_test(
    app: str,
    whole: Summary,
    slices: Mapping[str, Mapping[str, Summary]],
    reference: PinnedSummaries,
    minimum_rows: int,
) -> list[TestedSlice]:
    """All rows, then each slice with enough rows on both sides, by dimension and name.

    A release, prompt or model version is compared with all rows of the reference: the new one is to be as the old one
    was. Any other slice is compared with its own rows there: German questions with German questions.
    """
    tested = [TestedSlice({APP: app}, reference.whole, whole)]
    for dimension, by_value in slices.items():
        for value, summary in sorted(largest(by_value).items()):
            before = reference.slice(dimension, value)
            if before is not None and min(before.rows, summary.rows) >= minimum_rows:
                tested.append(TestedSlice({dimension: value}, before, summary))
    return tested


def count_families(slices: Sequence[TestedSlice]) -> int:
    """Places with different tests: a release that answered every request is the same family as the whole app.

    The rows alone do not make them the same: a language in which all is asked now is compared with its own past.
    """
    different: list[TestedSlice] = []
    for place in slices:
        if not any(place.current == each.current and place.reference == each.reference for each in different):
            different.append(place)
    return len(different)


def comparable(
    descriptors: Mapping[str, Descriptor], reference: Summary
) -> tuple[dict[str, Descriptor], tuple[str, ...]]:
    """The descriptors that mean the same in the reference, and the names of those that do not: their definition
    changed since, or the reference never had them."""
    fitting = {name: each for name, each in descriptors.items() if reference.versions.get(name, "") == each.version}
    return fitting, tuple(name for name in descriptors if name not in fitting)
