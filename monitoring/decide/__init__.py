"""Decide: references, tests within the false-alarm budget, alarms and what could cure them."""
