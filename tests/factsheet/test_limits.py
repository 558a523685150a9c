from __future__ import annotations

import dataclasses

import pytest

from llmops.factsheet.contents import Data, Factsheet, History, Move, Period, Registered, when
from llmops.factsheet.limits import limits_of, unknown_of
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


def test_a_forced_promotion_and_a_rollback_are_told():
    period = Period(AT, LATER, began="promote", ended="rollback", why="hot fix", forced=True, then="assistant@1")
    told = said(sheet(history=dataclasses.replace(NOBODY, periods=(period,))))
    assert f"It was promoted without a passing gate ({when(AT)}): hot fix" in told
    assert f"It was rolled back ({when(LATER)})." in told


def test_weights_that_lie_elsewhere_are_not_vouched_for():
    model = sheet().model
    assert model is not None
    assert "the server may change them unseen" in said(sheet(model=dataclasses.replace(model, format="openai")))


def test_a_verdict_that_no_promotion_reads_is_no_limit():
    assert "inconclusive" not in said(sheet(gates=(gate(), gate(verdict="inconclusive", current=False))))


def test_what_is_not_on_record_is_listed():
    bare = sheet(
        registered=(Registered("release", "assistant@2"),),
        data=(Data("evaluation", "qa", None),),
        history=History(
            (Move(AT, "promote", None, "assistant@2", "x"),), (Period(None, None, True),), "registry", False
        ),
        model=dataclasses.replace(sheet().model, licence=None),  # type: ignore[type-var]
    )
    assert set(unknown_of(bare)) == {
        "who registered the release assistant@2",
        "when the release assistant@2 was registered",
        "the licence of the evaluation data qa",
        "the sha256 of the evaluation data qa",
        "the licence of the model tiny@1",
        "what the weights of tiny@1 were trained on",
        "since when it has been champion",
        "moves older than what the registry still has",
        "who moved the aliases, where no name is given",
    }
    assert unknown_of(sheet()) == ("what the weights of tiny@1 were trained on",)


def test_a_gate_whose_rules_or_comparison_nobody_kept_is_named():
    bare = unknown_of(sheet(gates=(gate(rules={}, differences=()),)))
    assert {"the rules of the gate of qa", "the comparison behind the gate of qa"} <= set(bare)
    assert not {"the comparison behind the gate of qa"} & set(unknown_of(sheet(gates=(gate(against=None),))))
    assert "its metrics by slice" in unknown_of(tabular_sheet(evaluations=(evaluation(slices=()),)))
    assert "its metrics by slice" not in unknown_of(tabular_sheet(evaluations=(evaluation(),)))


def test_a_tabular_model_without_its_training_data_says_so():
    assert unknown_of(tabular_sheet()) == ()
    bare = tabular_sheet(data=(), parameters={})
    assert set(unknown_of(bare)) == {"what it was trained on", "its parameters"}
    assert "its training cannot be repeated for certain" in said(bare)
