"""The verdict on a window: harm told from drift, and why in words; the budget of false alarms and how it is shared."""

import json
import re

import numpy as np
import pytest

from llmops.errors import BadFile, UsageError
from monitoring.tabular.checking import check
from monitoring.tabular.error import ErrorEstimator
from monitoring.tabular.observed import observe
from monitoring.tabular.settings import TabularSettings, read_settings
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, harder_when_hot, hours, kinds, rows_of

QUICK = TabularSettings(estimate=False)
REFERENCE = hours(60)
TRUSTED = [(10.0, 10.0)] * 3


def judged(current, settings=QUICK, reference=REFERENCE, schema=REGRESSION, **given):
    return check(reference, current, schema, settings, windows_in_budget=12, **given)


def rules_of(verdict):
    return [(alarm.rule, alarm.what) for alarm in verdict.alarms]


def test_a_season_drifts_and_raises_an_alarm_only_where_the_settings_say_so():
    season = hours(30, seed=1, warmer=2.0)
    verdict = judged(season)
    assert (verdict.alarm, verdict.state, verdict.drifted) == (False, "ok", ("temp",))
    assert "drifted, which is no harm by itself: temp" in verdict.why
    alarmed = judged(season, TabularSettings(estimate=False, alarm_on_drift=True))
    assert rules_of(alarmed) == [("drift", "temp")]
    assert "temp (input) drifted" in alarmed.why


def test_an_error_that_really_rose_is_an_alarm():
    verdict = judged(hours(30, seed=1, error=14.0))
    assert rules_of(verdict) == [("error", "error")]
    assert "the error (rmse) rose by" in verdict.why
    assert verdict.error_interval[0] < verdict.error < verdict.error_interval[1]
    assert verdict.relative_rise == pytest.approx(0.4, abs=0.1)


def test_a_certain_trifle_stays_quiet():
    verdict = judged(rows_of(200, seed=1, error=10.7), reference=rows_of(400))
    assert verdict.rise.p_value <= verdict.alphas["error"]
    assert not verdict.alarm


def test_a_rise_from_no_error_at_all_is_an_alarm():
    verdict = judged(hours(30, seed=1), reference=REFERENCE.assign(truth=REFERENCE["prediction"]))
    assert verdict.relative_rise is None
    assert "rose from 0" in verdict.why


def test_broken_quality_is_an_alarm():
    assert rules_of(judged(hours(30, seed=1).assign(temp=np.nan))) == [("quality", "temp")]


def test_wine_as_it_were():
    quiet, shifted = (
        judged(kinds(60, seed=seed, wrong=wrong), reference=kinds(120, wrong=0.02), schema=CLASSIFICATION)
        for seed, wrong in ((1, 0.02), (2, 0.4))
    )
    assert (quiet.metric, quiet.alarm) == ("error_rate", False)
    assert rules_of(shifted) == [("error", "error")]


def test_before_labels_a_trusted_estimate_raises_the_alarm_and_an_untrusted_one_does_not():
    settings = TabularSettings(estimate_outside_at_most=0.5)
    reference, current = harder_when_hot(REFERENCE), harder_when_hot(hours(30, seed=1, warmer=1.5))
    late = current.assign(truth=np.nan)
    estimator = ErrorEstimator.fit(observe(reference, REGRESSION, "reference"), REGRESSION, settings)

    trusted, untrusted, labelled = (
        judged(window, settings, reference, past=past, estimator=estimator)
        for window, past in ((late, TRUSTED), (late, []), (current, TRUSTED))
    )
    assert rules_of(trusted) == [("estimate", "error")]
    assert (trusted.error, trusted.past_estimate) == (None, None)
    assert "labels are late" in trusted.why
    assert untrusted.estimated_error == trusted.estimated_error
    assert (untrusted.alarm, untrusted.estimate_trusted) == (False, False)
    assert "labels have not come yet" in untrusted.why
    assert rules_of(labelled) == [("error", "error")], "what labels say counts more"
    assert labelled.past_estimate == (labelled.estimated_error, labelled.error)


def test_too_few_rows_are_said_and_never_an_alarm():
    verdict = judged(hours(30, seed=1, error=90.0).head(10))
    assert (verdict.state, verdict.alarm) == ("too-few-rows", False)
    assert "10 in the window; 20 are needed" in verdict.why
    days = judged(hours(3, seed=1, error=90.0))
    assert not days.alarm
    assert "not tested: 3 labelled blocks in the window" in days.why


def test_a_few_labels_are_reported_and_not_tested():
    current = hours(30, seed=1, error=90.0)
    current.loc[5:, "truth"] = np.nan
    verdict = judged(current)
    assert verdict.error is not None
    assert (verdict.labelled, verdict.alarm, verdict.past_estimate) == (5, False, None)
    unlabelled = judged(hours(30), TabularSettings(), REFERENCE.assign(truth=np.nan))
    assert (unlabelled.reference_error, unlabelled.alarm) == (None, False)


def test_the_json_is_plain_and_whole():
    value = judged(hours(30, seed=1, error=14.0, warmer=2.0).assign(sky="hail")).to_json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["alarm"] is True
    assert value["drift"]["temp"]["drifted"] is True
    assert value["quality"]["unseen"] == {"sky": 1.0}
    assert value["windows_in_budget"] == 12
    assert value["expected_false_alarms"] <= 0.1


def test_blocks_must_be_in_both_frames_or_in_neither():
    with pytest.raises(UsageError, match="or neither"):
        judged(rows_of(30))


def test_quiet_years_stay_quiet():
    """Twelve windows of each of six years; the rate itself is measured by benchmarks/labs/quiet.py."""
    alarmed = 0
    for year in range(6):
        reference, windows = rows_of(20, seed=1_000 + year), (rows_of(5, seed=year * 12 + month) for month in range(12))
        alarmed += any(judged(each, reference=reference).alarm for each in windows)
    assert alarmed <= 2  # at 6.5 % more come once in 200 times


def test_the_rules_of_all_windows_spend_at_most_the_budget_and_drift_that_is_no_alarm_nothing():
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
def test_settings_that_make_no_sense_are_refused(changed, named):
    with pytest.raises(UsageError, match=named):
        TabularSettings(**changed)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tabular]\nrise_flor = 0.2\n", "unknown key; did you mean rise_floor?"),
        ("[tabular]\nloss = 3\n", "loss: must be 'squared', 'absolute', 'relative' or 'ratio', not 3"),
        ("[tabula]\n", "did you mean tabular"),
    ],
)
def test_settings_are_read_from_a_file_strictly(tmp_path, text, told):
    file = tmp_path / "tabular.toml"
    file.write_text('[tabular]\nloss = "absolute"\nalarm_on_drift = true\n')
    assert read_settings(file) == TabularSettings(loss="absolute", alarm_on_drift=True)
    file.write_text(text)
    with pytest.raises(BadFile, match=re.escape(told)):
        read_settings(file)
