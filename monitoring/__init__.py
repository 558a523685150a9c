"""Monitoring: descriptors of logged requests, drift against a reference window, alarms within a false-alarm budget.

Importing it is light: Evidently, pandas and scipy load when a run first needs them.
"""

from monitoring.result import MonitorResult
from monitoring.rules import DriftRules
from monitoring.run import list_apps, pin_reference, run_monitor, write_report

__all__ = ["DriftRules", "MonitorResult", "list_apps", "pin_reference", "run_monitor", "write_report"]
