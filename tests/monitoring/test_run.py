import dataclasses
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from llmops.errors import CannotRun
from llmops.production_log import Feedback
from llmops.settings import Settings
from monitoring import (
    DriftRules,
    list_apps,
    list_references,
    pin_at_promotion,
    pin_reference,
    run_monitor,
    write_report,
)
from monitoring.config import read_config
from monitoring.decide.reference_settings import ReferenceSettings
from monitoring.descriptors import Descriptor, DescriptorSet
from monitoring.descriptors.declared import Declared

DESCRIPTORS = read_config().descriptors.descriptors
START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SINCE, UNTIL = START + 200 * MINUTE, START + 400 * MINUTE


@pytest.fixture
def worse(log, make_records):
    """200 good records, then 200 of a release that refuses too often."""
    log.append(make_records(200))
    log.append(make_records(200, first=200, refusals=0.4, release="assistant@2"))


@pytest.mark.usefixtures("worse")
def test_the_json_has_the_contracts_shape(settings):
    found = json.loads(json.dumps(run_monitor(settings, "assistant", SINCE, UNTIL).to_json(), allow_nan=False))
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
    first = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert (first.computed, first.alarm, first.pinned.why) == (400, True, "rows before the first --since")
    later = run_monitor(settings, "assistant", SINCE + 100 * MINUTE, UNTIL)
    assert later.computed == 0
    assert (later.reference.since, later.reference.until, later.window.rows) == (START, SINCE, 100)


def test_a_quiet_window_is_ok(settings, log, make_records):
    log.append(make_records(400))
    found = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert (found.state, found.alarm, found.to_json()["alarms"], found.to_json()["drift_in"]) == ("ok", False, [], [])


def test_asking_something_else_is_drift_of_the_input(settings, log, make_records):
    log.append([*make_records(100), *make_records(100, first=100, question="Schreibe mir bitte ein langes Gedicht.")])
    found = run_monitor(settings, "assistant", START + 100 * MINUTE, UNTIL).to_json()
    assert "input.language" in {alarm["what"] for alarm in found["alarms"]}
    assert "output" not in found["drift_in"]


@pytest.mark.parametrize(
    ("before", "after", "note"), [(5, 50, "reference window has 5"), (50, 5, "current window has 5")]
)
def test_too_few_rows_give_no_verdict(settings, log, make_records, before, after, note):
    log.append(make_records(before + after, refusals=0))
    found = run_monitor(settings, "assistant", START + before * MINUTE, UNTIL)
    assert (found.state, found.alarm, found.slices) == ("too-few-rows", False, [])
    assert note in found.note
    assert (found.pinned is None) == (before == 5), "a reference too small is not pinned"


@pytest.mark.usefixtures("worse")
def test_metrics_are_flat_finite_and_named_for_mlflow(settings):
    metrics = run_monitor(settings, "assistant", SINCE, UNTIL).metrics()
    assert metrics["drift/output.refusal/p_adjusted"] < 0.001
    assert metrics["drift/assistant-2/output.refusal/effect"] > 0.2
    assert metrics["mean/output.refusal"] == pytest.approx(0.4, abs=0.1)
    assert (metrics["rows"], metrics["reference_rows"]) == (200.0, 200.0)
    assert all(isinstance(value, float) and value == value for value in metrics.values())
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-./") for name in metrics)


@pytest.mark.usefixtures("worse")
def test_a_reference_pinned_at_a_promotion_is_used(settings):
    pin_reference(settings, "assistant", SINCE, SINCE + 100 * MINUTE, "promotion of assistant@2")
    found = run_monitor(settings, "assistant", SINCE + 100 * MINUTE, UNTIL)
    assert found.state == "ok"
    assert found.to_json()["reference"]["why"] == "promotion of assistant@2"


def test_progress_counts_rows_and_apps_are_listed(settings, log, make_records):
    log.append([*make_records(40), *make_records(3, first=40, release="other@1")])
    seen = []
    run_monitor(
        settings, "assistant", START + 20 * MINUTE, UNTIL, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(43, 43)], "the log is described once, whatever window is asked for"
    assert list_apps(settings) == ["assistant", "other"]


def test_an_empty_log_says_what_to_do(tmp_path):
    with pytest.raises(CannotRun, match="no rows of app assistant"):
        run_monitor(Settings(home=tmp_path / "new"), "assistant", SINCE)


@pytest.mark.usefixtures("worse")
def test_two_monitors_at_once_both_finish(settings):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(run_monitor(settings, "assistant", SINCE, UNTIL)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.window.rows for result in found] == [200, 200]


