from __future__ import annotations

import numpy as np
import pytest

from labs.data import Split
from labs.wine.data import MEASURED
from labs.wine.shift import NOISE, RECALIBRATION, Stream, recalibrated, stream


def test_only_the_documented_columns_move_and_by_as_much_as_said(wines: Split) -> None:
    old = wines.holdout.features
    new = recalibrated(old)
    for name in MEASURED:
        factor, offset = RECALIBRATION.get(name, (1.0, 0.0))
        assert new[name].tolist() == pytest.approx((old[name] * factor + offset).tolist())


def test_the_stream_is_the_same_for_the_same_plan(wines: Split) -> None:
    first, again = stream(wines.holdout), stream(wines.holdout)
    assert [batch.rows.sha256 for batch in first] == [batch.rows.sha256 for batch in again]
    assert len({batch.rows.sha256 for batch in first}) == 12
    assert stream(wines.holdout, Stream(seed=1))[0].rows.sha256 != first[0].rows.sha256


def test_batches_shift_when_planned_and_labels_come_late(wines: Split) -> None:
    batches = stream(wines.holdout, Stream(batches=4, shifted_from=3, rows=5, labels_late=2))
    assert [(batch.number, batch.shifted, batch.labelled_at) for batch in batches] == [
        (1, False, 3), (2, False, 4), (3, True, 5), (4, True, 6),
    ]  # fmt: skip
    assert batches[0].name == "batch 01"
    assert len(batches[0].rows) == 5


def test_rows_are_wines_held_out_with_the_instruments_noise(wines: Split) -> None:
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
