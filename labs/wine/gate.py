"""What a new model of the wines must show."""

from __future__ import annotations

from labs.scorers import Correct
from llmops.evaluation.gate_rules import GateRules

SCORERS = (Correct(),)
RULES = GateRules(primary="correct", rule="better", floors={"correct": 0.85})
