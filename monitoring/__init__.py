"""Monitoring: descriptors of logged requests, drift against a pinned reference, alarms within a false-alarm budget.

Importing it is light: numpy, pyarrow, Evidently, pandas and scipy are loaded when a run first needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitoring.decide.references import PinnedReference
    from monitoring.decide.result import MonitorResult
    from monitoring.decide.rules import DriftRules
    from monitoring.pinning import list_references, pin_at_promotion, pin_reference, reference_in_force
    from monitoring.run import list_apps, replay_past, run_monitor, write_report

__all__ = [
    "DriftRules",
    "MonitorResult",
    "PinnedReference",
    "list_apps",
    "list_references",
    "pin_at_promotion",
    "pin_reference",
    "reference_in_force",
    "replay_past",
    "run_monitor",
    "write_report",
]

_HOMES = {
    "DriftRules": "decide.rules",
    "MonitorResult": "decide.result",
    "PinnedReference": "decide.references",
    "list_references": "pinning",
    "pin_at_promotion": "pinning",
    "pin_reference": "pinning",
    "reference_in_force": "pinning",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'monitoring' has no attribute {name!r}")
    return getattr(importlib.import_module(f"monitoring.{_HOMES.get(name, 'run')}"), name)
