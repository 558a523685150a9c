from collections.abc import Sequence
from pathlib import Path

import pytest

from labs.bike.data import COLUMNS, clean, load_bike, read_rentals
from labs.data import DataFinding
from llmops.errors import BadFile
from tests.labs.conftest import catalogue_row, uci_rows

SHARED = Path(__file__).parents[3] / "shared/data/bike_hour.csv"


def counts(findings: Sequence[DataFinding]) -> dict[tuple[str, str | None], int]:
    return {(f.kind, f.column): f.count for f in findings}


def test_uci_rows_in_order_need_nothing_done(write_csv):
    table, rows_read, findings = clean(write_csv(uci_rows()))
    assert list(table.columns) == list(COLUMNS)
    assert (len(table), rows_read) == (42, 42)
    assert {f.kind for f in findings} == {"checked", "missing"}
    assert counts(findings)[("missing", None)] == 14 * 24 - 42
    assert table.loc[0, ["year", "month", "weekday", "hour"]].tolist() == [2011, 1, 6, 3]


def test_shuffled_rows_with_holes_become_the_same_table_and_every_repair_is_counted(write_csv):
    rows = uci_rows()
    expected, _, _ = clean(write_csv(rows))
    broken = [catalogue_row(row) for row in rows]
    for row in broken[5:9]:
        row["weekday"] = ""
    broken.sort(key=lambda row: (row["hr"], row["temp"]))
    table, _, findings = clean(write_csv(broken))
    assert table.equals(expected)
    assert counts(findings)[("imputed", "weekday")] == 4
    assert counts(findings)[("checked", "weekday")] == 38
    assert counts(findings)[("repaired", None)] == 42


@pytest.mark.parametrize("shape", [dict, catalogue_row])
def test_missing_weather_is_that_of_the_hour_before_and_never_of_the_one_after(write_csv, shape):
    rows = [shape(row) for row in uci_rows()]
    for number in (3, 4, 5):  # the second day
        rows[number] |= {"weathersit": "", "temp": ""}
    table, _, findings = clean(write_csv(rows))
    assert table["weathersit"].tolist()[:9] == [1, 1, 1, 1, 1, 1, 3, 3, 3]
    assert table["temp"].tolist()[5] == table["temp"].tolist()[2]
    assert counts(findings)[("imputed", "weathersit")] == counts(findings)[("imputed", "temp")] == 3


WITHOUT_WEATHER = {"weathersit": ""}


@pytest.mark.parametrize(
    ("change", "kept", "found"),
    [
        ({0: WITHOUT_WEATHER, 1: WITHOUT_WEATHER}, 40, {("dropped", None): 2}),  # before any weather is known
        *(
            ({7: {column: ""}}, 41, {("dropped", name): 1})
            for column, name in (
                ("dteday", "date"), ("hr", "hour"), ("season", "season"), ("holiday", "holiday"),
                ("workingday", "workingday"), ("cnt", "count"),
            )
        ),
        ({0: {"weekday": "3"}}, 42, {("repaired", "weekday"): 1}),  # not the date's
        ({41: dict(uci_rows()[40])}, 41, {("dropped", None): 1}),  # stands twice
        # What is hard to believe is counted and kept:
        ({1: {"hum": "0"}}, 42, {("suspect", "humidity"): 1}),
        ({2: {"atemp": "1"}}, 42, {("suspect", "atemp"): 1}),
        ({3: {"workingday": "1"}}, 42, {("suspect", "workingday"): 1}),
    ],
)  # fmt: skip
def test_what_was_done_to_rows_is_counted(write_csv, change, kept, found):
    rows = uci_rows()
    for number, values in change.items():
        rows[number] |= values
    table, rows_read, findings = clean(write_csv(rows))
    assert (len(table), rows_read) == (kept, 42)
    told = {key: count for key, count in counts(findings).items() if key[0] not in ("checked", "missing")}
    assert told == found
    assert table.loc[0, "weekday"] == 6


