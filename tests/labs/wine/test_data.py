from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import sklearn.datasets

from labs.data import LabData, Split
from labs.wine.data import MEASURED, SCHEMA, TARGET, clean
from llmops.errors import BadFile
from llmops.tabular import columns_of

LINE = "14.23,1.71,2.43,15.6,127,2.8,3.06,0.28,2.29,5.64,1.04,3.92,1065,0\n"
OTHER = "13.2,1.78,2.14,11.2,100,2.65,2.76,0.26,1.28,4.38,1.05,3.4,1050,1\n"
HEADER = "2,13,class_0,class_1,class_2\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "wine.csv"
    path.write_text(text)
    return path


def test_the_table_is_scikit_learns(wine: LabData) -> None:
    original = sklearn.datasets.load_wine(as_frame=True)
    assert wine.table[list(MEASURED)].equals(original.data)
    assert wine.table[TARGET].tolist() == [str(original.target_names[i]) for i in original.target]
    assert (wine.quality.rows_read, wine.quality.rows_kept) == (178, 178)


def test_rows_are_what_a_request_holds(wines: Split) -> None:
    columns = columns_of(SCHEMA, wines.holdout.rows())
    assert columns["hue"].tolist() == wines.holdout.features["hue"].tolist()
    assert (SCHEMA.task, SCHEMA.output.categories) == ("classification", ("class_0", "class_1", "class_2"))


def test_the_halves_share_no_wine_and_have_the_same_cultivars(wines: Split) -> None:
    assert not set(wines.training.ids) & set(wines.holdout.ids)
    assert len(wines.training) == len(wines.holdout) == 89
    training, holdout = Counter(wines.training.truth), Counter(wines.holdout.truth)
    assert all(abs(training[name] - holdout[name]) <= 1 for name in training)
    assert wines.holdout.clusters == wines.holdout.ids


def test_wines_that_stand_twice_or_have_holes_are_dropped_and_counted(tmp_path: Path) -> None:
    hole = LINE.replace("14.23", "")
    table, rows_read, findings = clean(written(tmp_path, HEADER + LINE + OTHER + LINE + hole))
    assert (len(table), rows_read) == (2, 4)
    assert sorted((f.kind, f.count) for f in findings if f.kind == "dropped") == [("dropped", 1), ("dropped", 1)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (LINE.replace("1.71", "acid"), "wine.csv:3: malic_acid: must be a number, not 'acid'"),
        (LINE.replace("1.71", "-1"), "wine.csv:3: malic_acid: must be more than 0, not -1.0"),
        (LINE.replace(",0\n", ",3\n"), "wine.csv:3: cultivar: must be 0, 1 or 2, not '3'"),
        ("1,2,3\n", "wine.csv:3: has 3 values; there are 14 columns"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(BadFile) as caught:
        clean(written(tmp_path, HEADER + OTHER + line))
    assert problem in str(caught.value)


def test_readings_far_from_all_others_are_counted_and_kept(tmp_path: Path) -> None:
    lines = [OTHER.replace("13.2", f"13.{i:02d}") for i in range(20)]
    table, _, findings = clean(written(tmp_path, HEADER + "".join(lines) + OTHER.replace("13.2", "99")))
    assert len(table) == 21
    assert [(f.column, f.count) for f in findings if f.kind == "suspect"] == [("alcohol", 1)]
