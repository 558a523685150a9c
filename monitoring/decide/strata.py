"""Rows with like questions, and whether what changed in the answers is explained by what changed in the questions.

Answers change when questions do: longer questions get longer answers, German ones German answers. To roll back a
release then cures nothing. So where both sides drifted, each drifted descriptor of the answers is compared once more
among rows with like questions: the same language, and lengths that differ by less than a fifth (direct standardisation
to the current mix of questions; Rothman, Greenland & Lash, Modern Epidemiology, ch. 4). Strata are that narrow because
within a wide one, such as the longest fifth of what was asked before, longer questions are still longer. The change is
explained when among like questions it is below the effect floor, or at most half of what it was: some difference of
the questions always remains. It is not explained when more than that remains, and is certain. Strata are small: a
change that remains and is not certain is not thereby explained, and nothing is said.

It says something of questions that differ in language or length alone. New topics in old lengths look like a change of
the answers; the descriptors cannot see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.decide.drift import compare, summary_of, values_of
from monitoring.decide.rules import DriftRules
from monitoring.decide.two_sample import Comparison
from monitoring.descriptors import Descriptor
from monitoring.store.rows import DescribedRows, Objects, objects
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Summary

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
class Strata:
    """languages: those with strata of their own, the commonest of the reference."""

    languages: tuple[str, ...]

    @classmethod
    def of_reference(cls, whole: Summary) -> Strata:
        """For all rows of a reference."""
        counts = whole.labels[LANGUAGE].counts if LANGUAGE in whole.labels else {}
        return cls(tuple(sorted(counts, key=lambda name: (-counts[name], name))[:LANGUAGES]))

    def of(self, rows: DescribedRows) -> Objects:
        """The stratum of each row, such as `en/22`; questions without a length have one of their own."""
        languages = rows.columns.get(LANGUAGE, objects([None] * len(rows)))
        lengths = rows.columns.get(LENGTH, np.full(len(rows), np.nan, dtype=np.float32))
        steps = np.floor(LENGTH_STEPS * np.log2(np.maximum(np.nan_to_num(lengths, nan=0.0), 0.0) + 1.0)).astype(int)
        named = [name if name in self.languages else "other" for name in languages.tolist()]
        return objects([f"{name}/{step}" for name, step in zip(named, steps.tolist(), strict=True)])


@dataclass(frozen=True, slots=True)
class AmongLikeQuestions:
    """A descriptor compared among rows with like questions.

    share: of the current rows that have like questions in the reference. p_value: of flags the test of Mantel and
    Haenszel (1959), which adds up the strata's differences; else Fisher's combination over the strata, which are
    independent. effect: as in `two_sample`, of both windows with the strata weighted as they are now.
    """

    share: float
    p_value: float
    effect: float

    def explains(self, before: Comparison, floor: float, alpha: float) -> bool | None:
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
    total = sum(values_of(descriptor, each) for each in current.values())
    pairs = [
        (reference[name], now)
        for name, now in current.items()
        if name in reference and min(values_of(descriptor, reference[name]), values_of(descriptor, now)) >= least
    ]
    used = sum(values_of(descriptor, now) for _, now in pairs)
    if not used:
        return AmongLikeQuestions(0.0, 1.0, 0.0)
    changes: dict[float | str, float] = {}
    for before, now in pairs:
        weight = values_of(descriptor, now) / used
        for sign, summary in ((1, now), (-1, before)):
            for cell, share in _shares(descriptor, summary).items():
                changes[cell] = changes.get(cell, 0.0) + sign * weight * share
    return AmongLikeQuestions(used / total, _p_value(descriptor, pairs), _effect(descriptor, changes))


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
    found = summary_of(descriptor, summary)
    if isinstance(found, NumberSummary):
        return {cell: count / found.n for cell, count in zip(found.bins.tolist(), found.counts.tolist(), strict=True)}
    if isinstance(found, FlagSummary):
        return {1.0: found.share}
    if isinstance(found, LabelSummary):
        return {label: count / found.n for label, count in found.counts.items()}
    return {}


def _effect(descriptor: Descriptor, changes: Mapping[float | str, float]) -> float:
    if descriptor.kind == "flag":
        return changes.get(1.0, 0.0)
    if descriptor.kind == "label":
        return sum(abs(change) for change in changes.values()) / 2
    ordered = [change for _, change in sorted(changes.items(), key=lambda item: float(item[0]))]
    return float(np.abs(np.cumsum(ordered)).max(initial=0.0))
