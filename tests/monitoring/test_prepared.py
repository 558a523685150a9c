"""Which windows are compared with which reference: pinned by hand and at promotions, gathered, looked at together."""

import dataclasses
from datetime import UTC, datetime

import pytest

from monitoring.config import ReferenceSettings, read_config
from monitoring.descriptors import DescriptorSet
from monitoring.run import list_references, pin_at_promotion, pin_reference, run_monitor
from tests.moments import MINUTE, START

SINCE, UNTIL = START + 200 * MINUTE, START + 400 * MINUTE


@pytest.fixture
def settings(few_descriptors):
    return few_descriptors


def test_a_pinned_reference_is_used_and_does_not_move_when_its_rows_change(settings, log, make_records):
    log.append(make_records(400))
    pin_reference(settings, "assistant", START, SINCE, "a good time")
    found = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert (found.state, found.to_json()["reference"]["why"]) == ("ok", "a good time")
    late = make_records(300, first=10_000, refusals=1)
    log.append([dataclasses.replace(record, at=START + MINUTE) for record in late])
    again = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert (again.reference.rows, again.state, again.computed) == (200, "ok", 300)


def promoted(settings, config, answers=(), at=SINCE):
    return pin_at_promotion(settings, "assistant@2", "assistant@1", lambda: answers, at=at, config=config)


def with_reference(settings, at_promotion, **given):
    return dataclasses.replace(read_config(settings), reference=ReferenceSettings(at_promotion, **given))


def test_the_first_accepted_window_after_a_promotion_becomes_the_reference(settings, log, make_records):
    log.append([*make_records(200), *make_records(200, first=200, release="assistant@2")])
    config = with_reference(settings, "first-window")
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
    promoted(settings, with_reference(settings, "first-window"), at=SINCE)
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
    promoted(settings, with_reference(settings, "first-window"))
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
    config = with_reference(settings, "first-window", first_window_rows=40)
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
    promoted(settings, with_reference(settings, "first-window"), at=at)

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
    promoted(settings, with_reference(settings, "first-window"))
    chosen = runs_of(settings)(24, 48)
    assert (chosen.pinned.source, chosen.reference.rows, chosen.gathering) == ("first-since", 24, None)
    again = runs_of(settings)(26, 48)
    assert (again.reference.rows, again.state, again.gathering) == (24, "ok", None)


def test_of_what_the_gate_saw_only_the_output_is_compared(settings, log, make_records):
    config = with_reference(settings, "gate")
    assert promoted(settings, config).since == SINCE, "without answers the first window is awaited"
    log.append(make_records(200, release="assistant@2"))
    answers = make_records(150, first=5_000, release="assistant@2", question="An eval question of quite other length?")
    pinned = promoted(settings, config, answers=answers)
    assert (pinned.source, pinned.release) == ("gate", "assistant@2")
    found = run_monitor(settings, "assistant", START, SINCE, config=config, champion="assistant@2")
    assert (found.state, found.reference.rows) == ("ok", 150)
    assert {drift.descriptor.side for drift in found.slices[0].descriptors.values()} == {"output"}
    assert {"input.length", "latency_ms"} <= set(found.not_compared)


def test_the_last_accepted_window_of_the_champion_before_can_be_the_reference(settings, log, make_records):
    log.append([*make_records(400), *make_records(100, first=400, refusals=0.5, release="assistant@2")])
    run_monitor(settings, "assistant", SINCE, UNTIL)
    pinned = promoted(settings, with_reference(settings, "previous-window"), at=UNTIL)
    assert (pinned.source, pinned.since, pinned.until) == ("previous-window", SINCE, UNTIL)
    found = run_monitor(settings, "assistant", UNTIL, UNTIL + 100 * MINUTE, champion="assistant@2")
    assert "output.refusal" in {alarm.what for alarm in found.alarms}


def test_windows_are_looked_at_together_until_one_alarms_by_itself(settings, log, make_records):
    log.append([*make_records(500), *make_records(100, first=500, refusals=0.6), *make_records(200, first=600)])
    config = dataclasses.replace(read_config(), descriptors=DescriptorSet.from_config([LENGTH], settings))
    spans = [(SINCE + 100 * number * MINUTE, SINCE + 100 * (number + 1) * MINUTE) for number in range(6)]
    found = [run_monitor(settings, "assistant", *span, config=config) for span in spans]
    pooled = [each and (each.drift.after.rows, each.drift.before.rows) for each in (result.pooled for result in found)]
    assert [result.state for result in found] == ["ok", "ok", "ok", "alarm", "ok", "ok"]
    assert pooled == [None, (200, 200), (300, 200), (300, 300), None, (200, 200)]
