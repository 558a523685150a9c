"""The budget of false alarms: how it is shared, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import BadFile, UsageError
from monitoring.tabular.settings import TabularSettings, read_settings


def test_the_rules_of_all_windows_spend_at_most_the_budget_and_drift_that_is_no_alarm_nothing() -> None:
    settings = TabularSettings(false_alarms=0.2, alarm_on_drift=True)
    rules = ("error", "estimate", "quality", "drift")
    assert sum(settings.alpha(rule, 12) for rule in rules) * 12 == pytest.approx(0.2)
    assert settings.expected_false_alarms() == pytest.approx(0.2)
    told = TabularSettings(estimate=False)
    assert told.alpha("drift", 12) == told.drift_level
    assert told.expected_false_alarms() == pytest.approx(0.1 * 0.65)
    with pytest.raises(UsageError, match="more windows"):
        told.alpha("error", 0)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"false_alarms": 0}, "false_alarms"),
        ({"loss": "cubic"}, "loss"),
        ({"error_share": 0.9}, "shares"),
        ({"minimum_blocks": 1}, "minimum_blocks"),
        ({"missing_at_most": 1.0}, "missing_at_most"),
        ({"rise_floor": -0.1}, "rise_floor"),
        ({"drift_level": 1.0}, "drift_level"),
        ({"trust_within": float("nan")}, "trust_within"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        TabularSettings(**changed)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tabular]\nrise_flor = 0.2\n", "unknown key; did you mean rise_floor?"),
        ("[tabular]\nloss = 3\n", "loss: must be 'squared', 'absolute' or 'relative', not 3"),
        ("[tabula]\n", "did you mean tabular"),
    ],
)
def test_settings_are_read_from_a_file_strictly(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "tabular.toml"
    file.write_text('[tabular]\nloss = "absolute"\nalarm_on_drift = true\n')
    assert read_settings(file) == TabularSettings(loss="absolute", alarm_on_drift=True)
    file.write_text(text)
    with pytest.raises(BadFile, match=re.escape(told)):
        read_settings(file)