@pytest.mark.usefixtures("worse")
def test_a_report_pins_nothing(settings, tmp_path):
    write_report(settings, "assistant", tmp_path / "r.html", SINCE, UNTIL)
    assert list_references(settings) == []
    with pytest.raises(CannotRun, match="no reference window is pinned"):
        run_monitor(settings, "assistant", rules=DriftRules())


def test_a_pinned_reference_does_not_move_when_its_rows_change(settings, log, make_records):
    log.append(make_records(400))
    run_monitor(settings, "assistant", SINCE, UNTIL)
    late = make_records(300, first=10_000, refusals=1)
    log.append([dataclasses.replace(record, at=START + MINUTE) for record in late])
    again = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert (again.reference.rows, again.state, again.computed) == (200, "ok", 300)


def promoted(settings, config, release="assistant@2", previous="assistant@1", answers=(), at=SINCE):
    return pin_at_promotion(settings, release, previous, lambda: answers, at=at, config=config)


def with_reference(at_promotion):
    return dataclasses.replace(read_config(), reference=ReferenceSettings(at_promotion))


def test_the_first_accepted_window_after_a_promotion_becomes_the_reference(settings, log, make_records):
    log.append([*make_records(200), *make_records(200, first=200, release="assistant@2")])
    config = with_reference("first-window")
    assert promoted(settings, config).release == "assistant@2"
    run = {"config": config, "champion": "assistant@2"}
    found = run_monitor(settings, "assistant", None, UNTIL, **run)
    assert (found.state, found.pinned.source, found.pinned.release) == ("ok", "first-window", "assistant@2")
    assert "200 rows of assistant@2 are the reference from now on" in found.note
    log.append(make_records(100, first=400, refusals=0.5, release="assistant@2"))
    later = run_monitor(settings, "assistant", UNTIL, UNTIL + 100 * MINUTE, **run)
    assert "output.refusal" in {alarm.what for alarm in later.alarms}
    assert later.reference.rows == 200


def test_a_bad_first_window_is_not_accepted(settings, log, make_records):
    log.append([*make_records(200), *make_records(200, first=200, refusals=0.5, release="assistant@2")])
    pin_reference(settings, "assistant", START, SINCE, "a good time")
    promoted(settings, with_reference("first-window"), at=SINCE)
    later = datetime.now(UTC)
    assert list_references(settings, "assistant")[0].pinned_at < later
    found = run_monitor(settings, "assistant", SINCE, UNTIL, champion="assistant@2")
    assert (found.state, len(list_references(settings, "assistant"))) == ("alarm", 1)


LENGTH = {"name": "output.length", "kind": "length", "of": "output"}
GATHERING = {"release": "assistant@2", "since": SINCE.isoformat(), "needed": 200}


def runs_of(settings, **given):
    """Windows of so many minutes after the promotion at SINCE, judged as the daemon does."""

    def run(begin, end, **more):
        window = SINCE + begin * MINUTE, SINCE + end * MINUTE
        return run_monitor(settings, "assistant", *window, **{"champion": "assistant@2", **given, **more})

    return run


def test_a_first_window_is_gathered_until_it_has_rows_enough(settings, log, make_records):
    log.append([*make_records(200), *make_records(400, first=200, release="assistant@2")])
    promoted(settings, with_reference("first-window"))
    run = runs_of(settings, scheduled=True)
    early, later = run(0, 57), run(57, 150)
    assert (early.state, early.pinned, early.alarm, early.reference.rows) == ("ok", None, False, 0)
    assert early.note.endswith("reference is being gathered: 57 of 200 rows")
    assert early.to_json()["reference"]["gathering"] == {**GATHERING, "rows": 57}
    assert "150 of 200 rows" in later.note
    assert list_references(settings) == []
    full = run(150, 210)
    assert (full.pinned.since, full.pinned.until) == (SINCE, SINCE + 210 * MINUTE)
    assert (full.gathering, full.to_json()["reference"]["gathering"]) == (None, None)
    assert run(210, 300).reference.rows == 210


def test_few_rows_a_window_become_a_reference_in_the_end(settings, log, make_records):
    log.append(make_records(60, first=200, release="assistant@2"))
    config = dataclasses.replace(with_reference("first-window"), reference=ReferenceSettings(first_window_rows=40))
    promoted(settings, config)
    run = runs_of(settings, config=config, scheduled=True)
    found = [run(begin, begin + 15) for begin in (0, 15, 30)]
    assert [result.state for result in found] == ["too-few-rows"] * 3
    assert [result.gathering.rows if result.gathering else None for result in found] == [15, 30, None]
    assert found[-1].pinned.until == SINCE + 45 * MINUTE


