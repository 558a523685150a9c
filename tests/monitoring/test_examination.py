import dataclasses

import numpy as np
import pytest

from monitoring.config import read_config
from monitoring.decide.limits import Limit
from monitoring.decide.pinned_summaries import WHOLE, PinnedSummaries, freeze
from monitoring.decide.window_choice import LogWindow, WindowPair
from monitoring.examination import RunQuestion, examine
from monitoring.store.rows import DescribedRows
from tests.monitoring.described import HOUR, START, InMemoryWindows, share, shifted, window

CONFIG = read_config()
REFERENCE, CURRENT = LogWindow(START, START + HOUR), LogWindow(START + HOUR, START + 2 * HOUR)


def judge(before, *after, config=CONFIG, first_of=None, changed=lambda frozen: frozen):
    """`before` in the first hour is the reference of `after`, in the second. changed: what becomes of the reference."""
    reader = InMemoryWindows(config, before, *after)
    frozen = freeze(reader, config.descriptors, "assistant", REFERENCE.since, REFERENCE.until, dimensions=config.slices)
    frozen = changed(frozen)
    question = RunQuestion("assistant", WindowPair(REFERENCE, CURRENT), frozen, first_of)
    return examine(reader, config, question, failures={})


def before(rows, seed=0, **given):
    return window(CONFIG, rows, seed, **given)


def after(rows, seed=1, **given):
    return window(CONFIG, rows, seed, hours=1, **given)


@pytest.mark.slow
def test_two_months_of_quiet_windows_raise_no_alarm():
    reference = before(300, 1_000_003)
    assert [alarm for seed in range(60) for alarm in judge(reference, after(100, seed)).alarms] == []


def test_a_rise_of_refusals_is_caught_and_its_newest_rows_are_named():
    current = after(1000, change={"output.refusal": share(0.15)})
    found = judge(before(1000), current)
    (alarm,) = found.alarms
    assert (alarm.what, alarm.side, alarm.severity) == ("output.refusal", "output", "high")
    assert "rose from" in alarm.why
    assert "1000 rows against 1000" in alarm.why
    newest = np.flatnonzero(current.columns["output.refusal"])[::-1][: CONFIG.rules.rows_named]
    assert list(alarm.rows) == [f"s1r{row}" for row in newest]
    assert found.to_json()["drift_in"] == ["output"]
    assert found.cure.helps
    assert judge(before(1000, change={"output.refusal": share(0.2)}), after(1000)).alarms == [], "fewer are none"


def test_changed_questions_are_told_from_changed_answers_and_a_new_language_is_named():
    def mostly_russian(column, chance):
        return np.where(chance.random(len(column)) < 0.3, "ru", column)

    found = judge(before(400), after(400, change={"input.length": shifted(0.8)}))
    (alarm,) = found.alarms
    assert (alarm.what, alarm.to_json()["in"]) == ("input.length", "input")
    assert not found.cure.helps
    assert "the questions changed" in found.cure.why
    (alarm,) = judge(before(400), after(400, change={"input.language": mostly_russian})).alarms
    assert "ru went from 0.0% to" in alarm.why


def test_the_rows_of_a_shifted_number_are_those_that_moved_most():
    current = after(400, change={"latency_ms": shifted(2)})
    (alarm,) = judge(before(400), current).alarms
    farthest = np.argsort(-current.columns["latency_ms"])[: CONFIG.rules.rows_named]
    assert list(alarm.rows) == [f"s1r{row}" for row in farthest]


def test_each_release_with_enough_rows_is_a_slice():
    bad = after(500, 2, change={"error": share(0.2)}, release="assistant@3")
    found = judge(before(1000), after(500), bad, after(5, 3, release="assistant@4"))
    releases = [{"release": f"assistant@{number}"} for number in (1, 3)]
    assert [part.label for part in found.slices] == [{"app": "assistant"}, *releases]
    assert [part.descriptors["error"].drifted for part in found.slices] == [True, False, True]
    (alarm,) = found.alarms
    assert "in assistant@3" in alarm.why
    assert all(row.startswith("s2r") for row in alarm.rows)
    assert len(alarm.slices) == 2


