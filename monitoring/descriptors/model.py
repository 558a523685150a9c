"""What a descriptor is, and what describing records gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["numeric", "flag", "label"]
Side = Literal["input", "output", "service"]
Value = float | bool | str | None


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One number, flag or label of a request.

    side: where a change comes from: what users ask, what the model answers, or how the service runs.
    harmful: a flag whose rise is bad; it is tested for a rise only. unit: shown after its value, may be empty.
    version: 16 hex digits over all that decides its values; values of another version are not comparable.
    sampled: share of requests that have a value, chosen by the record's key.
    """

    name: str
    kind: Kind
    side: Side
    harmful: bool = False
    unit: str = ""
    version: str = ""
    sampled: float = 1.0


@dataclass(frozen=True, slots=True)
class Described:
    """The values of some records, in their order.

    columns: descriptor name → numbers and flags as float32 with NaN for none, labels as objects with None.
    failures: descriptor name → rows that it should have had a value for and could not compute; absent when none.
    reasons: why the first of them failed.
    """

    columns: Mapping[str, np.ndarray[Any, Any]]
    failures: Mapping[str, int]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))
