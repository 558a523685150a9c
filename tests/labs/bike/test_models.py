from __future__ import annotations

import pytest

from labs.bike import gate
from labs.bike.candidates import BOOSTING
from labs.bike.data import BikeData, load_bike
from labs.bike.models import evaluate, judge_challenger, train_challenger, train_first, train_on
from labs.bike.splits import first_split, month_rows, replay_months, workshop_split
from labs.training import Trained, best_of
from llmops.errors import UsageError
from llmops.settings import Settings

PARAMETERS = {"max_iter": 60, "max_leaf_nodes": 8}


def relative_error(model: Trained, data: BikeData, month: str) -> float:
    rows = month_rows(data.table, month, "made up")
    return evaluate(rows, model.estimator.predict(rows.features))["relative_error"].value


def test_a_challenger_that_saw_the_new_level_beats_the_champion_at_the_gate(years: BikeData) -> None:
    champion = train_on(first_split(years.table, "made up"), BOOSTING, PARAMETERS)
    assert judge_challenger(("bike@1", champion.predictions), None, champion.holdout).passed
    challenger = train_challenger(years, "2012-01", BOOSTING, PARAMETERS)
    old = champion.estimator.predict(challenger.holdout.features)
    judgement = judge_challenger(("bike@2", challenger.predictions), ("bike@1", old), challenger.holdout)
    assert judgement.passed, judgement.verdict.reasons
    assert relative_error(challenger, years, "2012-02") < relative_error(champion, years, "2012-02") / 1.5


def test_a_model_is_no_better_than_itself(years: BikeData) -> None:
    model = train_challenger(years, "2012-01", BOOSTING, PARAMETERS)
    same = judge_challenger(("b", model.predictions), ("a", model.predictions), model.holdout)
    assert same.verdict.verdict == "inconclusive"


def test_a_month_without_data_cannot_be_trained_on(years: BikeData) -> None:
    with pytest.raises(UsageError, match="no hour"):
        train_challenger(years, "2012-06", BOOSTING, PARAMETERS)


def test_the_gate_asks_for_a_smaller_error() -> None:
    assert gate.RULES.primary in {scorer.name for scorer in gate.SCORERS}
    assert gate.RULES.rule == "better"


@pytest.mark.slow
def test_on_the_real_rentals_ours_beats_the_workshops_forest_and_retraining_lowers_the_error(
    settings: Settings,
) -> None:
    data = load_bike(settings)
    models = train_first(data)
    forest, best = models[0], best_of(models)
    assert best.name == "boosting"
    assert best.metrics["rmse"].value < 50 < 54 < forest.metrics["rmse"].value
    judgement = judge_challenger(("best", best.predictions), ("forest", forest.predictions), best.holdout)
    assert judgement.passed
    workshop = workshop_split(data.table, "made up")
    assert (
        train_on(workshop, best.candidate, best.parameters).metrics["rmse"].value
        < train_on(workshop, forest.candidate, forest.parameters).metrics["rmse"].value
    )
    # Demand nearly doubled in January 2012, and again for warm days in March.
    assert relative_error(best, data, "2012-01") > 1.9 * best.metrics["relative_error"].value
    after_january = train_challenger(data, "2012-01", best.candidate, best.parameters)
    assert relative_error(after_january, data, "2012-02") < 0.22 < 0.45 < relative_error(best, data, "2012-02")
    assert relative_error(after_january, data, "2012-03") > best.metrics["relative_error"].value
    after_march = train_challenger(data, "2012-03", best.candidate, best.parameters)
    quiet = [month for month in replay_months(data.table) if "2012-04" <= month <= "2012-11"]
    assert all(relative_error(after_march, data, month) < best.metrics["relative_error"].value for month in quiet)