def test_a_route_is_compared_with_itself_and_a_release_with_the_whole_reference():
    config = dataclasses.replace(CONFIG, slices=("release", "route"))
    long = {"output.length": shifted(9)}
    reference = DescribedRows.concat([before(300, 5, route="chat"), before(300, 6, change=long, route="responses")])
    new = [after(300, 7, route="chat"), after(300, 8, change=long, route="responses"), after(300, 9, route="new")]
    found = judge(reference, *new, config=config)
    places = [part.label for part in found.slices]
    assert {"route": "responses"} in places
    assert {"route": "new"} not in places, "it has nothing to be compared with"
    assert not any(part.descriptors["output.length"].drifted for part in found.slices if "route" in part.label)


def talk(make, seed, longer=1.0):
    """Answers twice as long as their questions, more or less."""
    asked = (np.random.default_rng(seed + 99).gamma(4, 10, 1500) * longer).astype(np.float32)
    told = (asked * 2 + np.random.default_rng(seed + 7).normal(0, 3, 1500)).astype(np.float32)
    return make(1500, seed, change={"input.length": lambda *_: asked, "output.length": lambda *_: told})


def test_longer_answers_to_longer_questions_are_explained_by_them():
    found = judge(talk(before, 0), talk(after, 1, longer=1.4))
    alarms = {alarm.what: alarm for alarm in found.alarms}
    assert alarms["output.length"].explained is True
    assert "explained by the questions" in alarms["output.length"].why
    assert not found.cure.helps
    assert "which explains output.length" in found.cure.why


def test_answers_that_changed_among_like_questions_may_be_cured():
    changed = talk(after, 1, longer=1.4)
    changed.columns["output.refusal"][:] = np.random.default_rng(3).random(1500) < 0.3
    found = judge(talk(before, 0), changed)
    alarms = {alarm.what: alarm for alarm in found.alarms}
    assert (alarms["output.refusal"].explained, alarms["output.length"].explained) == (False, True)
    assert found.cure.helps
    assert "output.refusal changed among like questions" in found.cure.why


def test_questions_never_asked_before_explain_nothing_and_clear_nothing():
    english, german = (lambda column, _, name=name: np.full(len(column), name, dtype=object) for name in ("en", "de"))
    reference = before(400, change={"input.language": english})
    found = judge(reference, after(400, change={"input.language": german, "output.refusal": share(0.4)}))
    refusal = next(alarm for alarm in found.alarms if alarm.what == "output.refusal")
    assert refusal.explained is None
    assert not found.cure.helps
    assert "cannot be told" in found.cure.why


@pytest.mark.parametrize(("arm", "kind"), [("challenger", "canary"), ("shadow", "shadow")])
def test_a_challenger_that_is_worse_on_the_same_traffic_is_an_alarm(arm, kind):
    worse = after(300, 2, change={"output.refusal": share(0.4)}, arm=arm, release="assistant@2")
    found = judge(before(1000), after(1000), worse)
    (comparison,) = found.canary
    assert comparison.to_json()["kind"] == kind
    assert (comparison.variants.champion, comparison.variants.challenger) == ("assistant@1", "assistant@2")
    assert comparison.worse == ("output.refusal",)
    alarm = next(alarm for alarm in found.alarms if alarm.kind == "canary")
    assert alarm.slices == ({"release": "assistant@2"},)
    assert len(alarm.rows) == CONFIG.rules.rows_named
    assert all(row.startswith("s2r") for row in alarm.rows)
    assert "assistant@2 against assistant@1 on the same traffic" in alarm.why
    assert found.cure.helps


def test_a_challenger_that_is_merely_different_or_asked_otherwise_is_none():
    longer = after(300, 2, change={"output.length": shifted(5)}, arm="shadow", release="assistant@2")
    found = judge(before(1000), after(1000), longer)
    assert found.canary[0].drift.descriptors["output.length"].drifted
    assert (found.canary[0].worse, found.alarms) == ((), [])
    asked = {"input.length": shifted(5), "output.refusal": share(0.4)}
    unfair = judge(before(1000), after(1000), after(300, 2, change=asked, arm="shadow", release="assistant@2"))
    assert (unfair.canary[0].alike, unfair.alarms) == (False, [])


