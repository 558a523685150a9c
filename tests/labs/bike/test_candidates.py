from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skops.io import dump

from labs.bike.candidates import BASELINE, BOOSTING, CANDIDATES, LINEAR
from labs.bike.data import BikeData
from labs.bike.features import SCHEMA, WORKSHOP_COLUMNS
from labs.bike.models import train_on
from labs.bike.splits import first_split
from labs.candidates import Candidate
from llmops.tabular.model import TabularModel
from llmops.tabular.storage import read_estimator

SMALL = {"forest": {"n_estimators": 5, "max_depth": 6}, "linear": {"alpha": 1.0}, "boosting": {"max_iter": 30}}


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_every_candidate_is_written_without_pickle_and_predicts_the_same_from_rows(
    years: BikeData, candidate: Candidate, tmp_path: Path
) -> None:
    model = train_on(first_split(years.table, "made up"), candidate, SMALL[candidate.name])
    dump(model.estimator, tmp_path / "model.skops")
    served = TabularModel(read_estimator(tmp_path / "model.skops"), SCHEMA)
    rows = model.holdout.rows()[:20]
    assert served.predict(rows).values == pytest.approx(model.predictions[:20].tolist())
    assert model.metrics["r2"].value > 0.5
    assert (model.predictions > -1).all()


def test_the_forest_reads_the_workshops_columns_alone(years: BikeData) -> None:
    model = train_on(first_split(years.table, "made up"), BASELINE, SMALL["forest"])
    assert model.estimator[-1].n_features_in_ == len(WORKSHOP_COLUMNS) == 10
    later = model.holdout.features.assign(year=2012)
    assert np.allclose(model.estimator.predict(later), model.predictions)


def test_the_grids_are_the_workshops_and_ours() -> None:
    assert len(list(BASELINE.combinations())) * len(BASELINE.sizes) == 16
    assert (BASELINE.growing, BOOSTING.growing, LINEAR.growing) == ("n_estimators", "max_iter", None)