def test_a_window_that_alarmed_is_no_part_of_a_gathered_reference(settings, log, make_records):
    bad = make_records(100, first=250, refusals=0.6, release="assistant@2")
    log.append([*make_records(250), *bad, *make_records(300, first=350, release="assistant@2")])
    pin_reference(settings, "assistant", START, SINCE, "a good time", release="assistant@1")
    at = datetime.now(UTC)
    later = [dataclasses.replace(each, at=at + (each.at - START)) for each in log.read(app="assistant", since=SINCE)]
    log.append([dataclasses.replace(each, request_id=f"l{each.request_id}", key=f"l{each.key[1:]}") for each in later])
    promoted(settings, with_reference("first-window"), at=at)

    def run(begin, end):
        window = (at + minutes * MINUTE for minutes in (begin, end))
        return run_monitor(settings, "assistant", *window, champion="assistant@2", scheduled=True)

    assert [run(200, 350).state, run(200, 350).state] == ["alarm", "alarm"]
    assert run(350, 500).gathering.to_json()["rows"] == 150
    pinned = run(500, 600).pinned
    assert (pinned.source, pinned.since) == ("first-window", at + 350 * MINUTE)


def test_rows_before_a_schedules_window_are_a_reference_only_when_they_are_many(settings, log, make_records):
    log.append(make_records(400))
    few = run_monitor(settings, "assistant", START + 60 * MINUTE, SINCE, scheduled=True)
    assert (few.state, few.pinned, few.note) == ("ok", None, "reference is being gathered: 60 of 200 rows")
    assert few.gathering.release is None
    many = run_monitor(settings, "assistant", SINCE, UNTIL, scheduled=True)
    assert (many.pinned.source, many.reference.rows) == ("first-since", 200)


def test_somebody_who_chooses_since_has_a_reference_of_few_rows(settings, log, make_records):
    log.append(make_records(48, first=200, release="assistant@2"))
    promoted(settings, with_reference("first-window"))
    chosen = runs_of(settings)(24, 48)
    assert (chosen.pinned.source, chosen.reference.rows, chosen.gathering) == ("first-since", 24, None)
    again = runs_of(settings)(26, 48)
    assert (again.reference.rows, again.state, again.gathering) == (24, "ok", None)


def test_of_what_the_gate_saw_only_the_output_is_compared(settings, log, make_records):
    log.append(make_records(200, release="assistant@2"))
    config = with_reference("gate")
    answers = make_records(150, first=5_000, release="assistant@2", question="An eval question of quite other length?")
    pinned = promoted(settings, config, answers=answers)
    assert (pinned.source, pinned.release) == ("gate", "assistant@2")
    found = run_monitor(settings, "assistant", START, SINCE, config=config, champion="assistant@2")
    assert (found.state, found.reference.rows) == ("ok", 150)
    assert {drift.descriptor.side for drift in found.slices[0].descriptors.values()} == {"output"}
    assert {"input.length", "latency_ms"} <= set(found.not_compared)


def test_without_answers_of_a_gate_the_first_window_is_awaited(settings):
    assert promoted(settings, with_reference("gate")).since == SINCE


def test_the_last_accepted_window_of_the_champion_before_can_be_the_reference(settings, log, make_records):
    log.append([*make_records(400), *make_records(100, first=400, refusals=0.5, release="assistant@2")])
    run_monitor(settings, "assistant", SINCE, UNTIL)
    pinned = promoted(settings, with_reference("previous-window"), at=UNTIL)
    assert (pinned.source, pinned.since, pinned.until) == ("previous-window", SINCE, UNTIL)
    found = run_monitor(settings, "assistant", UNTIL, UNTIL + 100 * MINUTE, champion="assistant@2")
    assert "output.refusal" in {alarm.what for alarm in found.alarms}


@pytest.mark.usefixtures("worse")
def test_the_detectors_see_a_bad_release_before_its_window_ends(settings):
    result = run_monitor(settings, "assistant", SINCE, SINCE + 60 * MINUTE)
    sequential = [alarm for alarm in result.alarms if alarm.kind == "sequential"]
    assert "output.refusal" in {alarm.what for alarm in sequential}
    assert all(alarm.rows and alarm.severity == "high" for alarm in sequential)


