"""Described rows: a piece of the production log as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DIMENSIONS = ("release", "prompt", "model", "route", "caller", "user", "language")
"""What windows may be sliced by. `language` is the value of the descriptor `input.language`."""

ARM = "arm"
"""Which side of a traffic policy answered: `champion`, `challenger`, `explicit` or `shadow`. Always summarised."""

SHADOW_OF = "shadow_of"
"""For a shadow row, the id of the request whose question it answered too; None in every other row."""

ROW_DIMENSIONS = (*DIMENSIONS, ARM, SHADOW_OF)
"""What is known of each described row beside its descriptors."""

HOUR = 3600
"""Seconds. Hours are counted from the epoch: the hour of a row is `at // HOUR`."""

Column = np.ndarray[Any, np.dtype[Any]]
Objects = np.ndarray[Any, np.dtype[np.object_]]


@dataclass(frozen=True, slots=True)
class DescribedRows:
    """A window of the log as columns.

    at: seconds since the epoch. dimensions: text or None for each row, by the names of ROW_DIMENSIONS. columns: by
    descriptor; numbers and flags are float32 with NaN for None, labels are text or None.
    """

    keys: Sequence[str]
    request_ids: Sequence[str]
    at: np.ndarray[Any, np.dtype[np.float64]]
    dimensions: Mapping[str, Objects]
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, chosen: Column) -> DescribedRows:
        """The rows at the given positions, or where a mask of booleans is true."""
        positions = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        places = positions.tolist()
        return DescribedRows(
            [self.keys[place] for place in places],
            [self.request_ids[place] for place in places],
            self.at[positions],
            {name: values[positions] for name, values in self.dimensions.items()},
            {name: column[positions] for name, column in self.columns.items()},
        )

    @staticmethod
    def concat(parts: Iterable[DescribedRows]) -> DescribedRows:
        """All rows, in order. A column or dimension that a part does not have is missing in its rows."""
        given = list(parts)
        filled = [part for part in given if len(part)] or given[:1]
        if len(filled) == 1:
            return filled[0]
        return DescribedRows(
            [key for part in filled for key in part.keys],
            [request_id for part in filled for request_id in part.request_ids],
            np.concatenate([part.at for part in filled]) if filled else np.empty(0),
            _joined([part.dimensions for part in filled], [len(part) for part in filled]),
            _joined([part.columns for part in filled], [len(part) for part in filled]),
        )


def objects(values: Sequence[Any]) -> Objects:
    """A column of text or None."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def present(column: Column) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where the column has a value."""
    if column.dtype == object:
        return np.fromiter((value is not None for value in column), dtype=bool, count=len(column))
    return ~np.isnan(column)


def _joined(parts: Sequence[Mapping[str, Column]], lengths: Sequence[int]) -> dict[str, Column]:
    kinds = {name: column.dtype for part in parts for name, column in part.items()}
    return {
        name: np.concatenate(
            [
                part[name] if name in part else np.full(length, None if kind.hasobject else np.nan, dtype=kind)
                for part, length in zip(parts, lengths, strict=True)
            ]
        )
        for name, kind in kinds.items()
    }
