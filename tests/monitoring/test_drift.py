import numpy as np
import pytest

from monitoring.alarms import alarms_of
from monitoring.descriptor_store import DescribedRows
from monitoring.descriptors import DESCRIPTORS
from monitoring.drift import count_families, examine_slice, examine_slices, sides_of, slices_of
from monitoring.rules import DriftRules

RULES = DriftRules()
FLAG_SHARE = 0.05


def window(rows, seed, release="assistant@1", **changed):
    """Random columns of every descriptor; the three lengths of a side are one signal, as in real texts."""
    chance = np.random.default_rng(seed)
    columns = {}
    signal = {side: chance.normal(size=rows) for side in ("input", "output", "service")}
    for name, descriptor in DESCRIPTORS.items():
        if descriptor.kind == "numeric":
            columns[name] = (signal[descriptor.side] + chance.normal(scale=0.5, size=rows)).astype(np.float32)
        elif descriptor.kind == "flag":
            columns[name] = (chance.random(rows) < FLAG_SHARE).astype(np.float32)
        else:
            columns[name] = chance.choice(np.array(["en", "de", "fr"], dtype=object), size=rows, p=[0.8, 0.15, 0.05])
    for name, change in changed.items():
        columns[name] = change(columns[name], chance)
    releases = np.full(rows, release, dtype=object)
    return DescribedRows([f"r{number}" for number in range(rows)], releases, columns)


def judge(reference, current, rules=RULES):
    slices = slices_of("assistant", current, rules)
    drifts = examine_slices(slices, reference, rules)
    return drifts, alarms_of(slices, drifts, reference, rules)


def shifted(by):
    return lambda column, _chance: column + np.float32(by)


def share(of):
    return lambda column, chance: (chance.random(len(column)) < of).astype(np.float32)


def test_quiet_windows_alarm_no_more_often_than_stated():
    # One and a half false alarms a month make 5 % of windows: frequent enough to be measured, floors off.
    rules = DriftRules(false_alarms_per_month=1.5, numeric_floor=0, label_floor=0, flag_floor=0, harmful_floor=0)
    quiet, windows = 0, 200
    for seed in range(windows):
        reference, current = window(150, 2 * seed), window(150, 2 * seed + 1)
        (part, *_) = slices_of("assistant", current, rules)
        found = examine_slice(part, reference, rules, rules.alpha(1))
        quiet += not any(drift.drifted for drift in found.descriptors.values())
    stated = rules.expected_false_alarms_per_month(1) / rules.windows_per_month
    alarmed = windows - quiet
    assert alarmed <= windows * stated + 3 * np.sqrt(windows * stated * (1 - stated))
    assert alarmed > 0, "a rule that can never alarm holds any budget"


def test_with_the_default_rules_two_months_of_quiet_windows_raise_no_alarm():
    reference = window(300, 1_000_003)
    assert [alarm for seed in range(60) for alarm in judge(reference, window(100, seed))[1]] == []


def test_a_rise_of_refusals_is_caught_and_its_rows_named():
    current = window(1000, 1, **{"output.refusal": share(0.15)})
    drifts, alarms = judge(window(1000, 0), current)
    assert [alarm.what for alarm in alarms] == ["output.refusal"]
    assert "rose from 4." in alarms[0].why
    assert "1000 rows against 1000" in alarms[0].why
    assert len(alarms[0].rows) == RULES.rows_named
    carrying = {f"r{row}" for row in np.flatnonzero(current.columns["output.refusal"])}
    assert set(alarms[0].rows) <= carrying
    assert sides_of(drifts) == ["output"]


def test_fewer_refusals_are_no_alarm():
    before = window(1000, 0, **{"output.refusal": share(0.2)})
    assert judge(before, window(1000, 1))[1] == []


def test_a_shift_of_the_input_is_told_from_one_of_the_output():
    drifts, alarms = judge(window(400, 0), window(400, 1, **{"input.length": shifted(0.8)}))
    assert [alarm.what for alarm in alarms] == ["input.length"]
    assert alarms[0].to_json()["in"] == "input"
    assert sides_of(drifts) == ["input"]


def test_the_rows_of_a_shifted_number_are_those_that_moved_most():
    current = window(400, 1, latency_ms=shifted(2))
    (alarm,) = judge(window(400, 0), current)[1]
    farthest = np.argsort(-current.columns["latency_ms"])[: RULES.rows_named]
    assert list(alarm.rows) == [f"r{row}" for row in farthest]


def test_a_new_language_is_named():
    def mostly_russian(column, chance):
        return np.where(chance.random(len(column)) < 0.3, "ru", column)

    (alarm,) = judge(window(400, 0), window(400, 1, **{"input.language": mostly_russian}))[1]
    assert "ru went from 0.0% to" in alarm.why


def test_a_tiny_shift_at_a_huge_size_is_certain_but_no_alarm():
    drifts, alarms = judge(window(60_000, 0), window(60_000, 1, latency_ms=shifted(0.08)))
    found = drifts[0].descriptors["latency_ms"]
    assert found.p_adjusted < drifts[0].alpha
    assert 0 < found.result.effect < RULES.numeric_floor
    assert (found.drifted, alarms) == (False, [])


def test_each_release_with_enough_rows_is_a_slice():
    good, bad, rare = window(500, 1), window(500, 2, "assistant@3", error=share(0.2)), window(5, 3, "assistant@4")
    releases = np.concatenate([part.releases for part in (good, bad, rare)])
    columns = {name: np.concatenate([part.columns[name] for part in (good, bad, rare)]) for name in DESCRIPTORS}
    current = DescribedRows([f"r{number}" for number in range(1005)], releases, columns)
    drifts, alarms = judge(window(1000, 0), current)
    assert [part.label for part in drifts] == [
        {"app": "assistant"}, {"release": "assistant@1"}, {"release": "assistant@3"}
    ]  # fmt: skip
    drifted = [part.descriptors["error"].drifted for part in drifts]
    assert drifted == [True, False, True]
    (alarm,) = alarms
    assert "in assistant@3" in alarm.why
    assert {int(row[1:]) // 500 for row in alarm.rows} == {1}
    assert len(alarm.slices) == 2


def test_a_release_that_answered_everything_is_no_second_family():
    slices = slices_of("assistant", window(50, 0), RULES)
    assert len(slices) == 2
    assert count_families(slices) == 1


@pytest.mark.parametrize("name", ["latency_ms", "output.refusal", "output.language"])
def test_a_column_with_too_few_values_is_not_tested(name):
    def mostly_missing(column, _chance):
        column[5:] = None if column.dtype == object else np.nan
        return column

    found = judge(window(100, 0), window(100, 1, **{name: mostly_missing}))[0][0].descriptors[name]
    assert (found.result.test, found.p_adjusted, found.drifted) == ("none", 1.0, False)
