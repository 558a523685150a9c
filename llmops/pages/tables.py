"""What a result shows: tables and sentences, the same on a terminal and in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Table:
    """columns: names that end in `#` are of numbers, which are set right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str | None = None


Block = Table | str
"""A table, or a line of text."""


class Shown(ABC):
    """Base of results. Notebooks show one as its tables."""

    __slots__ = ()

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """What the command prints with `--json`."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """What the command prints without."""

    @property
    def notes(self) -> Sequence[str]:
        """What else there is to know, which the command says on standard error."""
        return ()

    def records(self) -> Sequence[Mapping[str, Any]]:
        """The rows of `to_pandas`: one, unless a class says otherwise."""
        return [self.to_dict()]

    def to_pandas(self) -> pd.DataFrame:
        """`records` as a DataFrame."""
        import pandas as pd

        return pd.DataFrame.from_records(list(self.records()))

    def _repr_html_(self) -> str:
        from llmops.pages.rendering import embedded

        return embedded("llmops/pages/tables.html", blocks=[*self.blocks(), *self.notes])
