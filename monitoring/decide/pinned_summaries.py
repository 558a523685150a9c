"""What a reference was like, kept for good: its summaries, whole, by slice and by stratum of like questions."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from llmops.production_log import LogRecord
from monitoring.decide.strata import LANGUAGE, LENGTH, STRATUM, Strata
from monitoring.descriptors import Descriptor
from monitoring.store.hourly import APP
from monitoring.store.rows import DescribedRows, objects
from monitoring.store.summaries import OTHER, Summariser, Summary, SummaryMerge
from monitoring.store.windows import WindowReader

if TYPE_CHECKING:
    from monitoring.descriptors import DescriptorSet

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
        whole = reader.summary(app, since, until, "release").get(release, Summary())
    else:
        whole = reader.summary(app, since, until).get(None, Summary())
    parts = {WHOLE: whole}
    for dimension in () if release is not None else dimensions:
        if dimension not in VERSIONED:
            parts |= {
                (dimension, value): summary
                for value, summary in largest(reader.summary(app, since, until, dimension)).items()
            }
    strata = Strata.of_reference(whole)
    by_stratum = strata_of(reader, descriptors, strata, app, since, until, rows=whole.rows, release=release)
    return PinnedSummaries(parts | {(STRATUM, value): summary for value, summary in by_stratum.items()})


def freeze_records(descriptors: DescriptorSet, records: Sequence[LogRecord]) -> PinnedSummaries:
    """What answers from outside the log are like, such as the gate's: of their output alone."""
    described = descriptors.describe(records)
    none = objects([None] * len(records))
    rows = DescribedRows(
        [record.key for record in records],
        [record.request_id for record in records],
        np.array([record.at.timestamp() for record in records], dtype=np.float64),
        {"release": none},
        {name: each for name, each in described.columns.items() if descriptors.descriptors[name].side == "output"},
    )
    return PinnedSummaries({WHOLE: Summary.of(rows, descriptors)})


def strata_of(
    reader: WindowReader,
    descriptors: DescriptorSet,
    strata: Strata,
    app: str,
    since: datetime,
    until: datetime,
    *,
    rows: int,
    release: str | None = None,
    columns: Collection[str] | None = None,
) -> dict[str, Summary]:
    """Summaries of a window by stratum, over a sample. rows: about how many it has. columns: only these descriptors.

    Raises StoreUnavailable.
    """
    merges: dict[str, SummaryMerge] = {}
    wanted = None if columns is None else {*columns, LANGUAGE, LENGTH}
    where = None if release is None else {"release": release}
    spans, share = [(since, until)], STRATA_ROWS / max(rows, 1)
    if share < 1:
        step = (until - since) / STRATA_SPANS
        spans = [(since + number * step, since + (number + share) * step) for number in range(STRATA_SPANS)]
    for part in itertools.chain.from_iterable(reader.parts(app, *span, wanted, where) for span in spans):
        names, groups = np.unique(strata.of(part).astype(str), return_inverse=True)
        summaries = Summariser(part, descriptors.descriptors).by_group(groups.astype(np.int64), len(names))
        for name, summary in zip(names.tolist(), summaries, strict=True):
            merges.setdefault(name, SummaryMerge()).add(summary)
    return {name: merge.result() for name, merge in merges.items()}


def largest(by_value: Mapping[str | None, Summary]) -> dict[str, Summary]:
    """The MOST_SLICES slices with the most rows; rows without a value, or of no value in particular, are in none."""
    named = [(value, summary) for value, summary in by_value.items() if value and value != OTHER]
    return dict(sorted(named, key=lambda item: (-item[1].rows, item[0]))[:MOST_SLICES])


@dataclass(frozen=True, slots=True)
class TestedSlice:
    """Rows that are tested together. dimension: `app` for all rows; value: the app's name, or the slice's."""

    dimension: str
    value: str
    reference: Summary
    current: Summary

    @property
    def label(self) -> dict[str, str]:
        return {self.dimension: self.value}

    @property
    def rows_like(self) -> tuple[str, str] | None:
        """Dimension and value of its rows; None for all rows."""
        return None if self.dimension == APP else (self.dimension, self.value)


def slices_to_test(
    app: str,
    whole: Summary,
    slices: Mapping[str, Mapping[str | None, Summary]],
    reference: PinnedSummaries,
    minimum_rows: int,
) -> list[TestedSlice]:
    """All rows, then each slice with enough rows on both sides, by dimension and name.

    A release, prompt or model version is compared with all rows of the reference: the new one is to be as the old one
    was. Any other slice is compared with its own rows there: German questions with German questions.
    """
    places = [TestedSlice(APP, app, reference.whole, whole)]
    for dimension, by_value in slices.items():
        for value, summary in sorted(largest(by_value).items()):
            before = reference.slice(dimension, value)
            if before is not None and min(before.rows, summary.rows) >= minimum_rows:
                places.append(TestedSlice(dimension, value, before, summary))
    return places


def count_families(places: Sequence[TestedSlice]) -> int:
    """Places with different tests: a release that answered every request is the same family as the whole app.

    The rows alone do not make them the same: a language in which all is asked now is compared with its own past.
    """
    different: list[TestedSlice] = []
    for place in places:
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
