"""The wine lab: three cultivars told apart by a chemical analysis, until the laboratory changes its instrument."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from labs.data import LabData, LabelledRows, Split
from labs.evaluation import MetricEstimate
from labs.lab import FIRST, Json, Lab
from labs.training import Trained
from labs.wine.data import halves, load_wine
from labs.wine.models import CANDIDATES, RULES, SCORERS, challenger_split, evaluate, train_challenger, train_first
from labs.wine.shift import Batch, stream
from monitoring.tabular.settings import TabularSettings

_LABELLED_BATCHES = 2
"""Batches with labels that a challenger needs: with one, the gate can tell in half of the cases only."""


class WineLab(Lab):
    """Batches of wines. The cultivars of one are known when the next one comes."""

    name = model_name = "wine"
    metric, baseline = "accuracy", "majority"
    error_name = compared_name = "share wrong"
    blocks, labels_late, windows_in_budget = False, 1, 12
    reference_grows = False  # the batches are drawn from the rows held out: they would count twice
    scorers, rules = SCORERS, RULES
    # Bottles are drawn from the same wines all the time, so a column that drifts is an alarm: before the labels come.
    monitoring = TabularSettings(alarm_on_drift=True)

    @cached_property
    def data(self) -> LabData:
        return load_wine(self.settings, self.source)

    @cached_property
    def halves(self) -> Split:
        """training: the wines a first model is made of. holdout: those whose later bottles are monitored."""
        return halves(self.data)

    @cached_property
    def batches(self) -> Mapping[str, Batch]:
        """By name, in order."""
        return {batch.name: batch for batch in stream(self.halves.holdout)}

    def first_models(self) -> Sequence[Trained]:
        return train_first(self.halves)

    def windows(self) -> Sequence[str]:
        return list(self.batches)

    def window(self, name: str) -> LabelledRows:
        return self.batches[name].rows

    def holdout(self, trained_on: str) -> LabelledRows:
        split = self.halves if trained_on == FIRST else challenger_split(self._labelled_until(trained_on))
        return split.holdout

    def challenger(self, window: str, since: str, champion: Json) -> Trained | None:
        batches = [each for each in self._labelled_until(window) if each.number >= self.batches[since].number]
        if len(batches) < _LABELLED_BATCHES:
            return None
        candidate = next(each for each in CANDIDATES if each.name == champion["candidate"])
        return train_challenger(batches, candidate, champion["parameters"])

    def evaluate_rows(self, rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
        return evaluate(rows, predictions)

    def error_of(self, metrics: Mapping[str, MetricEstimate]) -> float:
        """The share of wrong cultivars."""
        return 1 - metrics["accuracy"].value

    def _labelled_until(self, window: str) -> list[Batch]:
        """The newest batches whose cultivars are known by the end of a window, as many as a challenger needs."""
        now = self.batches[window].number
        return [each for each in self.batches.values() if each.labelled_at <= now][-_LABELLED_BATCHES:]
