"""The bike lab: trained on 2011, its champion meets 2012 month by month."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from labs.bike.data import load_bike
from labs.bike.models import CANDIDATES, RULES, SCORERS, evaluate, train_challenger, train_first
from labs.bike.splits import first_split, month_rows, replay_months, split_until
from labs.data import LabData, LabelledRows
from labs.evaluation import MetricEstimate
from labs.lab import FIRST, Json, Lab
from labs.training import Trained
from monitoring.tabular.settings import TabularSettings


class BikeLab(Lab):
    """Rentals by the hour. The hours of a day depend on each other; what was rented is known when the month ends."""

    name = model_name = "bike"
    metric, baseline = "rmse", "forest"
    error_name, compared_name = "RMSE", "mean error"
    blocks, labels_late, windows_in_budget, reference_grows = True, 0, 12, True
    scorers, rules = SCORERS, RULES
    # The error that the gate judges, in rentals. Inputs drift with the seasons, which is told and no alarm.
    monitoring = TabularSettings(loss="absolute", rise_floor=0.1)

    @cached_property
    def data(self) -> LabData:
        return load_bike(self.settings, self.source)

    def first_models(self) -> Sequence[Trained]:
        return train_first(self.data)

    def windows(self) -> Sequence[str]:
        return replay_months(self.data.table)

    def window(self, name: str) -> LabelledRows:
        return month_rows(self.data.table, name, self.data.fetched.source)

    def holdout(self, trained_on: str) -> LabelledRows:
        table, source = self.data.table, self.data.fetched.source
        split = first_split(table, source) if trained_on == FIRST else split_until(table, trained_on, source)
        return split.holdout

    def challenger(self, window: str, since: str, champion: Json) -> Trained | None:  # noqa: ARG002 - a month is enough
        candidate = next(each for each in CANDIDATES if each.name == champion["candidate"])
        return train_challenger(self.data, window, candidate, champion["parameters"])

    def evaluate_rows(self, rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
        return evaluate(rows, predictions)
