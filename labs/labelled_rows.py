"""Rows with their truth: what models are trained and judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """features: a pandas DataFrame with the columns that a model reads, in their order. truth: a numpy array of what it
    should say. target: the truth's name. ids: of each row, unique. clusters: for each row what it shares with others,
    so that they are not independent (hours of one day). source: of the file they come from. tags: for each slice name
    a value for each row."""

    name: str
    features: Any
    truth: Any
    target: str
    ids: Sequence[str]
    clusters: Sequence[str]
    source: str
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def frame(self) -> Any:
        """Features and truth in one DataFrame."""
        return self.features.assign(**{self.target: self.truth})

    @cached_property
    def sha256(self) -> str:
        """In hex, of the rows as CSV: equal for equal rows in the same order, whatever the file they were read from."""
        text = self.frame.to_csv(index_label="id", lineterminator="\n")
        return hashlib.sha256(text.encode()).hexdigest()

    def take(self, name: str, positions: Sequence[int]) -> LabelledRows:
        """The rows at these positions, under another name."""
        chosen = [int(position) for position in positions]
        return replace(
            self,
            name=name,
            features=self.features.iloc[chosen],
            truth=self.truth[chosen],
            ids=tuple(self.ids[i] for i in chosen),
            clusters=tuple(self.clusters[i] for i in chosen),
            tags={tag: tuple(values[i] for i in chosen) for tag, values in self.tags.items()},
        )

    def monitored(self, predictions: Sequence[Any]) -> Any:
        """Features with what the monitor reads besides: `prediction`, `truth`, and `block`, the cluster."""
        return self.features.assign(prediction=predictions, truth=self.truth, block=list(self.clusters))

    def rows(self) -> list[dict[str, Any]]:
        """The features as a request holds them: plain numbers and texts by column name."""
        columns = {name: self.features[name].tolist() for name in self.features.columns}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def joined(name: str, parts: Sequence[LabelledRows]) -> LabelledRows:
    """The rows of all parts, one after another; at least one part. Parts have the same columns and no tags."""
    import numpy as np
    import pandas as pd

    first = parts[0]
    return LabelledRows(
        name=name,
        features=pd.concat([part.features for part in parts], ignore_index=True),
        truth=np.concatenate([part.truth for part in parts]),
        target=first.target,
        ids=tuple(row for part in parts for row in part.ids),
        clusters=tuple(cluster for part in parts for cluster in part.clusters),
        source=first.source,
    )
