from __future__ import annotations

import dataclasses
import json

from llmops.factsheet.contents import Metric
from tests.factsheet.conftest import evaluation, sheet, tabular_sheet


def test_a_sheet_is_plain_json_with_every_field_by_its_name():
    for made in (sheet(), tabular_sheet()):
        told = made.to_json()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert set(told) == {field.name for field in dataclasses.fields(made)}
    assert sheet().to_json()["evaluations"][0]["metrics"][0] == {
        "name": "correct", "mean": 0.61, "ci95": [0.55, 0.67], "n_scored": 240, "n_failed": 0,
    }  # fmt: skip


def test_what_is_no_number_in_json_is_null():
    metric = Metric("r2", float("nan"), (float("-inf"), 0.5), 3)
    told = sheet(evaluations=(evaluation(metrics=(metric,)),)).to_json()["evaluations"][0]["metrics"][0]
    assert told["mean"] is None
    assert told["ci95"] == [None, 0.5]
