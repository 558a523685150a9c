"""Pairs are judged in both orders; only what survives the swap is a win."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from llmops.errors import EngineUnavailable, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import Output, Score
from llmops.judges.client import JudgeEndpoint
from llmops.judges.pairwise import AnswerPair, PairJudge, PairVerdict, judge_pair, judge_pairs, position_bias_of
from tests.judges.scripted import ScriptedJudge

ROW = EvalRow("r1", {"question": "Capital of France?"}, {"answers": ["Paris"]}, ("France has Paris.",))
PAIR = AnswerPair(ROW, Output("Paris"), Output("Rome"))


@pytest.fixture
def cache() -> Iterator[GenerationCache]:
    with closing(GenerationCache(None)) as made:
        yield made


def says(winner: str) -> str:
    return json.dumps({"rationale": "because", "winner": winner})


@pytest.mark.parametrize(
    ("ab", "ba", "winner", "consistent"),
    [
        ("first", "second", "a", True),
        ("second", "first", "b", True),
        ("tie", "tie", "tie", True),
        ("first", "first", "tie", False),
        ("second", "second", "tie", False),
        ("first", "tie", "tie", False),
        ("tie", "first", "tie", False),
    ],
)
def test_a_winner_wins_in_both_orders(ab, ba, winner, consistent, script, cache):
    verdict = judge_pair(PairJudge(script([says(ab), says(ba)]).endpoint), PAIR, cache)
    assert (verdict.winner, verdict.consistent, verdict.error) == (winner, consistent, None)
    values = json.loads(json.dumps(verdict.to_json()))
    told = values["id"], values["winner"], values["consistent"], values["ab"]["label"]
    assert told == ("r1", winner, consistent, ab)


def test_the_second_question_shows_the_same_with_the_order_swapped(script, cache):
    asked = script(lambda _: says("tie"))
    judge_pair(PairJudge(asked.endpoint, instructions="Be right."), PAIR, cache)

    judge_pair(PairJudge(asked.endpoint), AnswerPair(EvalRow("r1", {"q": "x"}), Output("a"), Output("b")), cache)

    one, other, lacking, _ = (request.body["messages"][1]["content"] for request in asked.requests)
    assert not {"<expected>", "<contexts>"} & set(lacking.split())  # what a row lacks is not shown
    shown = (
        "<criteria>\nBe right.\n</criteria>\n\n<request>\nuser: Capital of France?\n</request>\n\n"
        "<expected>\nParis\n</expected>\n\n<contexts>\nFrance has Paris.\n</contexts>\n\n"
    )
    assert one == f"{shown}<first>\nParis\n</first>\n\n<second>\nRome\n</second>"
    assert other == f"{shown}<first>\nRome\n</first>\n\n<second>\nParis\n</second>"


@pytest.mark.parametrize("replies", [[says("first"), "nonsense"], ["nonsense", says("first")], [says("third")] * 2])
def test_one_failed_verdict_fails_the_pair(replies, script, cache):
    verdict = judge_pair(PairJudge(script(replies).endpoint), PAIR, cache)
    assert (verdict.winner, verdict.consistent) == (None, False)
    assert str(verdict.error).startswith("EngineError: ")


def test_a_pair_that_was_not_generated_or_whose_question_cannot_be_told_fails_unasked(script, cache):
    asked = script(says("tie"))
    verdict = judge_pair(
        PairJudge(asked.endpoint), AnswerPair(ROW, Output("Paris"), Output("", error="timed out")), cache
    )
    assert (verdict.winner, verdict.error) == (None, "generation failed: timed out")
    row = EvalRow("r1", {"style": "a", "claim": "b"})
    verdict = judge_pair(PairJudge(asked.endpoint), AnswerPair(row, Output("a"), Output("b")), cache)
    assert "Set input_variable" in str(verdict.error)
    assert asked.requests == []


def test_a_verdict_is_asked_for_once_by_content_and_criteria(script, cache):
    asked = script(lambda _: says("tie"))
    judge = PairJudge(asked.endpoint)
    renamed = AnswerPair(EvalRow("r9", ROW.inputs, ROW.expectations, ROW.contexts, {"slice": "x"}), PAIR.a, PAIR.b)
    assert judge_pair(judge, PAIR, cache).winner == judge_pair(judge, renamed, cache).winner
    assert len(asked.requests) == 2
    judge_pair(PairJudge(asked.endpoint, instructions="Be kind."), PAIR, cache)
    assert len(asked.requests) == 4
    with pytest.raises(UsageError, match=r"^instructions: "):
        PairJudge(asked.endpoint, instructions=" ")


def test_a_judge_that_is_away_is_told_at_the_first_question_and_not_missed_where_verdicts_are_kept(cache):
    with ScriptedJudge(lambda _: says("tie")) as running:
        endpoint = JudgeEndpoint("j", running.base_url, "m")
        judge_pair(PairJudge(endpoint), PAIR, cache)

    [kept] = judge_pairs(PairJudge(endpoint), [PAIR], cache, lambda *_: None)
    assert kept.winner == "tie"
    other = AnswerPair(ROW, Output("Paris"), Output("Bonn"))
    with pytest.raises(EngineUnavailable, match=f"judge j at {running.base_url} cannot be reached"):
        judge_pairs(PairJudge(endpoint), [PAIR, other], cache, lambda *_: None)


def test_verdicts_come_in_the_order_of_the_pairs_with_progress(script, cache):
    def answer(request: dict[str, Any]) -> str:
        text = request["messages"][1]["content"]
        if "broken" in text:
            return "nonsense"
        return says("first" if text.index("good") < text.index("bad") else "second")

    outputs = [("good", "bad"), ("bad", "good"), ("good", "bad"), ("good bad broken", "bad")]
    pairs = [AnswerPair(EvalRow(f"r{i}", {"q": "x"}), Output(a), Output(b)) for i, (a, b) in enumerate(outputs)]
    seen: list[tuple[int, int]] = []
    judge = PairJudge(script(answer).endpoint)

    verdicts = judge_pairs(judge, pairs, cache, lambda done, of: seen.append((done, of)))

    assert [(verdict.row_id, verdict.winner) for verdict in verdicts] == [
        ("r0", "a"), ("r1", "b"), ("r2", "a"), ("r3", None)
    ]  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_position_bias_is_of_the_pairs_that_were_judged():
    failed = Score(error="x")
    labels = [("first", "second")] * 8 + [("first", "first")] * 2
    verdicts = [PairVerdict("r", Score(0.0, label=ab), Score(0.0, label=ba), "tie") for ab, ba in labels]
    bias = position_bias_of([*verdicts, PairVerdict("r", failed, failed, None)])
    assert (bias.flipped, bias.prefers_first) == (pytest.approx(0.2), pytest.approx(12 / 20))
    assert position_bias_of([PairVerdict("r", failed, failed, None)]) is None
