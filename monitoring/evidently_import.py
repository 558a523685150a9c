"""Evidently, imported in one place: quiet, without telemetry, and only when it is first needed.

The import takes seconds and some 250 MiB, so nothing may import it at module level, and the gateway never does.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from types import SimpleNamespace
from typing import Any


@cache
def evidently() -> Any:
    """The names of Evidently used here, as attributes of one object."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # read once, while Evidently is imported
    with warnings.catch_warnings():
        # Evidently 0.7 touches numpy.core, and its UI part old names of litestar; neither is ours to mend.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message="numpy.core is deprecated")
        warnings.filterwarnings("ignore", message=".*Deprecated in litestar")
        return _names()


def _names() -> Any:
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.datasets import DatasetColumn
    from evidently.descriptors import CustomColumnDescriptor, NonLetterCharacterPercentage, SentenceCount, TextLength
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    return SimpleNamespace(
        ColumnType=ColumnType,
        CustomColumnDescriptor=CustomColumnDescriptor,
        DataDefinition=DataDefinition,
        DataDriftPreset=DataDriftPreset,
        DataSummaryPreset=DataSummaryPreset,
        Dataset=Dataset,
        DatasetColumn=DatasetColumn,
        NonLetterCharacterPercentage=NonLetterCharacterPercentage,
        Report=Report,
        SentenceCount=SentenceCount,
        StatTest=StatTest,
        TextLength=TextLength,
        register_stattest=register_stattest,
    )
