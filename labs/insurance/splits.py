"""What a model of the claims reads, and who may see which quarters: those of before are trained on, those of after
judge.

```
2019-Q1 … 2020-Q4       | 2021-Q1 2021-Q2 | 2021-Q3 … 2023-Q4
training (search inside) | held out        | replayed quarter by quarter
```
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from labs.data import LabelledRows, Split
from labs.insurance.data import BANDS, RATED
from labs.training import Fold
from llmops.errors import UsageError
from llmops.tabular import Column, RowSchema

TARGET = "claims"
SCHEMA = RowSchema(
    inputs=(
        *(Column(name, "integer") for name in RATED),
        Column("band", "text", categories=BANDS),
        Column("accident_rate", "number"),
    ),
    output=Column(TARGET, "number"),
    task="regression",
)
"""The claims that a policy is expected to bring in a quarter. accident_rate: accidents in a million vehicle kilometres
of the policy's area, in the latest three months that are published."""
HELD_OUT_FROM, REPLAY_FROM = "2021Q1", "2021Q3"
_JUDGED = ("2020Q2", "2020Q3", "2020Q4")


def labelled(table: Any, name: str, source: str) -> LabelledRows:
    """Rows of the table (see `labs.insurance.data`) with their claims as truth. The policies of one area share its
    risk: in a quarter they are a cluster, named so that neighbours in order are different areas."""
    quarters, areas, age = table["quarter"], table["area"], table["driver_age"]
    return LabelledRows(
        name=name,
        features=table[list(SCHEMA.names)].reset_index(drop=True),
        truth=table[TARGET].to_numpy(dtype=np.float64),
        target=TARGET,
        ids=tuple(f"{quarter}-{policy}" for quarter, policy in zip(quarters, table["policy"], strict=True)),
        clusters=tuple(f"{quarter} {area}" for quarter, area in zip(quarters, areas, strict=True)),
        source=source,
        tags={
            "age": tuple(np.select([age < 25, age < 70], ["under 25", "25 to 69"], "70 and more").tolist()),
            "band": tuple(table["band"]),
        },
    )


def between(table: Any, first: str, last: str, source: str) -> LabelledRows:
    """The rows of some quarters (`2021Q3`), both ends among them. Raises UsageError where there is none."""
    chosen = table[table["quarter"].between(first, last)]
    if chosen.empty:
        raise UsageError(f"the data has no policy in force from {first} to {last}")
    return labelled(chosen, f"insurance {first} to {last}" if first != last else f"insurance {first}", source)


def quarters(table: Any) -> Sequence[str]:
    """All of them, in order."""
    return sorted(set(table["quarter"]))


def first_split(table: Any, source: str) -> Split:
    """The quarters before `HELD_OUT_FROM`, and those up to `REPLAY_FROM`."""
    names = quarters(table)
    training = [name for name in names if name < HELD_OUT_FROM]
    held_out = [name for name in names if HELD_OUT_FROM <= name < REPLAY_FROM]
    if not training or not held_out:
        raise UsageError(f"the data must begin before {HELD_OUT_FROM} and go on until {REPLAY_FROM}")
    return Split(between(table, training[0], training[-1], source), between(table, held_out[0], held_out[-1], source))


def folds(training: LabelledRows) -> list[Fold]:
    """For the search: each of three quarters judges models of all quarters before it."""
    of_row = np.asarray([cluster.split()[0] for cluster in training.clusters])
    return [(np.flatnonzero(of_row < name).tolist(), np.flatnonzero(of_row == name).tolist()) for name in _JUDGED]
