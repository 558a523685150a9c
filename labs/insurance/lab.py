"""The insurance lab: does adding the accidents of an area better the risk that an old formula gives to a policy?"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from labs.data import LabData, LabelledRows, Split
from labs.evaluation import MetricEstimate
from labs.insurance.analysis import findings, level_figure
from labs.insurance.data import load_insurance
from labs.insurance.models import CANDIDATES, RULES, SCORERS, evaluate, mean_deviance, rebased, train_first, train_on
from labs.insurance.splits import REPLAY_FROM, between, first_split, quarters
from labs.lab import FIRST, Json, Lab
from labs.training import Trained
from monitoring.tabular.settings import TabularSettings


class InsuranceLab(Lab):
    """Policies by the quarter. All claims of a quarter are known when the next one ends."""

    name, model_name = "insurance", "risk"
    metric, baseline = "deviance", "formula"
    error_name, compared_name = "deviance", "claims / expected"
    blocks, labels_late, judged_late, windows_in_budget, reference_grows = True, 1, True, 10, True
    scorers, rules = SCORERS, RULES
    # Claims over expected claims: young drivers bring more of both, so that whom the company insures may change.
    monitoring = TabularSettings(loss="ratio", rise_floor=0.1)

    @cached_property
    def data(self) -> LabData:
        return load_insurance(self.settings, self.source)

    def first_models(self) -> Sequence[Trained]:
        return train_first(self.data.table, self.data.fetched.source)

    def findings(self, models: Sequence[Trained], best: Trained) -> list[Json]:
        return findings(models, best)

    def figures(self, model: Trained) -> dict[str, Any]:
        return {"claims_by_decile.png": level_figure(model)}

    def windows(self) -> Sequence[str]:
        return [name for name in quarters(self.data.table) if name >= REPLAY_FROM]

    def window(self, name: str) -> LabelledRows:
        return between(self.data.table, name, name, self.data.fetched.source)

    def holdout(self, trained_on: str) -> LabelledRows:
        if trained_on == FIRST:
            return first_split(self.data.table, self.data.fetched.source).holdout
        return self.window(self._known_until(trained_on)[-1])

    def challenger(self, window: str, since: str, champion: Json) -> Trained | None:
        """A model of every quarter but the newest whose claims are known, which judges it. Its level is that of the
        quarters since the rise, of which there must be one beside the one that judges."""
        known, risen = self._known_until(window), self._known_until(since)[-1]
        if known[-1] <= risen:
            return None
        candidate = next(each for each in CANDIDATES if each.name == champion["candidate"])
        rows = [
            between(self.data.table, first, last, self.data.fetched.source)
            for first, last in ((known[0], known[-2]), (known[-1], known[-1]), (risen, known[-2]))
        ]
        return rebased(train_on(Split(rows[0], rows[1]), candidate, champion["parameters"]), rows[2])

    def evaluate_rows(self, rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
        return evaluate(rows, predictions)

    def error(self, rows: LabelledRows, predictions: Sequence[Any]) -> float:
        # Without the other metrics, whose intervals take half a second.
        return mean_deviance(rows.truth, predictions)

    def _known_until(self, window: str) -> Sequence[str]:
        """The quarters whose claims are all known when one ends."""
        names = quarters(self.data.table)
        return names[: names.index(window) + 1 - self.labels_late]