def test_a_broken_limit_is_an_alarm_whatever_the_reference_was():
    limits = (Limit("output.refusal", share_at_most=0.1), Limit("latency_ms", quantile=0.5, at_most=100.0))
    config = dataclasses.replace(CONFIG, limits=limits)
    refusing = {"output.refusal": share(0.3)}
    found = judge(before(1000, change=refusing), after(1000, change=refusing), config=config)
    (alarm,) = found.alarms
    assert (alarm.kind, alarm.what) == ("limit", "output.refusal")
    assert alarm.rows
    assert [each["broken"] for each in found.to_json()["limits"]] == [True, False]


def test_a_window_with_far_too_few_rows_is_an_alarm_of_volume():
    past = [window(CONFIG, 200, 50 + hour, hours=hour) for hour in range(-20, 0)]
    found = judge(before(200), *past, after(3))
    assert found.volume[0].state == "fall"
    assert [(alarm.what, alarm.kind, alarm.rows) for alarm in found.alarms] == [("rows", "volume", ())]
    assert found.to_json()["drift_in"] == []
    assert "nothing was tested" in found.note


def test_of_the_first_window_of_a_release_only_harmful_flags_count():
    longer = after(400, change={"output.length": shifted(3)}, release="assistant@2")
    assert judge(before(400), longer, first_of="assistant@2").alarms == []
    refusing = after(400, change={"output.refusal": share(0.4)}, release="assistant@2")
    (alarm,) = judge(before(400), refusing, first_of="assistant@2").alarms
    assert alarm.what == "output.refusal"


def test_a_descriptor_whose_definition_changed_is_not_compared_and_the_result_says_so():
    def redefined(frozen):
        frozen.whole.versions["output.length"] = "of-another-definition"
        return frozen

    found = judge(before(300), after(300, change={"output.length": shifted(9)}), changed=redefined)
    assert found.to_json()["reference"]["not_compared"] == ["output.length"]
    assert "output.length" not in found.slices[0].descriptors
    assert found.alarms == []


@pytest.mark.parametrize(("rows", "refused"), [(1000, 0.1), (200, 0.3)])
def test_refusals_in_many_small_strata_are_not_laid_to_questions_that_do_not_explain_them(rows, refused):
    # Lengths as scattered as real ones: some twenty strata, in each of which a rare flag alone says nothing.
    length = {"input.length": lambda column, chance: chance.lognormal(4, 0.7, len(column)).astype(np.float32)}
    linked = {"input.link": share(0.4), "output.refusal": share(refused)}
    reference, told = before(2000, change=length), []
    for seed in range(1, 4):
        alarms = {alarm.what: alarm for alarm in judge(reference, after(rows, seed, change=length | linked)).alarms}
        assert "input.link" in alarms
        told += [alarms["output.refusal"].explained] if "output.refusal" in alarms else []
    assert len(told) >= 2
    assert set(told) == {False}


def test_with_an_eval_run_for_a_reference_nothing_is_said_of_the_questions():
    def outputs_alone(frozen):
        versions = {name: each for name, each in frozen.whole.versions.items() if name.startswith("output.")}
        return PinnedSummaries({WHOLE: dataclasses.replace(frozen.whole, versions=versions)})

    found = judge(before(1000), after(1000, change={"output.length": shifted(2)}), changed=outputs_alone)
    assert [alarm.what for alarm in found.alarms] == ["output.length"]
    assert not found.cure.helps
    assert "cannot be told" in found.cure.why


def test_refusals_of_a_first_window_are_explained_by_questions_that_raise_no_alarm():
    def answered(rows, seed, longer, make):
        asked = np.random.default_rng(seed + 99).gamma(4, 10, rows) * longer
        refused = np.random.default_rng(seed + 98).random(rows) < np.clip(asked / 200 - 0.15, 0, 1)
        return make(rows, seed, change={"input.length": lambda *_: asked, "output.refusal": lambda *_: refused})

    found = judge(answered(4000, 0, 1, before), answered(2000, 1, 1.6, after), first_of="assistant@2")
    (alarm,) = found.alarms
    assert (alarm.what, alarm.explained) == ("output.refusal", True)
    assert not found.cure.helps
    assert "the questions changed (input.length)" in found.cure.why
