"""Metrics of a recorded run within the rows that share a tag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llmops.evaluation.eval_set import cluster_of
from llmops.evaluation.results import RowResult
from llmops.evaluation.statistics import UNLIMITED, mean_interval
from llmops.factsheet.contents import Metric, Slice

MOST_SLICES = 20
"""Of one tag: beyond, it names rows rather than slices."""


@dataclass(slots=True)
class _Gathered:
    values: list[float] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    failed: int = 0

    def metric(self, name: str, clustered: bool, limits: tuple[float, float]) -> Metric:
        if not self.values:
            return Metric(name, None, None, 0, self.failed)
        ci95 = mean_interval(self.values, self.clusters if clustered else None, limits)
        return Metric(name, sum(self.values) / len(self.values), ci95, len(self.values), self.failed)


def slices_of(
    rows: Iterable[RowResult],
    scorers: Sequence[str],
    cluster_by: str | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[Slice, ...]:
    """The scorers' means with 95 % intervals in each slice, in the order of slices and scorers. Tags of more than
    `MOST_SLICES` values are left out.

    rows: read twice, so that they need not be in memory. cluster_by: as `cluster_of` reads it. limits: of a scorer's
    values, where they are known.
    """
    names = _slices(rows) if scorers else []
    gathered = {(name, scorer): _Gathered() for name in names for scorer in scorers}
    for result in rows if names else ():
        cluster = cluster_of(result.row, cluster_by) if cluster_by else None
        for name in _named(result):
            for scorer in scorers:
                if (found := gathered.get((name, scorer))) is not None:
                    _add(found, result, scorer, cluster)
    return tuple(
        Slice(name, found.metric(scorer, cluster_by is not None, (limits or {}).get(scorer, UNLIMITED)))
        for (name, scorer), found in gathered.items()
    )


def _slices(rows: Iterable[RowResult]) -> list[str]:
    """Names of the slices, in order; a tag that all rows share alike makes none."""
    values: dict[str, Counter[str]] = {}
    for result in rows:
        for tag, value in result.row.tags.items():
            counted = values.setdefault(tag, Counter())
            if len(counted) <= MOST_SLICES:
                counted[value] += 1
    return [
        f"{tag}={value}"
        for tag, counted in sorted(values.items())
        if 1 < len(counted) <= MOST_SLICES
        for value in sorted(counted)
    ]


def _named(result: RowResult) -> Iterator[str]:
    return (f"{tag}={value}" for tag, value in result.row.tags.items())


def _add(found: _Gathered, result: RowResult, scorer: str, cluster: str | None) -> None:
    score = result.scores.get(scorer)
    if score is None or score.value is None:
        found.failed += 1
        return
    found.values.append(score.value)
    found.clusters.append(cluster or f"row {result.row.id}")
