"""What a sheet admits, its slices, and its times as champion."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, Score
from llmops.evaluation.statistics import mean_interval
from llmops.factsheet.collecting import MOST_SLICES, slices_of
from llmops.factsheet.contents import Data, Factsheet, History, Period, RecordedMove, Registered, when
from llmops.factsheet.history import periods_of
from llmops.factsheet.rendering import limits_of, unknown_of
from tests.factsheet.conftest import AT, LATER, evaluation, gate, sheet, tabular_sheet

NOBODY = History((), (), "registry", complete=True)


def said(made: Factsheet) -> str:
    return "\n".join(limits_of(made))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"gates": ()}, "No gate has judged this version."),
        ({"gates": (gate(verdict="inconclusive"),)}, "The gate of qa is inconclusive"),
        ({"gates": (gate(verdict="fail"),)}, "The gate of qa failed."),
        ({"gates": (gate(against=None),)}, "only floors and ceilings were checked"),
        (
            {"gates": (gate(against=None, compared_with="mean"),)},
            "no champion to compare with: it was compared with mean.",
        ),
        ({"gates": (gate(untrusted=("helpful",)),)}, "helpful was not allowed to gate qa"),
        ({}, "What qa can see: with 240 rows a difference of 9 points can be seen."),
        ({"evaluations": ()}, "No evaluation of this version is on record."),
        ({"evaluations": (evaluation(rows=40),)}, "qa has 40 rows: few"),
        ({}, "Slices of qa with fewer than 30 rows say little: topic=geo."),
        ({"evaluations": (evaluation(suite="May, held out", rows=40),)}, "“May, held out” has 40 rows: few"),
        ({"evaluations": (evaluation(whole=False),)}, "The run ffffffff of qa took some of its rows, not all."),
        ({"evaluations": (evaluation(stopped_early=True),)}, "stopped as soon as its comparison was decided"),
        ({}, "Not measured in qa, no row has a score: fields."),
        ({}, "words in qa is missing in 10 of 240 rows."),
        ({}, "helpful in qa is a language model's judgement, never compared with people's."),
        ({}, "answered 7 of 32 rows (21.9 %) differently"),
        ({"gates": (gate(attested=False),)}, "The gate of qa is not the one whose hash the audit log has"),
        ({"history": dataclasses.replace(NOBODY, problems=("champion was moved.",))}, "champion was moved."),
        ({"other_parameters": 1}, "1 eval run of its prompt and model had other parameters"),
        ({}, "Guards act in the gateway; the eval runs asked the engine without them."),
        ({"history": NOBODY}, "It has never been champion, as far as is on record"),
        ({"monitoring": None}, "No monitoring run is on record"),
        ({}, "2 of 9 monitored windows had too few rows to be tested."),
        ({}, "up to 0.1 false alarms in a month are to be expected"),
    ],
)
def test_a_limit_is_admitted(changed, sentence):
    assert sentence in said(sheet(**changed))


def test_limits_follow_from_what_is_there_and_from_nothing_else():
    told = said(sheet())
    for absent in ("inconclusive", "failed.", "few,", "never been champion", "without a passing gate", "rolled back"):
        assert absent not in told
    assert "kind in qa" not in told, "this judge was compared with people"
    model = sheet().model
    assert model is not None
    assert "the server may change them unseen" in said(sheet(model=dataclasses.replace(model, format="openai")))
    assert "inconclusive" not in said(sheet(gates=(gate(), gate(verdict="inconclusive", current=False))))
    period = Period(AT, LATER, began="promote", ended="rollback", why="hot fix", forced=True, then="assistant@1")
    told = said(sheet(history=dataclasses.replace(NOBODY, periods=(period,))))
    assert f"It was promoted without a passing gate ({when(AT)}): hot fix" in told
    assert f"It was rolled back ({when(LATER)})." in told


def test_what_is_not_on_record_is_listed():
    bare = sheet(
        registered=(Registered("release", "assistant@2"),),
        data=(Data("evaluation", "qa", None),),
        history=History(
            (RecordedMove(AT, "promote", None, "assistant@2", "x"),), (Period(None, None, True),), "registry", False
        ),
        model=dataclasses.replace(sheet().model, licence=None),  # type: ignore[type-var]
    )
    assert set(unknown_of(bare)) == {
        "who registered the release assistant@2",
        "when the release assistant@2 was registered",
        "the licence of the evaluation data qa",
        "the sha256 of the evaluation data qa",
        "the licence of the model tiny@1",
        "what the weights of tiny@0 were trained on",
        "since when it has been champion",
        "moves older than what the registry still has",
        "who moved the aliases, where no name is given",
    }
    assert unknown_of(sheet()) == ("what the weights of tiny@0 were trained on",), "tiny@1 was made of them"
    alone = dataclasses.replace(sheet().model, provenance={})  # type: ignore[type-var]
    assert unknown_of(sheet(model=alone)) == ("what the weights of tiny@1 were trained on",)
    bare = unknown_of(sheet(gates=(gate(rules={}, differences=()),)))
    assert {"the rules of the gate of qa", "the comparison behind the gate of qa"} <= set(bare)
    assert not {"the comparison behind the gate of qa"} & set(unknown_of(sheet(gates=(gate(against=None),))))
    assert "its metrics by slice" in unknown_of(tabular_sheet(evaluations=(evaluation(slices=()),)))
    assert "its metrics by slice" not in unknown_of(tabular_sheet(evaluations=(evaluation(),)))
    assert unknown_of(tabular_sheet()) == ()
    bare = tabular_sheet(data=(), parameters={})
    assert set(unknown_of(bare)) == {"what it was trained on", "its parameters"}
    assert "its training cannot be repeated for certain" in said(bare)


def row(number: int, value: bool | None, **tags: str) -> RowResult:
    score = Score(value=value) if value is not None else Score(error="no answer")
    return RowResult(EvalRow(str(number), {"question": "?"}, tags=tags), Output("text"), {"correct": score})


def test_each_slice_has_its_mean_interval_and_failures_and_rows_of_one_source_count_as_what_they_are():
    rows = [row(n, n % 2 == 0, topic="geo" if n < 6 else "art") for n in range(10)] + [row(10, None, topic="geo")]
    art, geo = slices_of(rows, ["correct"])
    assert (art.name, geo.name) == ("topic=art", "topic=geo")
    assert (geo.metric.mean, geo.metric.n_scored, geo.metric.n_failed) == (0.5, 6, 1)
    assert geo.metric.ci95 == pytest.approx(mean_interval([True, False] * 3))
    found = slices_of([row(0, None, topic="geo"), row(1, True, topic="art")], ["correct"])
    assert [(part.metric.mean, part.metric.ci95) for part in found if part.name == "topic=geo"] == [(None, None)]
    rows = [row(n, True, id=str(n), language="en") for n in range(MOST_SLICES + 1)]
    assert slices_of(rows, ["correct"]) == ()
    assert slices_of([row(0, True, topic="geo"), row(1, True, topic="art")], []) == ()
    rows = [row(n, n < 10, topic="geo" if n % 2 else "art", page="p" if n < 10 else "q") for n in range(20)]
    alone = {part.name: part.metric.ci95 for part in slices_of(rows, ["correct"])}
    together = {part.name: part.metric.ci95 for part in slices_of(rows, ["correct"], "tags.page")}
    low, high = together["topic=geo"] or (0, 0)
    assert high - low > (alone["topic=geo"] or (0, 0))[1] - (alone["topic=geo"] or (0, 0))[0]


def move(at: int, old: str | None, new: str | None, what: str = "promote", why: str = "gate passed") -> RecordedMove:
    return RecordedMove(f"2026-05-{at:02}", what, old, new, why, forced=why != "gate passed" and what == "promote")


def test_a_promotion_begins_a_time_that_the_next_or_a_rollback_ends():
    moves = [move(1, None, "a@1"), move(3, "a@1", "a@2")]
    (first,) = periods_of("a@1", moves, is_champion=False)
    (second,) = periods_of("a@2", moves, is_champion=True)
    assert (first.since, first.until, first.lasts, first.ended, first.then) == (
        "2026-05-01", "2026-05-03", False, "promote", "a@2",
    )  # fmt: skip
    assert (second.since, second.until, second.lasts, second.after) == ("2026-05-03", None, True, "a@1")
    moves = [move(1, None, "a@1"), move(2, "a@1", "a@2"), move(4, "a@2", "a@1", "rollback", "rolled back")]
    first, again = periods_of("a@1", moves, is_champion=True)
    assert (first.lasts, again.lasts, again.began) == (False, True, "rollback")
    (rolled_back,) = periods_of("a@2", moves, is_champion=False)
    assert (rolled_back.ended, rolled_back.then) == ("rollback", "a@1")
    (period,) = periods_of("a@1", [move(1, None, "a@1", why="hot fix")], is_champion=True)
    assert period.forced
    assert period.why == "hot fix"
    assert not periods_of("a@1", [move(1, None, "a@1")], is_champion=True)[0].forced
    moves = [move(1, None, "a@1", "challenge"), move(2, "off", "canary 20 %", "traffic")]
    assert periods_of("a@1", moves, is_champion=False) == ()


def test_what_happened_without_a_record_begins_and_ends_at_nobody_knows_when():
    (period,) = periods_of("a@1", [move(5, "a@1", "a@2")], is_champion=False)
    assert (period.since, period.until) == (None, "2026-05-05")
    (lasting,) = periods_of("a@1", [], is_champion=True)
    assert (lasting.since, lasting.lasts) == (None, True)
    (period,) = periods_of("a@1", [move(1, None, "a@1")], is_champion=False)
    assert (period.lasts, period.until, period.ended) == (False, None, "")
    moves = [move(1, None, "a@1"), move(3, None, "a@2", "found"), move(4, None, "a@2", "found"), move(5, "a@2", "a@1")]
    first, again = periods_of("a@1", moves, is_champion=True)
    assert (first.since, first.until, first.lasts) == ("2026-05-01", None, False)
    assert again.since == "2026-05-05"
    (between,) = periods_of("a@2", moves, is_champion=False)
    assert (between.since, between.until, between.then) == (None, "2026-05-05", "a@1")


@given(st.lists(st.sampled_from(["a@1", "a@2", "a@3"]), max_size=12))
def test_times_of_all_versions_take_turns_without_a_gap(order):
    champions = [ref for place, ref in enumerate(order) if place == 0 or ref != order[place - 1]]
    moves = [move(day + 1, old, new) for day, (old, new) in enumerate(zip([None, *champions], champions, strict=False))]
    found = [
        (period.since or "", ref, period.until)
        for ref in ("a@1", "a@2", "a@3")
        for period in periods_of(ref, moves, is_champion=bool(champions) and champions[-1] == ref)
    ]
    found.sort()
    assert [ref for _, ref, _ in found] == champions
    assert [until for _, _, until in found[:-1]] == [since for since, _, _ in found[1:]]
    assert not found or found[-1][2] is None
