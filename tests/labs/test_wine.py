"""The wine lab: its table, its models, and the stream in which the instrument changes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from labs.data import LabData, Split
from labs.training import Candidate, Trained, best_of, train
from labs.wine import models
from labs.wine.data import MEASURED, SCHEMA, TARGET, clean, halves, load_wine
from labs.wine.models import BASELINE, LINEAR, evaluate, judge_challenger, train_challenger
from labs.wine.shift import NOISE, RECALIBRATION, Stream, recalibrated, stream
from llmops.errors import BadFile, UsageError
from llmops.settings import Settings
from llmops.tabular import columns_of
from tests.labs.conftest import served

LINE = "14.23,1.71,2.43,15.6,127,2.8,3.06,0.28,2.29,5.64,1.04,3.92,1065,0\n"
OTHER = "13.2,1.78,2.14,11.2,100,2.65,2.76,0.26,1.28,4.38,1.05,3.4,1050,1\n"
HEADER = "2,13,class_0,class_1,class_2\n"


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> LabData:
    return load_wine(Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def wines(wine: LabData) -> Split:
    return halves(wine)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "wine.csv"
    path.write_text(text)
    return path


def test_the_table_is_scikit_learns(wine):
    original = sklearn.datasets.load_wine(as_frame=True)
    assert wine.table[list(MEASURED)].equals(original.data)
    assert wine.table[TARGET].tolist() == [str(original.target_names[i]) for i in original.target]
    assert (wine.quality.rows_read, wine.quality.rows_kept) == (178, 178)


def test_rows_are_what_a_request_holds(wines):
    columns = columns_of(SCHEMA, wines.holdout.rows())
    assert columns["hue"].tolist() == wines.holdout.features["hue"].tolist()
    assert (SCHEMA.task, SCHEMA.output.categories) == ("classification", ("class_0", "class_1", "class_2"))


def test_the_halves_share_no_wine_and_have_the_same_cultivars(wines):
    assert not set(wines.training.ids) & set(wines.holdout.ids)
    assert len(wines.training) == len(wines.holdout) == 89
    training, holdout = Counter(wines.training.truth), Counter(wines.holdout.truth)
    assert all(abs(training[name] - holdout[name]) <= 1 for name in training)
    assert wines.holdout.clusters == wines.holdout.ids


def test_wines_that_stand_twice_or_have_holes_are_dropped_and_counted(tmp_path):
    hole = LINE.replace("14.23", "")
    table, rows_read, findings = clean(written(tmp_path, HEADER + LINE + OTHER + LINE + hole))
    assert (len(table), rows_read) == (2, 4)
    assert [f.count for f in findings if f.kind == "dropped"] == [1, 1]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (LINE.replace("1.71", "acid"), "wine.csv:3: malic_acid: must be a number, not 'acid'"),
        (LINE.replace("1.71", "-1"), "wine.csv:3: malic_acid: must be more than 0, not -1.0"),
        (LINE.replace(",0\n", ",3\n"), "wine.csv:3: cultivar: must be 0, 1 or 2, not '3'"),
        ("1,2,3\n", "wine.csv:3: has 3 values; there are 14 columns"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path, line, problem):
    with pytest.raises(BadFile) as caught:
        clean(written(tmp_path, HEADER + OTHER + line))
    assert problem in str(caught.value)


def test_readings_far_from_all_others_are_counted_and_kept(tmp_path):
    lines = [OTHER.replace("13.2", f"13.{i:02d}") for i in range(20)]
    table, _, findings = clean(written(tmp_path, HEADER + "".join(lines) + OTHER.replace("13.2", "99")))
    assert len(table) == 21
    assert [(f.column, f.count) for f in findings if f.kind == "suspect"] == [("alcohol", 1)]


def first(wines: Split, candidate: Candidate = LINEAR) -> Trained:
    parameters = {"linear": {"C": 0.1}, "boosting": {"max_iter": 20}, "majority": {}}[candidate.name]
    return train(candidate, parameters, SCHEMA, wines, evaluate)


@pytest.mark.parametrize("candidate", models.CANDIDATES, ids=lambda candidate: candidate.name)
def test_every_candidate_is_written_without_pickle_and_predicts_the_same_from_rows(wines, candidate, tmp_path):
    model = first(wines, candidate)
    said = served(model, SCHEMA, tmp_path).predict(model.holdout.rows())
    assert said.values == model.predictions.tolist()
    assert said.probabilities is not None
    assert set(said.probabilities[0]) == {"class_0", "class_1", "class_2"}


def test_a_model_beats_the_majority_at_the_gate(wines):
    linear, majority = first(wines), first(wines, BASELINE)
    assert majority.metrics["accuracy"].value == pytest.approx(0.39, abs=0.02)
    assert linear.metrics["accuracy"].ci95[0] > 0.9
    judgement = judge_challenger(("wine@2", linear.predictions), ("wine@1", majority.predictions), wines.holdout)
    assert judgement.passed, judgement.verdict.reasons


def test_the_new_instrument_hurts_and_retraining_on_its_readings_mends_it(wines):
    champion, batches = first(wines), stream(wines.holdout)

    def accuracy(model: Trained, number: int) -> float:
        rows = batches[number - 1].rows
        return evaluate(rows, model.estimator.predict(rows.features))["accuracy"].value

    assert min(accuracy(champion, number) for number in range(1, 7)) > 0.95
    assert max(accuracy(champion, number) for number in range(7, 13)) < 0.85
    challenger = train_challenger(batches[6:8], champion.candidate, champion.parameters)
    old = champion.estimator.predict(challenger.holdout.features)
    judgement = judge_challenger(("wine@2", challenger.predictions), ("wine@1", old), challenger.holdout)
    assert judgement.passed, judgement.verdict.reasons
    assert min(accuracy(challenger, number) for number in range(9, 13)) > 0.95


def test_no_wine_that_judges_a_challenger_was_trained_on(wines):
    challenger = train_challenger(stream(wines.holdout)[6:8], LINEAR, {"C": 0.1})
    assert not set(challenger.training.clusters) & set(challenger.holdout.clusters)
    assert set(challenger.training.truth) == set(challenger.holdout.truth)
    assert challenger.training.name == "wine batch 07 to batch 08, training"
    with pytest.raises(UsageError, match="needs a batch whose cultivars are known"):
        train_challenger([], LINEAR, {"C": 0.1})


def test_folds_judge_every_wine_three_times(wines):
    judged = [position for _, judge_on in models.folds(wines.training) for position in judge_on]
    assert sorted(judged) == sorted(list(range(89)) * 3)


@pytest.mark.slow
def test_the_search_chooses_a_simple_model_for_so_few_wines(wines):
    found = models.train_first(wines)
    assert [model.name for model in found] == ["majority", "linear", "boosting"]
    assert best_of(found).name == "linear"


def test_only_the_documented_columns_move_and_by_as_much_as_said(wines):
    old = wines.holdout.features
    new = recalibrated(old)
    for name in MEASURED:
        factor, offset = RECALIBRATION.get(name, (1.0, 0.0))
        assert new[name].tolist() == pytest.approx((old[name] * factor + offset).tolist())


def test_the_stream_is_the_same_for_the_same_plan_and_shifts_when_planned(wines):
    once, again = stream(wines.holdout), stream(wines.holdout)
    assert [batch.rows.sha256 for batch in once] == [batch.rows.sha256 for batch in again]
    assert len({batch.rows.sha256 for batch in once}) == 12
    assert stream(wines.holdout, Stream(seed=1))[0].rows.sha256 != once[0].rows.sha256
    batches = stream(wines.holdout, Stream(batches=4, shifted_from=3, rows=5, labels_late=2))
    assert [(batch.number, batch.shifted, batch.labelled_at) for batch in batches] == [
        (1, False, 3), (2, False, 4), (3, True, 5), (4, True, 6),
    ]  # fmt: skip
    assert (batches[0].name, len(batches[0].rows)) == ("batch 01", 5)


def test_rows_are_wines_held_out_with_the_instruments_noise(wines):
    batch = stream(wines.holdout)[0]
    by_id = dict(zip(wines.holdout.ids, wines.holdout.features.to_numpy(), strict=True))
    cultivar = dict(zip(wines.holdout.ids, wines.holdout.truth, strict=True))
    assert set(batch.rows.clusters) <= set(wines.holdout.ids)
    assert batch.rows.truth.tolist() == [cultivar[wine] for wine in batch.rows.clusters]
    original = np.stack([by_id[wine] for wine in batch.rows.clusters])
    off = batch.rows.features.to_numpy() / original - 1
    assert abs(off.std() - NOISE) < NOISE / 5
    assert (batch.rows.features > 0).all(axis=None)
    assert len(set(batch.rows.ids)) == len(batch.rows)
