"""Monitoring of tabular models: whether the error rises, whether rows are still valid, and what has drifted.

`checking.check` tests a window of rows against a reference; `report.write_report` plots both. docs/labs/monitoring.md
explains what an alarm means.
"""
