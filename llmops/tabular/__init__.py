"""Tabular models: fitted estimators that read rows of named columns. No store, no network.

`RowSchema` says what a row holds, `columns_of` checks rows and turns them into arrays, a `TabularModel` predicts, and
`load` reads one from a folder as MLflow writes it.
"""

from llmops.tabular.model import Predictions, TabularModel
from llmops.tabular.rows import BadRow, columns_of
from llmops.tabular.schema import Column, Kind, RowSchema, Task
from llmops.tabular.storage import load

__all__ = [
    "BadRow",
    "Column",
    "Kind",
    "Predictions",
    "RowSchema",
    "TabularModel",
    "Task",
    "columns_of",
    "load",
]
