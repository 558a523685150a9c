"""The slices of a window that are tested, each beside what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitoring.decide.pinned_summaries import PinnedSummaries, largest
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import Summary

APP = "app"


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
    fitting = {
        name: descriptor
        for name, descriptor in descriptors.items()
        if reference.versions.get(name, "") == descriptor.version
    }
    return fitting, tuple(name for name in descriptors if name not in fitting)
