"""Rows that are made up fit their schema."""

from __future__ import annotations

from llmops.tabular import columns_of
from llmops.tabular.made_up import made_up_rows
from tests.tabular.fitted import REGRESSION


def test_rows_fit_the_schema_and_have_all_it_allows() -> None:
    rows = made_up_rows(REGRESSION, 60)

    columns = columns_of(REGRESSION, rows)

    assert set(columns["sky"]) == {"clear", "mist", "rain"}
    assert set(columns["holiday"]) == {False, True}
    assert any(row["wind"] is None for row in rows)


def test_they_are_the_same_for_the_same_schema() -> None:
    assert made_up_rows(REGRESSION, 5) == made_up_rows(REGRESSION, 5)
