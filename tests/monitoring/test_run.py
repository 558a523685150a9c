import dataclasses
import json

import pytest

from llmops.errors import CannotRun
from llmops.production_log import Feedback
from llmops.settings import Settings
from monitoring.config import read_config
from monitoring.descriptors import Descriptor, DescriptorSet
from monitoring.descriptors.model import Declared
from monitoring.run import pin_reference, run_monitor
from tests.at_once import at_once
from tests.moments import MINUTE, START

DESCRIPTORS = read_config().descriptors.descriptors
SINCE, UNTIL = START + 200 * MINUTE, START + 400 * MINUTE


def judged(settings, since=SINCE, until=UNTIL, **given):
    return run_monitor(settings, "assistant", since, until, **given)


@pytest.mark.usefixtures("worse")
def test_the_json_has_the_contracts_shape(settings):
    found = json.loads(json.dumps(judged(settings).to_json(), allow_nan=False))
    assert found["app"] == "assistant"
    assert found["window"] == {"since": SINCE.isoformat(), "until": UNTIL.isoformat(), "rows": 200}
    assert found["reference"]["rows"] == 200
    assert [part["slice"] for part in found["slices"]] == [{"app": "assistant"}, {"release": "assistant@2"}]
    for part in found["slices"]:
        assert set(part["descriptors"]) == set(DESCRIPTORS)
        for values in part["descriptors"].values():
            assert {"test", "statistic", "p_value", "p_adjusted", "effect", "drifted"} <= set(values)
            assert isinstance(values["drifted"], bool)
    assert "output.refusal" in {alarm["what"] for alarm in found["alarms"]}
    assert all(alarm["why"] and 0 < len(alarm["rows"]) <= 20 for alarm in found["alarms"])
    assert found["expected_false_alarms_per_month"] == pytest.approx(0.1)
    assert (found["state"], found["drift_in"]) == ("alarm", ["output"])


@pytest.mark.usefixtures("worse")
def test_the_first_since_pins_the_reference_and_rows_are_described_once(settings):
    first = judged(settings)
    assert (first.computed, first.alarm, first.pinned.why) == (400, True, "rows before the first --since")
    later = judged(settings, SINCE + 100 * MINUTE)
    assert later.computed == 0
    assert (later.reference.since, later.reference.until, later.window.rows) == (START, SINCE, 100)


@pytest.mark.parametrize(
    ("before", "after", "note"), [(5, 50, "reference window has 5"), (50, 5, "current window has 5")]
)
def test_too_few_rows_give_no_verdict(settings, log, make_records, before, after, note):
    log.append(make_records(before + after, refusals=0))
    found = judged(settings, START + before * MINUTE)
    assert (found.state, found.alarm, found.slices) == ("too-few-rows", False, [])
    assert note in found.note
    assert (found.pinned is None) == (before == 5), "a reference too small is not pinned"


@pytest.mark.usefixtures("worse")
def test_metrics_are_flat_finite_and_named_for_mlflow(settings):
    metrics = judged(settings).metrics()
    assert metrics["drift/output.refusal/p_adjusted"] < 0.001
    assert metrics["drift/assistant-2/output.refusal/effect"] > 0.2
    assert metrics["mean/output.refusal"] == pytest.approx(0.4, abs=0.1)
    assert (metrics["rows"], metrics["reference_rows"]) == (200.0, 200.0)
    assert all(isinstance(value, float) and value == value for value in metrics.values())
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-./") for name in metrics)


def test_an_empty_log_says_what_to_do(tmp_path):
    for since, problem in ((None, "no reference window is pinned"), (SINCE, "no rows of app assistant")):
        with pytest.raises(CannotRun, match=problem):
            run_monitor(Settings(home=tmp_path / "new"), "assistant", since)


@pytest.mark.usefixtures("worse")
def test_two_monitors_at_once_both_finish(settings):
    found = []
    at_once(*[lambda: found.append(judged(settings))] * 2)
    assert [result.window.rows for result in found] == [200, 200]


@pytest.mark.usefixtures("worse")
def test_the_detectors_see_a_bad_release_before_its_window_ends(settings):
    result = judged(settings, SINCE, SINCE + 60 * MINUTE)
    sequential = [alarm for alarm in result.alarms if alarm.kind == "sequential"]
    assert "output.refusal" in {alarm.what for alarm in sequential}
    assert all(alarm.rows and alarm.severity == "high" for alarm in sequential)


def test_what_a_descriptor_cannot_compute_is_counted_in_the_result(settings, log, make_records):
    def fails_on_two(records):
        if any(record.request_id in ("r210", "r220") for record in records):
            raise ValueError("cannot")
        return [1.0 for _ in records]

    broken = Declared(Descriptor("fragile", "numeric", "service", version="1"), "record", fails_on_two)
    config = dataclasses.replace(read_config(), descriptors=DescriptorSet([broken]))
    log.append(make_records(400))
    found = judged(settings, config=config)
    assert found.to_json()["failures"] == {"fragile": 2}
    assert found.metrics()["failures/fragile"] == 2.0


def say(log, records, score):
    """Gives each answer the score of its number."""
    for number, record in enumerate(records):
        given = Feedback(record.request_id, record.key, "tester", "assistant", record.release, score=score(number))
        log.add_feedback(given)


@pytest.fixture
def rated(log, make_records):
    """Gives opinions on 400 answers: of the reference's last ones all is well, of the window's first ones half."""
    records = make_records(400)
    log.append(records)

    def rate(*, reference=True, window=True):
        say(log, records[140:200] if reference else [], lambda _: 1.0)
        say(log, records[200:260] if window else [], lambda number: 1.0 if number % 2 else -1.0)

    return rate


def alarmed(result):
    return [alarm.what for alarm in result.alarms]


def test_feedback_that_comes_after_the_pin_is_no_part_of_the_reference_until_it_is_pinned_again(few_descriptors, rated):
    assert judged(few_descriptors).not_compared == ()
    rated()
    late = judged(few_descriptors)
    assert (late.state, late.not_compared) == ("ok", ("feedback.score",))
    pin_reference(few_descriptors, "assistant", START, SINCE, "with what was said since")
    again = judged(few_descriptors)
    assert (alarmed(again), again.not_compared) == (["feedback.score"], ())
    assert again.to_json()["feedback"] == {"scores": 60, "mean_score": 0.0, "labels": {}}


def test_feedback_after_its_window_was_judged_is_seen_with_the_next_or_when_asked_again(few_descriptors, rated):
    rated(window=False)
    middle = SINCE + 100 * MINUTE
    assert judged(few_descriptors, SINCE, middle).state == "ok"
    rated(reference=False)
    following = judged(few_descriptors, middle)
    again = judged(few_descriptors, SINCE, middle)
    assert alarmed(following) == alarmed(again) == ["feedback.score"]
