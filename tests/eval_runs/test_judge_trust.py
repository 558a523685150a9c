"""A judge may gate when its agreement with people was measured as that very judge, and surely is high enough."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.eval_runs.scorer_factory import distrust, untrusted
from llmops.evaluation.scorers.protocol import KeptScorer
from llmops.evaluation.suite import Suite
from llmops.judges.calibration import judge_hash
from llmops.recording import record_calibration
from tests.registered_home import Workshop

TABLES = """
[judges.main]
base_url = "http://127.0.0.1:9/v1"
model = "big"
[scorers.kind]
type = "judge.rubric"
instructions = "Is it kind?"
[scorers.clear]
type = "judge.rubric"
instructions = "Is it clear?"
"""


def calibration(kappa: float | None, low: float = 0.0) -> dict[str, Any]:
    return {"kappa": kappa, "kappa_low": low, "kappa_high": 1.0, "n": 50}


@pytest.mark.parametrize(
    ("found", "asked", "why"),
    [
        (None, 0.6, "its judge is not calibrated; run `llmops eval calibrate-judge`"),
        (
            {"kappa": None, "kappa_low": None},
            0.6,
            "its judge's agreement with people cannot be told from the labelled rows",
        ),
        (calibration(None), 0.6, "its judge's agreement with people cannot be told from the labelled rows"),
        (calibration(0.8, 0.59), 0.6, "its judge's agreement with people, κ 0.80, is not surely 0.6 or more"),
        (calibration(0.8, 0.6), 0.6, None),
        (calibration(0.8, 0.59), 0.5, None),
        (calibration(-0.5, -0.9), -1.0, None),
    ],
)
def test_the_lower_end_of_kappa_must_reach_what_is_asked(found: Any, asked: float, why: str | None) -> None:
    assert distrust(found, asked) == why


def suite(workshop: Workshop, text: str = TABLES) -> Suite:
    workshop.add_suite("judged", 2)
    path = workshop.folder / "judged.toml"
    path.write_text(path.read_text() + text)
    loaded = workshop.evaluations.suite("judged")
    path.unlink()
    return loaded


def why(workshop: Workshop, loaded: Suite) -> dict[str, str]:
    return untrusted(loaded, workshop.registry.store, workshop.evaluations.scorer_factory)


def calibrate(workshop: Workshop, loaded: Suite, name: str, low: float) -> None:
    scorer = next(scorer for scorer in loaded.make_scorers() if scorer.name == name)
    assert isinstance(scorer, KeptScorer)
    record_calibration(workshop.registry.store, name, calibration(0.9, low), judge_hash(scorer))


def test_scorers_without_a_judge_need_no_trust(workshop: Workshop) -> None:
    assert why(workshop, workshop.evaluations.suite("sums")) == {}


def test_judges_earn_trust_one_by_one_and_only_as_they_are(workshop: Workshop) -> None:
    loaded = suite(workshop)
    assert why(workshop, loaded).keys() == {"kind", "clear"}
    calibrate(workshop, loaded, "kind", 0.7)
    calibrate(workshop, loaded, "clear", 0.5)
    found = why(workshop, loaded)
    assert found.keys() == {"clear"}
    assert "κ 0.90, is not surely 0.6 or more" in found["clear"]
    for changed in (TABLES.replace('"big"', '"bigger"'), TABLES.replace("kind?", "very kind?")):
        assert "not calibrated" in why(workshop, suite(workshop, changed))["kind"]
    modest = TABLES.replace('model = "big"', 'model = "big"\nkappa = 0.4')
    assert why(workshop, suite(workshop, modest)) == {}
    calibrate(workshop, loaded, "clear", 0.65)
    assert why(workshop, loaded) == {}  # the newest measurement counts


def test_a_judge_that_is_not_configured_is_not_trusted(workshop: Workshop) -> None:
    without = TABLES[TABLES.index("[scorers.kind]") :]
    assert why(workshop, suite(workshop, without)) == dict.fromkeys(("kind", "clear"), "no judge is configured")


def test_a_gate_on_a_judge_that_is_not_trusted_is_inconclusive(workshop: Workshop) -> None:
    from llmops.eval_runs.cells import RunOptions

    workshop.add_suite("gated", 2)
    path = workshop.folder / "gated.toml"
    rules = '\n[gate.floors]\nkind = 0.0\n[gate.slice_floors."parity=0"]\nkind = 0.0\n'
    without = TABLES[TABLES.index("[scorers.kind]") :]
    path.write_text(path.read_text().partition("[gate]")[0] + without + '[gate]\nprimary = "correct"' + rules)
    evaluations = workshop.evaluations
    loaded = evaluations.suite("gated")
    [done] = evaluations.run(loaded, evaluations.cells(loaded, ["qa@1"]), RunOptions(recorder="bulk"), lambda *_: None)
    verdict = evaluations.gate(done.run.run_id, None, "gated").verdict
    path.unlink()
    assert verdict.verdict != "pass"
    assert verdict.reasons[0] == "kind cannot gate: no judge is configured"
