from __future__ import annotations

import json

import pandas as pd

from labs.quality import Finding, QualityReport, found, profiles

TABLE = pd.DataFrame({"n": [1, 2, 2000], "x": [0.5, None, 1.5], "word": ["a", "b", "b"], "none": [None] * 3})


def report() -> QualityReport:
    findings = (
        Finding("dropped", None, 2, "rows that stand twice"),
        Finding("imputed", "x", 3, "empty"),
        Finding("imputed", "y", 4, "empty"),
    )
    return QualityReport("file:a.csv", "ab" * 32, 5, 3, findings, profiles(TABLE))


def test_findings_are_counted_by_kind_and_column() -> None:
    assert report().count("imputed") == 7
    assert report().count("imputed", "y") == 4
    assert report().count("dropped") == 2
    assert report().count("repaired") == 0


def test_nothing_found_is_no_finding() -> None:
    assert found("missing", "x", 0, "hours") == []
    assert found("missing", "x", 3, "hours") == [Finding("missing", "x", 3, "hours")]


def test_a_profile_holds_range_and_holes_of_numbers_only() -> None:
    n, x, word, none = profiles(TABLE)
    assert (n.lowest, n.highest, n.distinct, n.missing) == (1.0, 2000.0, 3, 0)
    assert (x.missing, x.mean) == (1, 1.0)
    assert (word.lowest, word.mean, word.distinct) == (None, None, 2)
    assert (none.missing, none.lowest) == (3, None)


def test_the_report_is_json_and_a_page() -> None:
    values = json.loads(json.dumps(report().to_json()))
    assert values["findings"][1] == {"kind": "imputed", "column": "x", "count": 3, "what": "empty"}
    page = report().to_markdown()
    assert "5 rows read, 3 kept" in page
    assert "| imputed | x | 3 | empty |" in page
    assert "| n | int64 | 0 | 3 | 1 | 2,000 | 667.7 |" in page
