"""The bike lab: trained on 2011, its champion meets 2012 month by month."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from labs.definition import FIRST
from labs.evaluation import Estimate
from labs.lab import Lab
from labs.labelled_rows import LabelledRows
from labs.step_json import Json

if TYPE_CHECKING:
    from labs.bike.data import BikeData
    from labs.gating import Judgement
    from labs.training import Trained
    from monitoring.tabular import TabularSettings


class BikeLab(Lab):
    """Rentals by the hour. The hours of a day depend on each other; what was rented is known when the month ends."""

    name, metric, baseline = "bike", "rmse", "forest"
    blocks, labels_late, windows_in_budget, reference_grows = True, 0, 12, True

    @cached_property
    def data(self) -> BikeData:
        from labs.bike.data import load_bike

        return load_bike(self.settings, self.source)

    @property
    def monitoring(self) -> TabularSettings:
        """The error that the gate judges, in rentals. Inputs drift with the seasons, which is told and no alarm."""
        from monitoring.tabular import TabularSettings

        return TabularSettings(loss="absolute", rise_floor=0.1)

    def first_models(self) -> Sequence[Trained]:
        from labs.bike.models import train_first

        return train_first(self.data)

    def windows(self) -> Sequence[str]:
        from labs.bike.splits import replay_months

        return replay_months(self.data.table)

    def window(self, name: str) -> LabelledRows:
        from labs.bike.splits import month_rows

        return month_rows(self.data.table, name, self.data.fetched.source)

    def holdout(self, trained_on: str) -> LabelledRows:
        from labs.bike.splits import first_split, split_until

        table, source = self.data.table, self.data.fetched.source
        split = first_split(table, source) if trained_on == FIRST else split_until(table, trained_on, source)
        return split.holdout

    def challenger(self, window: str, since: str, champion: Json) -> Trained | None:  # noqa: ARG002 - a month is enough
        from labs.bike.candidates import CANDIDATES
        from labs.bike.models import train_challenger

        candidate = next(each for each in CANDIDATES if each.name == champion["candidate"])
        return train_challenger(self.data, window, candidate, champion["parameters"])

    def judge(self, challenger: tuple[str, Any], champion: tuple[str, Any] | None, rows: LabelledRows) -> Judgement:
        from labs.bike.models import judge_challenger

        return judge_challenger(challenger, champion, rows)

    def evaluate_rows(self, rows: LabelledRows, predictions: Any) -> dict[str, Estimate]:
        from labs.bike.models import evaluate

        return evaluate(rows, predictions)

    def error_of(self, metrics: Mapping[str, Estimate]) -> float:
        """The RMSE, in rentals an hour."""
        return metrics["rmse"].value
