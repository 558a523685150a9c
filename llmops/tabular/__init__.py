"""Tabular models: fitted estimators that read rows of named columns. No store, no network.

`RowSchema` says what a row holds, `columns_of` checks rows and turns them into arrays.
"""

from llmops.tabular.rows import BadRow, columns_of
from llmops.tabular.schema import Column, Kind, RowSchema, Task

__all__ = ["BadRow", "Column", "Kind", "RowSchema", "Task", "columns_of"]
