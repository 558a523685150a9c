"""What a reference was like, kept for good: its summaries, whole, by slice and by stratum of like questions."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llmops.production_log import LogRecord
from monitoring.decide.strata import LANGUAGE, LENGTH, STRATUM, Strata
from monitoring.store.rows import DescribedRows, objects
from monitoring.store.summaries import OTHER, Summariser, Summary, SummaryMerge

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


class Windows(Protocol):
    """What is read of the described log; see `windows.WindowReader`."""

    def summary(
        self, app: str, since: datetime | None, until: datetime | None, dimension: str | None = None
    ) -> dict[str | None, Summary]: ...

    def hours(
        self, app: str, since: datetime | None, until: datetime | None, dimension: str = "app", value: str = ""
    ) -> list[tuple[datetime, Summary]]: ...

    def rows(
        self,
        app: str,
        since: datetime | None,
        until: datetime | None,
        columns: Collection[str] | None = None,
        where: Mapping[str, str | None] | None = None,
        *,
        shadow: bool = False,
    ) -> DescribedRows: ...

    def parts(
        self,
        app: str,
        since: datetime | None,
        until: datetime | None,
        columns: Collection[str] | None = None,
        where: Mapping[str, str | None] | None = None,
        *,
        shadow: bool = False,
    ) -> Iterator[DescribedRows]: ...


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
    reader: Windows,
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
    reader: Windows,
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
    spans = _spread(since, until, STRATA_ROWS / max(rows, 1))
    for part in itertools.chain.from_iterable(reader.parts(app, *span, wanted, where) for span in spans):
        names, groups = np.unique(strata.of(part).astype(str), return_inverse=True)
        summaries = Summariser(part, descriptors.descriptors).by_group(groups.astype(np.int64), len(names))
        for name, summary in zip(names.tolist(), summaries, strict=True):
            merges.setdefault(name, SummaryMerge()).add(summary)
    return {name: merge.result() for name, merge in merges.items()}


def _spread(since: datetime, until: datetime, share: float) -> list[tuple[datetime, datetime]]:
    """Pieces of a window that are spread evenly over it and make up that share of it."""
    if share >= 1:
        return [(since, until)]
    step = (until - since) / STRATA_SPANS
    return [(since + number * step, since + number * step + share * step) for number in range(STRATA_SPANS)]


def largest(by_value: Mapping[str | None, Summary]) -> dict[str, Summary]:
    """The MOST_SLICES slices with the most rows; rows without a value, or of no value in particular, are in none."""
    named = [(value, summary) for value, summary in by_value.items() if value and value != OTHER]
    return dict(sorted(named, key=lambda item: (-item[1].rows, item[0]))[:MOST_SLICES])


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a time."""
    return datetime.fromtimestamp(seconds, UTC)
