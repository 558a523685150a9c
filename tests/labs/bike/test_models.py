from pathlib import Path

import numpy as np
import pytest
from skops.io import dump

from labs.bike.data import load_bike
from labs.bike.models import (
    BASELINE,
    BOOSTING,
    CANDIDATES,
    LINEAR,
    RULES,
    SCORERS,
    evaluate,
    judge_challenger,
    train_challenger,
    train_first,
    train_on,
)
from labs.bike.splits import (
    SCHEMA,
    WORKSHOP_COLUMNS,
    first_split,
    month_rows,
    replay_months,
)
from labs.data import LabData
from labs.training import Candidate, Trained, best_of
from llmops.errors import UsageError
from llmops.settings import Settings
from llmops.tabular.model import TabularModel
from llmops.tabular.storage import read_estimator

SMALL = {"forest": {"n_estimators": 5, "max_depth": 6}, "linear": {"alpha": 1.0}, "boosting": {"max_iter": 30}}


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_every_candidate_is_written_without_pickle_and_predicts_the_same_from_rows(
    years: LabData, candidate: Candidate, tmp_path: Path
) -> None:
    model = train_on(first_split(years.table, "made up"), candidate, SMALL[candidate.name])
    dump(model.estimator, tmp_path / "model.skops")
    served = TabularModel(read_estimator(tmp_path / "model.skops"), SCHEMA)
    rows = model.holdout.rows()[:20]
    assert served.predict(rows).values == pytest.approx(model.predictions[:20].tolist())
    assert model.metrics["r2"].value > 0.5
    assert (model.predictions > -1).all()


def test_the_forest_reads_the_workshops_columns_alone(years: LabData) -> None:
    model = train_on(first_split(years.table, "made up"), BASELINE, SMALL["forest"])
    assert model.estimator[-1].n_features_in_ == len(WORKSHOP_COLUMNS) == 10
    later = model.holdout.features.assign(year=2012)
    assert np.allclose(model.estimator.predict(later), model.predictions)


def test_the_grids_are_the_workshops_and_ours() -> None:
    assert len(list(BASELINE.combinations())) * len(BASELINE.sizes) == 16
    assert (BASELINE.growing, BOOSTING.growing, LINEAR.growing) == ("n_estimators", "max_iter", None)


PARAMETERS = {"max_iter": 60, "max_leaf_nodes": 8}


def relative_error(model: Trained, data: LabData, month: str) -> float:
    rows = month_rows(data.table, month, "made up")
    return evaluate(rows, model.estimator.predict(rows.features))["relative_error"].value


def test_a_challenger_that_saw_the_new_level_beats_the_champion_at_the_gate(years: LabData) -> None:
    champion = train_on(first_split(years.table, "made up"), BOOSTING, PARAMETERS)
    assert judge_challenger(("bike@1", champion.predictions), None, champion.holdout).passed
    challenger = train_challenger(years, "2012-01", BOOSTING, PARAMETERS)
    old = champion.estimator.predict(challenger.holdout.features)
    judgement = judge_challenger(("bike@2", challenger.predictions), ("bike@1", old), challenger.holdout)
    assert judgement.passed, judgement.verdict.reasons
    assert relative_error(challenger, years, "2012-02") < relative_error(champion, years, "2012-02") / 1.5


def test_a_model_is_no_better_than_itself(years: LabData) -> None:
    model = train_challenger(years, "2012-01", BOOSTING, PARAMETERS)
    same = judge_challenger(("b", model.predictions), ("a", model.predictions), model.holdout)
    assert same.verdict.verdict == "inconclusive"


def test_a_month_without_data_cannot_be_trained_on(years: LabData) -> None:
    with pytest.raises(UsageError, match="no hour"):
        train_challenger(years, "2012-06", BOOSTING, PARAMETERS)


def test_the_gate_asks_for_a_smaller_error() -> None:
    assert RULES.primary in {scorer.name for scorer in SCORERS}
    assert RULES.rule == "better"


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
    # Demand nearly doubled in January 2012, and again for warm days in March.
    assert relative_error(best, data, "2012-01") > 1.9 * best.metrics["relative_error"].value
    after_january = train_challenger(data, "2012-01", best.candidate, best.parameters)
    assert relative_error(after_january, data, "2012-02") < 0.22 < 0.45 < relative_error(best, data, "2012-02")
    assert relative_error(after_january, data, "2012-03") > best.metrics["relative_error"].value
    after_march = train_challenger(data, "2012-03", best.candidate, best.parameters)
    quiet = [month for month in replay_months(data.table) if "2012-04" <= month <= "2012-11"]
    assert all(relative_error(after_march, data, month) < best.metrics["relative_error"].value for month in quiet)
