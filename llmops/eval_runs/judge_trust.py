"""Which judges have earned to gate: those whose agreement with people was measured, recorded, and is high enough."""

from __future__ import annotations

from typing import Any

from llmops.eval_runs.scorer_factory import ScorerFactory
from llmops.evaluation.scorers.protocol import KeptScorer
from llmops.evaluation.suite import Suite
from llmops.judges.calibration import judge_hash
from llmops.recording import find_calibration
from llmops.registry.store import Store


def untrusted(suite: Suite, store: Store, scorer_factory: ScorerFactory) -> dict[str, str]:
    """Judge scorers of the suite that may not gate, and why. Raises StoreUnavailable."""
    found = dict.fromkeys(suite.left_out(), "no judge is configured")
    judged = {spec.name for spec in suite.scorer_specs if scorer_factory.needs_judge(spec)}
    for scorer in suite.make_scorers():
        if scorer.name in judged and isinstance(scorer, KeptScorer):
            asked = suite.kappa_asked(scorer.name)
            why = distrust(find_calibration(store, judge_hash(scorer)), asked)
            if why is not None:
                found[scorer.name] = why
    return found


def distrust(calibration: dict[str, Any] | None, kappa_asked: float) -> str | None:
    """Why a judge may not gate; None when it may. The lower end of κ's interval counts, so that a few lucky labels
    are not enough."""
    if calibration is None:
        return "its judge is not calibrated; run `llmops eval calibrate-judge`"
    kappa, low = calibration["kappa"], calibration["kappa_low"]
    if kappa is None or low is None:
        return "its judge's agreement with people cannot be told from the labelled rows"
    if low < kappa_asked:
        return f"its judge's agreement with people, κ {kappa:.2f}, is not surely {kappa_asked:g} or more"
    return None