def test_two_rows_of_one_hour_that_differ_are_an_error(write_csv):
    rows = [*uci_rows(), {**uci_rows()[3], "temp": "0.99"}]
    with pytest.raises(BadFile, match=r"rentals\.csv:44: hour: another row of 2011-01-02, hour 3$"):
        clean(write_csv(rows))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hr": "24"}, "hour: must be from 0 to 23, not 24"),
        ({"season": "5"}, "season: must be from 1 to 4, not 5"),
        ({"temp": "21.5"}, "temp: must be from 0 to 1, in UCI's scale, not 21.5"),
        ({"casual": "-1", "cnt": "109"}, "casual: must be 0 or more, not -1"),
        ({"cnt": "7"}, "count must be the sum of casual and registered"),
    ],
)
def test_a_row_that_cannot_be_is_named_by_its_line(write_csv, change, problem):
    rows = uci_rows()
    rows[7] |= change
    with pytest.raises(BadFile) as caught:
        clean(write_csv(rows))
    assert str(caught.value).endswith(f"rentals.csv:9: {problem}")


@pytest.mark.parametrize("column", ["cnt", "temp"])
def test_a_file_without_one_whole_row_is_an_error(write_csv, column):
    with pytest.raises(BadFile, match="holds no row with"):
        clean(write_csv([{**row, column: ""} for row in uci_rows()]))


def test_the_report_says_where_the_data_is_from(write_csv, settings):
    path = write_csv(uci_rows())
    data = load_bike(settings, f"file:{path}")
    assert data.quality.source == f"file:{path}"
    assert data.quality.sha256 == data.fetched.sha256
    assert counts(data.quality.findings)[("checked", "count")] == 42
    assert [column.name for column in data.quality.columns] == list(COLUMNS)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="UCI's hour.csv is not here")
def test_the_catalogue_and_uci_give_the_same_table(settings):
    uci, catalogue = load_bike(settings, f"file:{SHARED}"), load_bike(settings)
    assert len(uci.table) == len(catalogue.table) == 17_379
    same = [name for name in COLUMNS if name != "weathersit"]
    assert uci.table[same].equals(catalogue.table[same])
    repairs = counts(catalogue.quality.findings)
    assert (repairs[("imputed", "weathersit")], repairs[("imputed", "weekday")]) == (1258, 875)
    assert (uci.table["weathersit"] != catalogue.table["weathersit"]).sum() == 103  # 92 % of them are right
    assert not {kind for kind, _ in counts(uci.quality.findings)} & {"imputed", "repaired", "dropped"}


@pytest.mark.parametrize(
    ("shape", "column", "text", "problem"),
    [
        (dict, "dteday", "01/02/2011", "dteday: must be a date such as 2011-01-31, not '01/02/2011'"),
        (dict, "dteday", "0011-01-01", "dteday: must be a date such as 2011-01-31, not '0011-01-01'"),
        (dict, "hr", "6am", "hr: must be a whole number, not '6am'"),
        (dict, "cnt", "1_000", "cnt: must be a whole number, not '1_000'"),
        (dict, "cnt", "9" * 30, "cnt: must be a whole number"),
        (dict, "temp", "mild", "temp: must be a number, not 'mild'"),
        (dict, "temp", "inf", "temp: must be a number, not 'inf'"),
        (dict, "hum", "nan", "hum: must be a number, not 'nan'"),
        (catalogue_row, "hr", "13am", "hr: must be an hour from 12am to 11pm, not '13am'"),
        (catalogue_row, "season", "autumn", "season: must be one of spring, summer, fall, winter, not 'autumn'"),
        (catalogue_row, "weekday", "Monday", "weekday: must be one of Sun, Mon, Tue, Wed, Thu, Fri, Sat, not 'Monday'"),
        (catalogue_row, "weathersit", "Fog", "weathersit: must be one of Clear, Mist, Light Rain, Heavy Rain, not 'F"),
        (catalogue_row, "holiday", "0", "holiday: must be Yes or No, not '0'"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_line_and_field(write_csv, shape, column, text, problem):
    rows = [shape(row) for row in uci_rows()]
    rows[4][column] = text
    with pytest.raises(BadFile) as caught:
        read_rentals(write_csv(rows))
    assert f"rentals.csv:6: {problem}" in str(caught.value)


def test_a_file_of_another_kind_names_what_it_lacks(write_csv):
    with pytest.raises(BadFile, match="has no column 'dteday', 'hr'"):
        read_rentals(write_csv([{"date": "2011-01-01"}]))
