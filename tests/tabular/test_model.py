"""What a model predicts, and that rows it cannot compute are named."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import CannotRun
from llmops.tabular import BadRow, Predictions, RowSchema, TabularModel
from tests.tabular.fitted import CLASSES, KINDS, NUMBERED, REGRESSION, fitted, frame, rows_of
from tests.tabular.test_schema import json_values

ROWS = rows_of(frame(20, seed=1))
ROW = ROWS[0]


def model(name, schema=REGRESSION):
    return TabularModel(fitted(name, schema), schema)


@pytest.mark.parametrize(("name", "schema"), KINDS)
@pytest.mark.parametrize("rows", [1, 20])
def test_predictions_are_those_of_the_estimator(name, schema, rows):
    estimator, data = fitted(name, schema), frame(rows, seed=1)
    found, expected = model(name, schema).predict(rows_of(data)), estimator.predict(data).tolist()
    if schema is REGRESSION:
        assert (found.values, found.probabilities) == (pytest.approx(expected), None)
    else:
        assert found.values == expected
        names = [str(name) for name in estimator.classes_.tolist()]
        assert [list(row) for row in found.probabilities] == [names] * rows
        np.testing.assert_allclose([list(row.values()) for row in found.probabilities], estimator.predict_proba(data))


@pytest.mark.parametrize(("name", "schema"), [("forest", REGRESSION), ("logistic", CLASSES), ("boosting", NUMBERED)])
def test_predictions_are_json(name, schema):
    found = model(name, schema).predict(ROWS)
    json.dumps([found.values, found.probabilities], allow_nan=False)
    assert len(found) == len(ROWS)


def test_no_rows_have_no_predictions():
    assert model("ridge").predict([]) == Predictions([])
    assert model("logistic", CLASSES).predict([]) == Predictions([], [])


HUGE = {**ROW, "temp": 1e300}


@pytest.mark.parametrize(
    ("name", "rows", "place", "column", "said"),
    [
        ("ridge", [ROW, {**ROW, "sky": "fog"}], 1, "sky", "must be one of 'clear', 'mist', 'rain', not 'fog'"),
        ("ridge of logarithms", [ROW, ROW, {**ROW, "temp": 1e9}, {**ROW, "temp": 1e10}], 2, None,
         "cannot be computed: the result is no finite number"),
        *(("forest", [*ROWS[:place], HUGE, *ROWS[place + 1 :]], place, None, "cannot be computed: .*too large")
          for place in (0, 7, 19)),
    ],
)  # fmt: skip
def test_a_row_that_is_wrong_or_cannot_be_computed_is_named(name, rows, place, column, said):
    with pytest.raises(BadRow, match=said) as refused:
        model(name).predict(rows)
    assert (refused.value.row, refused.value.column) == (place, column)


def test_a_model_is_shared_between_threads():
    forest = model("forest")
    alone = [forest.predict([row]).values for row in ROWS]
    start = threading.Barrier(4)

    def ask(_number):
        start.wait(30)
        return [forest.predict([row]).values for row in ROWS]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [alone] * 4


def test_no_part_keeps_workers_of_its_own():
    estimator = fitted("forest")
    TabularModel(estimator, REGRESSION)
    assert estimator[-1].n_jobs == 1


def test_a_classifier_with_a_threshold_of_its_own_is_asked_for_its_class():
    from sklearn.model_selection import FixedThresholdClassifier

    never_low = FixedThresholdClassifier(fitted("logistic", CLASSES), threshold=1.0, pos_label="low")
    never_low.fit(frame(), np.where(frame().hour > 12, "high", "low"))
    assert set(TabularModel(never_low, CLASSES).predict(ROWS).values) == {"high"}


def test_an_estimator_of_other_columns_or_the_other_task_is_refused():
    fewer = RowSchema(REGRESSION.inputs[:-1], REGRESSION.output, "regression")
    with pytest.raises(CannotRun, match="fitted on the columns hour, holiday, temp, sky, wind; the schema has hour"):
        TabularModel(fitted("ridge"), fewer)
    with pytest.raises(CannotRun, match="a Pipeline is no model for classification"):
        TabularModel(fitted("ridge"), CLASSES)


rows = st.builds(lambda name, value: {**ROW, name: value}, st.sampled_from([*REGRESSION.names, "other"]), json_values)


@pytest.mark.parametrize(("name", "schema"), [("forest", REGRESSION), ("ridge of logarithms", REGRESSION),
                                              ("boosting", REGRESSION), ("sigmoid", CLASSES)])  # fmt: skip
def test_any_json_is_predicted_or_refused_as_a_bad_row(name, schema):
    made = model(name, schema)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(json_values | rows, max_size=3))
    def check(sent):
        try:
            found = made.predict(sent)
        except BadRow as refused:
            place = refused.row
        else:
            place = 0
            assert len(found) == len(sent)
        assert place < max(len(sent), 1)

    check()
