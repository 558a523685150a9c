"""Pairs are judged in both orders; only what survives the swap is a win."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import EngineUnavailable, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.judges.client import JudgeEndpoint
from llmops.judges.pairwise import AskedFirst, Pair, PairJudge, PairVerdict, judge_pair, judge_pairs, summarise_pairs
from tests.judges.scripted import ScriptedJudge

ROW = EvalRow("r1", {"question": "Capital of France?"}, {"answers": ["Paris"]}, ("France has Paris.",))
PAIR = Pair(ROW, Output("Paris"), Output("Rome"))


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
def test_a_winner_wins_in_both_orders(ab, ba, winner, consistent, script):
    verdict = judge_pair(PairJudge(script([says(ab), says(ba)]).endpoint), PAIR)
    assert (verdict.winner, verdict.consistent, verdict.error) == (winner, consistent, None)
    values = json.loads(json.dumps(verdict.to_json()))
    told = values["id"], values["winner"], values["consistent"], values["ab"]["label"]
    assert told == ("r1", winner, consistent, ab)


def test_the_second_question_shows_the_same_with_the_order_swapped(script):
    asked = script(lambda _: says("tie"))
    judge_pair(PairJudge(asked.endpoint, instructions="Be right."), PAIR)

    judge_pair(PairJudge(asked.endpoint), Pair(EvalRow("r1", {"q": "x"}), Output("a"), Output("b")))

    one, other, lacking, _ = (request.body["messages"][1]["content"] for request in asked.requests)
    assert not {"<expected>", "<contexts>"} & set(lacking.split())  # what a row lacks is not shown
    shown = (
        "<criteria>\nBe right.\n</criteria>\n\n<request>\nuser: Capital of France?\n</request>\n\n"
        "<expected>\nParis\n</expected>\n\n<contexts>\nFrance has Paris.\n</contexts>\n\n"
    )
    assert one == f"{shown}<first>\nParis\n</first>\n\n<second>\nRome\n</second>"
    assert other == f"{shown}<first>\nRome\n</first>\n\n<second>\nParis\n</second>"


@pytest.mark.parametrize("replies", [[says("first"), "nonsense"], ["nonsense", says("first")], [says("third")] * 2])
def test_one_failed_verdict_fails_the_pair(replies, script):
    verdict = judge_pair(PairJudge(script(replies).endpoint), PAIR)
    assert (verdict.winner, verdict.consistent) == (None, False)
    assert str(verdict.error).startswith("EngineError: ")


def test_a_pair_that_was_not_generated_or_whose_question_cannot_be_told_fails_unasked(script):
    asked = script(says("tie"))
    verdict = judge_pair(PairJudge(asked.endpoint), Pair(ROW, Output("Paris"), Output("", error="timed out")))
    assert (verdict.winner, verdict.error) == (None, "generation failed: timed out")
    row = EvalRow("r1", {"style": "a", "claim": "b"})
    verdict = judge_pair(PairJudge(asked.endpoint), Pair(row, Output("a"), Output("b")))
    assert "Set input_variable" in str(verdict.error)
    assert asked.requests == []


class KeptInMemory(dict[str, Score]):
    """A cache of scores that is a dictionary."""

    get_score = dict.get
    put_score = dict.__setitem__


def test_a_verdict_is_asked_for_once_by_content_and_criteria(script):
    asked, cache = script(lambda _: says("tie")), KeptInMemory()
    judge = PairJudge(asked.endpoint)
    renamed = Pair(EvalRow("r9", ROW.inputs, ROW.expectations, ROW.contexts, {"slice": "x"}), PAIR.a, PAIR.b)
    assert judge_pair(judge, PAIR, cache).winner == judge_pair(judge, renamed, cache).winner
    assert len(asked.requests) == len(cache) == 2
    judge_pair(PairJudge(asked.endpoint, instructions="Be kind."), PAIR, cache)
    assert len(asked.requests) == 4
    with pytest.raises(UsageError, match=r"^instructions: "):
        PairJudge(asked.endpoint, instructions=" ")


def test_a_judge_that_is_away_is_told_at_the_first_question_and_not_missed_where_verdicts_are_kept():
    with ScriptedJudge(lambda _: says("tie")) as running:
        endpoint = JudgeEndpoint("j", running.base_url, "m")
        cache = AskedFirst(KeptInMemory(), endpoint)
        judge_pair(PairJudge(endpoint), PAIR, cache)

    assert judge_pairs(PairJudge(endpoint), [PAIR], cache=AskedFirst(cache, endpoint))[1].ties == 1
    other = Pair(ROW, Output("Paris"), Output("Bonn"))
    with pytest.raises(EngineUnavailable, match=f"judge j at {running.base_url} cannot be reached"):
        judge_pairs(PairJudge(endpoint), [PAIR, other], cache=AskedFirst(cache, endpoint))


def test_verdicts_come_in_the_order_of_the_pairs_with_progress_and_a_summary(script):
    def answer(request: dict[str, Any]) -> str:
        text = request["messages"][1]["content"]
        if "broken" in text:
            return "nonsense"
        return says("first" if text.index("good") < text.index("bad") else "second")

    outputs = [("good", "bad"), ("bad", "good"), ("good", "bad"), ("good bad broken", "bad")]
    pairs = [Pair(EvalRow(f"r{i}", {"q": "x"}), Output(a), Output(b)) for i, (a, b) in enumerate(outputs)]
    seen: list[tuple[int, int]] = []
    judge = PairJudge(script(answer).endpoint)

    verdicts, summary = judge_pairs(judge, pairs, progress=lambda done, of: seen.append((done, of)))

    assert [(verdict.row_id, verdict.winner) for verdict in verdicts] == [
        ("r0", "a"), ("r1", "b"), ("r2", "a"), ("r3", None)
    ]  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (summary.wins, summary.losses, summary.ties, summary.failed) == (2, 1, 0, 1)


def verdict_of(ab: str, ba: str) -> PairVerdict:
    winners = {("first", "second"): "a", ("second", "first"): "b"}
    return PairVerdict("r", Score(0.0, label=ab), Score(0.0, label=ba), winners.get((ab, ba), "tie"))  # type: ignore[arg-type]


def test_the_summary_by_hand():
    # 8 wins and no loss: Clopper and Pearson's interval of 8 of 8 is ⁸√0.025 to 1, the sign test's p 2/2⁸.
    verdicts = [verdict_of("first", "second")] * 8 + [verdict_of("first", "first")] * 2
    summary = summarise_pairs(verdicts)

    assert (summary.wins, summary.losses, summary.ties, summary.win_share) == (8, 0, 2, 1.0)
    assert summary.interval == (pytest.approx(0.025 ** (1 / 8), abs=1e-6), pytest.approx(1.0))
    assert summary.p_value == pytest.approx(2 / 256)
    assert summary.position_bias is not None
    assert summary.position_bias.flipped == pytest.approx(0.2)
    assert summary.position_bias.prefers_first == pytest.approx(12 / 20)


def test_a_summary_of_nothing_claims_nothing():
    failed = Score(error="x")
    summary = summarise_pairs([PairVerdict("r", failed, failed, None)])
    assert (summary.failed, summary.win_share, summary.interval, summary.position_bias) == (1, None, None, None)
    assert summary.p_value == 1.0
    json.dumps(summary.to_json())


@given(st.lists(st.tuples(*[st.sampled_from(["first", "second", "tie"])] * 2), min_size=1, max_size=30))
def test_swapping_the_sides_swaps_wins_and_losses_and_nothing_else(pairs):
    summary = summarise_pairs([verdict_of(ab, ba) for ab, ba in pairs])
    other = summarise_pairs([verdict_of(ba, ab) for ab, ba in pairs])
    assert (summary.wins, summary.losses, summary.ties) == (other.losses, other.wins, other.ties)
    assert summary.wins + summary.losses + summary.ties == len(pairs)
    assert summary.p_value == pytest.approx(other.p_value)
