"""What a new model of the rentals must show."""

from __future__ import annotations

from labs.scorers import AbsoluteError, SquaredError
from llmops.evaluation.gate_rules import GateRules

SCORERS = (AbsoluteError(), SquaredError())
"""Both are compared; the squared error, whose mean is the RMSE's square, is not gated: in the 7 days that judge a
challenger a single wild hour decides it."""
RULES = GateRules(
    primary="absolute_error",
    rule="better",
    # With or without a champion, forecasts that are off by more than this are of no use to those who move bicycles.
    ceilings={"absolute_error": 60.0},
)
