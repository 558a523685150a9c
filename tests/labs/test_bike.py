"""The bike lab: who may see which hours, its models, and what a challenger must show."""

import numpy as np
import pandas as pd
import pytest

from labs.bike import models, splits
from labs.bike.data import COLUMNS, load_bike
from labs.bike.models import BASELINE, BOOSTING, judge_challenger, train_challenger, train_on
from labs.bike.splits import SCHEMA, first_split, labelled, month_rows
from labs.data import LabData, QualityReport
from labs.sources import FetchedData
from labs.training import Trained, best_of
from llmops.errors import UsageError
from llmops.tabular import columns_of
from tests.labs.conftest import served

SMALL = {"forest": {"n_estimators": 5, "max_depth": 6}, "linear": {"alpha": 1.0}, "boosting": {"max_iter": 30}}


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> LabData:
    """Made up: four hours of each day from April 2011 to March 2012, more than half as many again in 2012."""
    generator = np.random.default_rng(0)
    dates = pd.date_range("2011-04-01", "2012-03-31").repeat(4)
    hours = np.tile([3, 8, 12, 17], len(dates) // 4)
    weekday = (dates.dayofweek + 1) % 7
    working = np.isin(weekday, range(1, 6)).astype("int64")
    noise = 0.05 * generator.standard_normal(len(dates))
    temp = np.clip(0.5 + 0.3 * np.sin(np.asarray(dates.dayofyear) / 58) + noise, 0, 1)
    level = np.select([hours == 3, hours == 12], [10, 120], 80 + 120 * working) * np.where(dates.year == 2012, 1.6, 1)
    count = generator.poisson(level * (0.5 + temp))
    table = pd.DataFrame(
        {
            "date": dates, "hour": hours, "season": 1 + (dates.month - 1) // 3, "year": dates.year,
            "month": dates.month, "holiday": 0, "weekday": weekday, "workingday": working,
            "weathersit": generator.integers(1, 4, len(dates)), "temp": temp, "atemp": temp,
            "humidity": generator.random(len(dates)), "windspeed": generator.random(len(dates)) / 2,
            "casual": count // 5, "registered": count - count // 5, "count": count,
        }
    ).astype({"year": "int64", "month": "int64", "season": "int64", "weekday": "int64"})  # fmt: skip
    fetched = FetchedData(tmp_path_factory.mktemp("years") / "years.csv", "made up", "0" * 64, "CC0", "Nobody")
    quality = QualityReport("made up", "0" * 64, len(table), len(table), (), ())
    return LabData(table[list(COLUMNS)], quality, fetched)


def test_nothing_of_the_count_itself_is_read():
    assert not {"casual", "registered", "count", "date"} & set(SCHEMA.names)
    assert set(splits.WORKSHOP_COLUMNS) < set(SCHEMA.names)


def test_a_row_of_the_table_is_a_row_of_a_request(years):
    rows = labelled(years.table, "all", "made up")
    columns = columns_of(SCHEMA, rows.rows())
    assert {name: column.tolist() for name, column in columns.items()} == rows.features.to_dict("list")
    assert [column.dtype for column in columns.values()] == rows.features.dtypes.tolist()


def test_hours_are_named_and_days_are_clusters(years):
    rows = labelled(years.table, "all", "made up")
    assert rows.ids[:2] == ("2011-04-01T03", "2011-04-01T08")
    assert rows.clusters[3:5] == ("2011-04-01", "2011-04-02")
    assert rows.tags["time"][:4] == ("night", "morning", "afternoon", "afternoon")
    assert rows.tags["day"][0] == "working day"
    assert set(rows.tags["weather"]) == {"clear", "mist", "wet"}
    assert rows.truth.tolist() == years.table["count"].tolist()


def test_the_first_split_is_by_time(years):
    split = first_split(years.table, "made up")
    named = [part.name for part in (split.training, split.holdout)]
    assert named == ["bike 2011-04-01 to 2011-10-31", "bike 2011-11-01 to 2011-12-31"]
    assert max(split.training.clusters) < min(split.holdout.clusters)


def test_each_fold_judges_later_months_than_it_fits_on(years):
    training = first_split(years.table, "made up").training
    found = splits.folds(training)
    judged = [sorted({training.clusters[i][:7] for i in judge_on}) for _, judge_on in found]
    assert judged == [["2011-07", "2011-08"], ["2011-09", "2011-10"]]
    for fit_on, judge_on in found:
        assert max(training.clusters[i] for i in fit_on) < min(training.clusters[i] for i in judge_on)


def test_the_replay_is_every_month_of_2012(years):
    assert splits.replay_months(years.table) == ("2012-01", "2012-02", "2012-03")
    rows = month_rows(years.table, "2012-02", "made up")
    assert (rows.clusters[0], rows.clusters[-1], len(rows)) == ("2012-02-01", "2012-02-29", 29 * 4)


def test_a_challenger_sees_all_but_the_last_days_of_the_month(years):
    split = splits.split_until(years.table, "2012-02", "made up")
    assert (split.training.clusters[-1], split.holdout.clusters[0]) == ("2012-02-19", "2012-02-20")
    assert (split.holdout.clusters[-1], len(set(split.holdout.clusters))) == ("2012-02-29", 10)
    assert len(set(splits.split_until(years.table, "2012-02", "made up", holdout_days=3).holdout.clusters)) == 3


@pytest.mark.parametrize("month", ["2013-01", "2012-13", "January"])
def test_a_month_that_is_not_there_is_a_usage_error(years, month):
    with pytest.raises(UsageError):
        month_rows(years.table, month, "made up")
    with pytest.raises(UsageError, match="no hour from 2012-01-01 up to 2012-01-01"):
        splits.between(years.table, "2012-01-01", "2012-01-01", "made up")


@pytest.mark.parametrize("candidate", models.CANDIDATES, ids=lambda candidate: candidate.name)
def test_every_candidate_is_written_without_pickle_and_predicts_the_same_from_rows(years, candidate, tmp_path):
    model = train_on(first_split(years.table, "made up"), candidate, SMALL[candidate.name])
    rows = model.holdout.rows()[:20]
    assert served(model, SCHEMA, tmp_path).predict(rows).values == pytest.approx(model.predictions[:20].tolist())
    assert model.metrics["r2"].value > 0.5
    assert (model.predictions > -1).all()


def test_the_forest_reads_the_workshops_columns_alone(years):
    model = train_on(first_split(years.table, "made up"), BASELINE, SMALL["forest"])
    assert model.estimator[-1].n_features_in_ == len(splits.WORKSHOP_COLUMNS) == 10
    later = model.holdout.features.assign(year=2012)
    assert np.allclose(model.estimator.predict(later), model.predictions)


def test_the_grids_are_the_workshops_and_ours_and_the_gate_asks_for_a_smaller_error():
    assert len(list(BASELINE.combinations())) * len(BASELINE.sizes) == 16
    assert [each.growing for each in models.CANDIDATES] == ["n_estimators", None, "max_iter"]
    assert models.RULES.primary in {scorer.name for scorer in models.SCORERS}
    assert models.RULES.rule == "better"


PARAMETERS = {"max_iter": 60, "max_leaf_nodes": 8}


def relative_error(model: Trained, data: LabData, month: str) -> float:
    rows = month_rows(data.table, month, "made up")
    return models.evaluate(rows, model.estimator.predict(rows.features))["relative_error"].value


def test_a_challenger_that_saw_the_new_level_beats_the_champion_at_the_gate(years):
    champion = train_on(first_split(years.table, "made up"), BOOSTING, PARAMETERS)
    assert judge_challenger(("bike@1", champion.predictions), None, champion.holdout).passed
    challenger = train_challenger(years, "2012-01", BOOSTING, PARAMETERS)
    old = champion.estimator.predict(challenger.holdout.features)
    judgement = judge_challenger(("bike@2", challenger.predictions), ("bike@1", old), challenger.holdout)
    assert judgement.passed, judgement.verdict.reasons
    assert relative_error(challenger, years, "2012-02") < relative_error(champion, years, "2012-02") / 1.5


def test_a_model_is_no_better_than_itself_and_needs_data_of_its_month(years):
    model = train_challenger(years, "2012-01", BOOSTING, PARAMETERS)
    same = judge_challenger(("b", model.predictions), ("a", model.predictions), model.holdout)
    assert same.verdict.verdict == "inconclusive"
    with pytest.raises(UsageError, match="no hour"):
        train_challenger(years, "2012-06", BOOSTING, PARAMETERS)


@pytest.mark.slow
def test_on_the_real_rentals_ours_beats_the_workshops_forest_and_retraining_lowers_the_error(
    settings,
):
    data = load_bike(settings)
    found = models.train_first(data)
    forest, best = found[0], best_of(found)
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
    quiet = [month for month in splits.replay_months(data.table) if "2012-04" <= month <= "2012-11"]
    assert all(relative_error(after_march, data, month) < best.metrics["relative_error"].value for month in quiet)
