import pytest

from labs.bike.splits import (
    SCHEMA,
    WORKSHOP_COLUMNS,
    between,
    first_split,
    folds,
    labelled,
    month_rows,
    replay_months,
    split_until,
)
from labs.data import LabData
from llmops.errors import UsageError
from llmops.tabular import columns_of


def test_nothing_of_the_count_itself_is_read() -> None:
    assert not {"casual", "registered", "count", "date"} & set(SCHEMA.names)
    assert set(WORKSHOP_COLUMNS) < set(SCHEMA.names)


def test_a_row_of_the_table_is_a_row_of_a_request(years: LabData) -> None:
    rows = labelled(years.table, "all", "made up")
    columns = columns_of(SCHEMA, rows.rows())
    assert {name: column.tolist() for name, column in columns.items()} == rows.features.to_dict("list")
    assert [column.dtype for column in columns.values()] == rows.features.dtypes.tolist()


def test_hours_are_named_and_days_are_clusters(years: LabData) -> None:
    rows = labelled(years.table, "all", "made up")
    assert rows.ids[:2] == ("2011-04-01T03", "2011-04-01T08")
    assert rows.clusters[3:5] == ("2011-04-01", "2011-04-02")
    assert rows.tags["time"][:4] == ("night", "morning", "afternoon", "afternoon")
    assert rows.tags["day"][0] == "working day"
    assert set(rows.tags["weather"]) == {"clear", "mist", "wet"}
    assert rows.truth.tolist() == years.table["count"].tolist()


def test_the_first_split_is_by_time(years: LabData) -> None:
    split = first_split(years.table, "made up")
    assert (split.training.name, split.holdout.name) == (
        "bike 2011-04-01 to 2011-10-31",
        "bike 2011-11-01 to 2011-12-31",
    )
    assert max(split.training.clusters) < min(split.holdout.clusters)


def test_each_fold_judges_later_months_than_it_fits_on(years: LabData) -> None:
    training = first_split(years.table, "made up").training
    found = folds(training)
    judged = [sorted({training.clusters[i][:7] for i in judge_on}) for _, judge_on in found]
    assert judged == [["2011-07", "2011-08"], ["2011-09", "2011-10"]]
    for fit_on, judge_on in found:
        assert max(training.clusters[i] for i in fit_on) < min(training.clusters[i] for i in judge_on)


def test_the_replay_is_every_month_of_2012(years: LabData) -> None:
    assert replay_months(years.table) == ("2012-01", "2012-02", "2012-03")
    rows = month_rows(years.table, "2012-02", "made up")
    assert (rows.clusters[0], rows.clusters[-1], len(rows)) == ("2012-02-01", "2012-02-29", 29 * 4)


def test_a_challenger_sees_all_but_the_last_days_of_the_month(years: LabData) -> None:
    split = split_until(years.table, "2012-02", "made up")
    assert (split.training.clusters[-1], split.holdout.clusters[0]) == ("2012-02-19", "2012-02-20")
    assert (split.holdout.clusters[-1], len(set(split.holdout.clusters))) == ("2012-02-29", 10)
    assert len(set(split_until(years.table, "2012-02", "made up", holdout_days=3).holdout.clusters)) == 3


@pytest.mark.parametrize("month", ["2013-01", "2012-13", "January"])
def test_a_month_that_is_not_there_is_a_usage_error(years: LabData, month: str) -> None:
    with pytest.raises(UsageError):
        month_rows(years.table, month, "made up")
    with pytest.raises(UsageError, match="no hour from 2012-01-01 up to 2012-01-01"):
        between(years.table, "2012-01-01", "2012-01-01", "made up")
