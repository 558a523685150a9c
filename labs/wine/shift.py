"""A stream of wines to monitor, in which the laboratory changes its instrument half-way.

The data has no time, so its drift is made, and said to be. From one batch on, four columns come from another
spectrophotometer: it measures a sample diluted to half (`color_intensity` halves), and its blank is not subtracted
(`flavanoids`, `od280/od315_of_diluted_wines` and `hue` read higher by a constant). Nothing else changes, the wines
least of all: `RECALIBRATION` is the whole truth of it, and a model trained on readings of the new instrument is as good
as the first was on the old.

Each batch is drawn with replacement from the wines held out, so that no model saw them, and each reading gets the
instrument's noise. Two readings of one wine are not independent: they share their cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from labs.data import LabelledRows

RECALIBRATION: Mapping[str, tuple[float, float]] = {
    "color_intensity": (0.5, 0.0),
    "flavanoids": (1.0, 1.5),
    "od280/od315_of_diluted_wines": (1.0, 0.8),
    "hue": (1.0, 0.3),
}
"""By column the factor and the offset from a reading of the old instrument to one of the new."""
NOISE = 0.02
"""Standard deviation of a reading, as a share of it."""


@dataclass(frozen=True, slots=True)
class Stream:
    """batches: in all.
    shifted_from: the first batch, counted from 1, that the new instrument measured.
    rows: of each.
    labels_late: how many batches later the cultivars of one become known.
    """

    batches: int = 12
    shifted_from: int = 7
    rows: int = 90
    labels_late: int = 1
    seed: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """number: counted from 1. labelled_at: the number of the batch with which its cultivars become known."""

    number: int
    rows: LabelledRows
    shifted: bool
    labelled_at: int

    @property
    def name(self) -> str:
        return f"batch {self.number:02d}"


def recalibrated(features: Any) -> Any:
    """What the new instrument reads where the old one read `features`, a pandas DataFrame."""
    return features.assign(
        **{name: features[name] * factor + offset for name, (factor, offset) in RECALIBRATION.items()}
    )


def stream(holdout: LabelledRows, plan: Stream | None = None) -> list[Batch]:
    """The batches of a plan, in order; the same for the same plan."""
    import numpy as np

    plan, batches = plan or Stream(), []
    for number in range(1, plan.batches + 1):
        generator = np.random.default_rng([plan.seed, number])
        drawn = generator.integers(0, len(holdout), plan.rows).tolist()
        noise = 1 + NOISE * generator.standard_normal((plan.rows, holdout.features.shape[1]))
        shifted = number >= plan.shifted_from
        rows = holdout.take(f"wine batch {number:02d}", drawn)
        features = (rows.features * noise).reset_index(drop=True)
        measured = replace(
            rows,
            features=recalibrated(features) if shifted else features,
            ids=tuple(f"batch-{number:02d}-{i:03d}" for i in range(plan.rows)),
            source=f"{holdout.source}, drawn with seed {plan.seed}",
            tags={},
        )
        batches.append(Batch(number, measured, shifted, number + plan.labels_late))
    return batches
