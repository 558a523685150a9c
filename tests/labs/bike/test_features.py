from __future__ import annotations

from labs.bike.data import BikeData
from labs.bike.features import SCHEMA, WORKSHOP_COLUMNS, labelled
from llmops.tabular import columns_of


def test_nothing_of_the_count_itself_is_read() -> None:
    assert not {"casual", "registered", "count", "date"} & set(SCHEMA.names)
    assert set(WORKSHOP_COLUMNS) < set(SCHEMA.names)


def test_a_row_of_the_table_is_a_row_of_a_request(years: BikeData) -> None:
    rows = labelled(years.table, "all", "made up")
    columns = columns_of(SCHEMA, rows.rows())
    assert {name: column.tolist() for name, column in columns.items()} == rows.features.to_dict("list")
    assert [column.dtype for column in columns.values()] == rows.features.dtypes.tolist()


def test_hours_are_named_and_days_are_clusters(years: BikeData) -> None:
    rows = labelled(years.table, "all", "made up")
    assert rows.ids[:2] == ("2011-04-01T03", "2011-04-01T08")
    assert rows.clusters[3:5] == ("2011-04-01", "2011-04-02")
    assert rows.tags["time"][:4] == ("night", "morning", "afternoon", "afternoon")
    assert rows.tags["day"][0] == "working day"
    assert set(rows.tags["weather"]) == {"clear", "mist", "wet"}
    assert rows.truth.tolist() == years.table["count"].tolist()
