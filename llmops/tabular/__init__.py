"""Tabular models: fitted estimators that read rows of named columns. No store, no network.

`RowSchema` defines the columns of a row, `columns_of` checks rows and converts them to arrays, a `TabularModel`
predicts, and `load` reads a model from a folder in MLflow's format.
"""

from llmops.tabular.model import Predictions, TabularModel
from llmops.tabular.schema import BadRow, Column, Kind, RowSchema, Task, columns_of
from llmops.tabular.storage import load

__all__ = ["BadRow", "Column", "Kind", "Predictions", "RowSchema", "TabularModel", "Task", "columns_of", "load"]
