"""Monitoring of tabular models: whether the error rises, whether rows are still valid, and what has drifted.

`check` tests a window of rows against a reference; `write_report` plots both. docs/labs/monitoring.md explains what an
alarm means. Importing it is light: numpy, pandas, scipy, scikit-learn and Evidently load when a check first needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitoring.tabular.checking import TabularVerdict, check
    from monitoring.tabular.estimate import ErrorEstimator
    from monitoring.tabular.observed import frame_of
    from monitoring.tabular.report import write_report
    from monitoring.tabular.settings import TabularSettings, read_settings

__all__ = [
    "ErrorEstimator",
    "TabularSettings",
    "TabularVerdict",
    "check",
    "frame_of",
    "read_settings",
    "write_report",
]

_HOMES = {
    "ErrorEstimator": "estimate",
    "TabularSettings": "settings",
    "TabularVerdict": "checking",
    "check": "checking",
    "frame_of": "observed",
    "read_settings": "settings",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'monitoring.tabular' has no attribute {name!r}")
    return getattr(importlib.import_module(f"monitoring.tabular.{_HOMES[name]}"), name)
