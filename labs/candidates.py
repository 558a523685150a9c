"""Candidates: kinds of model to choose from, each with the parameters to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """build: an unfitted scikit-learn estimator of such parameters. grid: the values to try of each.

    growing: the one parameter, if any, that counts trees. A model of 200 trees begins with that of 100, so that all its
    values are tried at the price of the largest (scikit-learn's `warm_start`).
    """

    name: str
    description: str
    build: Callable[[Parameters], Any]
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    growing: str | None = None

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination of the parameters that do not grow."""
        names = [name for name in self.grid if name != self.growing]
        for values in product(*(self.grid[name] for name in names)):
            yield dict(zip(names, values, strict=True))

    @property
    def sizes(self) -> Sequence[Any]:
        """The values of the growing parameter, smallest first; one None without one."""
        return sorted(self.grid[self.growing]) if self.growing else (None,)

    def with_size(self, parameters: Parameters, size: Any) -> dict[str, Any]:
        """The parameters, and the growing one where there is one."""
        return {**parameters, self.growing: size} if self.growing else dict(parameters)
