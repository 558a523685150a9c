from __future__ import annotations

import pytest

from labs.bike.shapes import CATALOGUE, UCI, read_rentals
from llmops.errors import BadFile
from tests.labs.conftest import WriteCsv, catalogue_row, uci_rows


def test_both_shapes_hold_the_same_numbers(write_csv: WriteCsv) -> None:
    rows = uci_rows()
    uci = read_rentals(write_csv(rows))
    catalogue = read_rentals(write_csv([catalogue_row(row) for row in rows]))
    assert list(uci.columns) == list(UCI) == list(CATALOGUE)
    assert uci.equals(catalogue)


def test_lines_are_those_of_the_file(write_csv: WriteCsv) -> None:
    table = read_rentals(write_csv(uci_rows()))
    assert table.index.tolist()[:2] == [2, 3]


def test_empty_values_are_missing(write_csv: WriteCsv) -> None:
    rows = [catalogue_row(row) for row in uci_rows()]
    rows[3] |= {"weekday": "", "weathersit": "", "temp": ""}
    table = read_rentals(write_csv(rows))
    assert table.isna().sum().to_dict() | {"weekday": 1, "weathersit": 1, "temp": 1} == table.isna().sum().to_dict()


@pytest.mark.parametrize(
    ("column", "text", "problem"),
    [
        ("dteday", "01/02/2011", "dteday: must be a date such as 2011-01-31, not '01/02/2011'"),
        ("dteday", "0011-01-01", "dteday: must be a date such as 2011-01-31, not '0011-01-01'"),
        ("hr", "6am", "hr: must be a whole number, not '6am'"),
        ("cnt", "1_000", "cnt: must be a whole number, not '1_000'"),
        ("cnt", "9" * 30, "cnt: must be a whole number"),
        ("temp", "mild", "temp: must be a number, not 'mild'"),
        ("temp", "inf", "temp: must be a number, not 'inf'"),
        ("hum", "nan", "hum: must be a number, not 'nan'"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_line_and_field(
    write_csv: WriteCsv, column: str, text: str, problem: str
) -> None:
    rows = uci_rows()
    rows[4][column] = text
    with pytest.raises(BadFile) as caught:
        read_rentals(write_csv(rows))
    assert f"rentals.csv:6: {problem}" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "text", "problem"),
    [
        ("hr", "13am", "hr: must be an hour from 12am to 11pm, not '13am'"),
        ("season", "autumn", "season: must be one of spring, summer, fall, winter, not 'autumn'"),
        ("weekday", "Monday", "weekday: must be one of Sun, Mon, Tue, Wed, Thu, Fri, Sat, not 'Monday'"),
        ("weathersit", "Fog", "weathersit: must be one of Clear, Mist, Light Rain, Heavy Rain, not 'Fog'"),
        ("holiday", "0", "holiday: must be Yes or No, not '0'"),
    ],
)
def test_words_of_the_catalogue_are_a_closed_set(write_csv: WriteCsv, column: str, text: str, problem: str) -> None:
    rows = [catalogue_row(row) for row in uci_rows()]
    rows[0][column] = text
    with pytest.raises(BadFile) as caught:
        read_rentals(write_csv(rows))
    assert f"rentals.csv:2: {problem}" in str(caught.value)


def test_a_file_of_another_kind_names_what_it_lacks(write_csv: WriteCsv) -> None:
    with pytest.raises(BadFile, match="has no column 'dteday', 'hr'"):
        read_rentals(write_csv([{"date": "2011-01-01"}]))
