"""Decide: references, tests within the false-alarm budget, alarms, and whether a rollback can help."""