def test_windows_are_looked_at_together_until_one_alarms_by_itself(settings, log, make_records):
    log.append([*make_records(500), *make_records(100, first=500, refusals=0.6), *make_records(200, first=600)])
    config = dataclasses.replace(read_config(), descriptors=DescriptorSet.from_config([LENGTH], settings))
    spans = [(SINCE + 100 * number * MINUTE, SINCE + 100 * (number + 1) * MINUTE) for number in range(6)]
    found = [run_monitor(settings, "assistant", *span, config=config) for span in spans]
    pooled = [(result.pooled.after.rows, result.pooled.before.rows) if result.pooled else None for result in found]
    assert [result.state for result in found] == ["ok", "ok", "ok", "alarm", "ok", "ok"]
    assert pooled == [None, (200, 200), (300, 200), (300, 300), None, (200, 200)]


def test_hostile_rows_are_counted_and_stop_nothing(settings, log, make_records):
    hostile = ["", "x" * 1_000_000, "[" * 50_000, "\ud800 lone", "{broken json", "\u202e\u0000"[:1], "http://["]
    good = make_records(200)
    bad = [
        dataclasses.replace(record, input=text, output=text, request_id=f"bad{number}")
        for number, (record, text) in enumerate(zip(make_records(len(hostile), first=200), hostile, strict=True))
        if "\ud800" not in text
    ]
    log.append([*good, *bad, *make_records(100, first=210)])
    found = run_monitor(settings, "assistant", SINCE, START + 310 * MINUTE)
    assert found.window.rows == 100 + len(bad)
    json.dumps(found.to_json(), allow_nan=False)


def test_what_a_descriptor_cannot_compute_is_counted_in_the_result(settings, log, make_records):
    def fails_on_two(records):
        if any(record.request_id in ("r210", "r220") for record in records):
            raise ValueError("cannot")
        return [1.0 for _ in records]

    broken = Declared(Descriptor("fragile", "numeric", "service", version="1"), "record", fails_on_two)
    config = dataclasses.replace(read_config(), descriptors=DescriptorSet([broken]))
    log.append(make_records(400))
    found = run_monitor(settings, "assistant", SINCE, UNTIL, config=config)
    assert found.to_json()["failures"] == {"fragile": 2}
    assert found.metrics()["failures/fragile"] == 2.0


def say(log, records, score):
    """Gives each answer a score; None for none."""
    for number, record in enumerate(records):
        if (given := score(number)) is not None:
            log.add_feedback(
                Feedback(record.request_id, record.key, "tester", "assistant", record.release, score=given)
            )


def good(_number):
    return 1.0


def mixed(number):
    return 1.0 if number % 2 else -1.0


def test_feedback_is_a_descriptor_of_the_output(settings, log, make_records):
    records = make_records(400)
    log.append(records)
    say(log, records[:200], good)
    say(log, records[200:], mixed)
    found = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert "feedback.score" in {alarm.what for alarm in found.alarms}
    assert found.to_json()["feedback"] == {"scores": 200, "mean_score": 0.0, "labels": {}}


def test_feedback_that_comes_after_the_pin_is_no_part_of_the_reference_until_it_is_pinned_again(
    settings, log, make_records
):
    records = make_records(400)
    log.append(records)
    config = dataclasses.replace(read_config(), descriptors=DescriptorSet.from_config([LENGTH], settings))
    assert run_monitor(settings, "assistant", SINCE, UNTIL, config=config).not_compared == ()
    say(log, records[:200], good)
    say(log, records[200:], mixed)
    late = run_monitor(settings, "assistant", SINCE, UNTIL, config=config)
    assert (late.state, late.not_compared) == ("ok", ("feedback.score",))
    pin_reference(settings, "assistant", START, SINCE, "with what was said since", config=config)
    again = run_monitor(settings, "assistant", SINCE, UNTIL, config=config)
    assert ([alarm.what for alarm in again.alarms], again.not_compared) == (["feedback.score"], ())


def test_feedback_that_comes_after_its_window_was_judged_is_seen_with_the_next_or_when_asked_again(
    settings, log, make_records
):
    records = make_records(400)
    log.append(records)
    say(log, records[:200], good)
    config = dataclasses.replace(read_config(), descriptors=DescriptorSet.from_config([LENGTH], settings))
    middle = SINCE + 100 * MINUTE
    assert run_monitor(settings, "assistant", SINCE, middle, config=config).state == "ok"
    say(log, records[200:300], mixed)
    following = run_monitor(settings, "assistant", middle, UNTIL, config=config)
    again = run_monitor(settings, "assistant", SINCE, middle, config=config)
    assert [alarm.what for alarm in following.alarms] == ["feedback.score"]
    assert [alarm.what for alarm in again.alarms] == ["feedback.score"]
