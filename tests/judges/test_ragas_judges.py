"""Every ragas metric with a judge: the right columns are sent, the right score is read, garbage is an error."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import ragas_scorers
from llmops.evaluation.scorers.protocol import MissingExpectation
from llmops.judges import ragas_judges
from llmops.judges.client import JudgeEndpoint
from llmops.judges.ragas_judges import NEEDS_NO_JUDGE, TYPES
from tests.judges.conftest import NOWHERE, RUBRICS

ROW = EvalRow(
    "r1",
    {"question": "QUESTION"},
    {
        "answers": ["REFERENCE", "another"],
        "reference_contexts": ["SOURCE"],
        "reference_topics": ["TOPIC"],
        "rubrics": RUBRICS,
    },
    ("CONTEXT",),
)
OUTPUT = Output("RESPONSE")
WORDS = ("QUESTION", "RESPONSE", "REFERENCE", "CONTEXT", "SOURCE", "TOPIC", "worth 5")


def embed(texts: list[str]) -> list[list[float]]:
    """Equal texts point the same way, others across."""
    return [[1.0, 0.0] if text in ("QUESTION", "RESPONSE") else [0.0, 1.0] for text in texts]


def make(type_name: str, endpoint: JudgeEndpoint = NOWHERE, **parameters: Any) -> Any:
    return TYPES[type_name]("s", endpoint=endpoint, embed=embed, **parameters)


# type: what the judge says in fields of these names, words that stand in what it was asked, score
CASES: dict[str, tuple[dict[str, Any], set[str], float]] = {
    "AgentGoalAccuracy": ({"verdict": "1"}, {"QUESTION", "RESPONSE", "REFERENCE"}, 1.0),
    "AgentGoalAccuracyWithReference": ({"verdict": "0"}, {"QUESTION", "RESPONSE", "REFERENCE"}, 0.0),
    "AgentGoalAccuracyWithoutReference": ({"verdict": "1"}, {"QUESTION", "RESPONSE"}, 1.0),
    "AnswerAccuracy": ({"rating": 2}, {"QUESTION", "RESPONSE", "REFERENCE"}, 0.5),
    # One statement in each class: precision and recall 1/2; similarity 0, weighted by a quarter.
    "AnswerCorrectness": ({}, {"QUESTION", "RESPONSE", "REFERENCE"}, 0.375),
    "AnswerRelevancy": ({"question": "QUESTION", "noncommittal": 0}, {"RESPONSE"}, 1.0),
    "ContextEntityRecall": ({"entities": "Paris"}, {"REFERENCE", "CONTEXT"}, 1.0),
    "ContextPrecision": ({"verdict": 1}, {"QUESTION", "REFERENCE", "CONTEXT"}, 1.0),
    "ContextPrecisionWithReference": ({"verdict": 0}, {"QUESTION", "REFERENCE", "CONTEXT"}, 0.0),
    "ContextPrecisionWithoutReference": ({"verdict": 1}, {"QUESTION", "RESPONSE", "CONTEXT"}, 1.0),
    "ContextRecall": ({"attributed": 1}, {"QUESTION", "REFERENCE", "CONTEXT"}, 1.0),
    "ContextRelevance": ({"rating": 1}, {"QUESTION", "CONTEXT"}, 0.5),
    "ContextUtilization": ({"verdict": 1}, {"QUESTION", "RESPONSE", "CONTEXT"}, 1.0),
    "DomainSpecificRubrics": ({"score": 4}, {"QUESTION", "RESPONSE", "REFERENCE", "CONTEXT", "SOURCE"}, 0.75),
    "FactualCorrectness": ({"verdict": 1}, {"RESPONSE", "REFERENCE"}, 1.0),
    "Faithfulness": ({"verdict": 1}, {"QUESTION", "RESPONSE", "CONTEXT"}, 1.0),
    "InstanceSpecificRubrics": (
        {"score": 2},
        {"QUESTION", "RESPONSE", "REFERENCE", "CONTEXT", "SOURCE", "worth 5"},
        0.25,
    ),
    "NoiseSensitivity": ({"verdict": 1}, {"QUESTION", "RESPONSE", "REFERENCE", "CONTEXT"}, 0.0),
    "ResponseGroundedness": ({"rating": 2}, {"RESPONSE", "CONTEXT"}, 1.0),
    "RubricsScoreWithReference": ({"score": 5}, {"QUESTION", "RESPONSE", "REFERENCE", "CONTEXT", "SOURCE"}, 1.0),
    "RubricsScoreWithoutReference": ({"score": 1}, {"QUESTION", "RESPONSE", "CONTEXT", "SOURCE"}, 0.0),
    "SQLSemanticEquivalence": ({"equivalent": True}, {"RESPONSE", "REFERENCE", "SOURCE"}, 1.0),
    # All questions answered, half for that; nothing for a summary of the source's length.
    "SummaryScore": ({"answers": "1"}, {"RESPONSE", "SOURCE"}, 0.5),
    "TopicAdherence": (
        {"refused_to_answer": False, "classifications": True},
        {"QUESTION", "RESPONSE", "TOPIC"},
        1.0,
    ),
}


def test_every_exported_name_of_ragas_is_built_or_accounted_for() -> None:
    collections = ragas_judges.load_collections()
    built = {name.removeprefix("ragas.") for name in (*TYPES, *ragas_scorers.TYPES)}
    told = {"BaseMetric", "DataCompyScore", "DistanceMeasure", "MultiModalFaithfulness", "MultiModalRelevance"}
    exported = {name for name in (*collections.__all__, *vars(collections)) if name[0].isupper()}
    assert exported - built == told
    assert all(name in (ragas_judges.__doc__ or "") for name in told)


def test_the_cases_below_cover_every_type_that_asks_a_judge() -> None:
    assert {f"ragas.{name}" for name in CASES} == TYPES.keys() - NEEDS_NO_JUDGE


@pytest.mark.parametrize("metric_name", sorted(CASES))
def test_the_columns_of_the_row_are_sent_and_the_score_is_read(metric_name: str, script, fits) -> None:
    says, shown, value = CASES[metric_name]
    asked = script(fits(**says))
    output = Output("RESPONSE" if metric_name != "SummaryScore" else "RESPONSE" * 3)

    score = make(f"ragas.{metric_name}", asked.endpoint).score(ROW, output)

    assert score.error is None
    assert score.value == pytest.approx(value, abs=1e-6)
    sent = "\n".join(request.text for request in asked.requests)
    assert {word for word in WORDS if word in sent} == shown


@pytest.mark.parametrize(
    ("metric_name", "says"),
    [
        ("AnswerAccuracy", {"rating": 3}),
        ("ContextRelevance", {"rating": 5}),
        ("ContextRecall", {"attributed": 3}),
        ("Faithfulness", {"verdict": 7}),
        ("Faithfulness", {"statements": []}),
        ("FactualCorrectness", {"claims": []}),
        ("DomainSpecificRubrics", {"score": 6}),
        ("InstanceSpecificRubrics", {"score": 0}),
        ("AnswerCorrectness", {"TP": [], "FP": [], "FN": []}),
        ("AgentGoalAccuracy", {"verdict": "2"}),
        ("TopicAdherence", {"classifications": [True, True]}),
        ("SummaryScore", {"answers": ["2"]}),
    ],
)
def test_an_answer_out_of_range_is_an_error_and_no_score(metric_name: str, says: dict[str, Any], script, fits) -> None:
    score = make(f"ragas.{metric_name}", script(fits(**says)).endpoint).score(ROW, OUTPUT)
    assert score.value is None
    assert score.error is not None
    assert score.error.startswith("EngineError: ")


def test_a_metric_whose_second_judgement_fails_does_not_score_by_the_first(script) -> None:
    # ragas itself would ask five times and then take the one rating there is.
    asked = script(['{"rating": 4}', "nonsense"])
    score = make("ragas.AnswerAccuracy", asked.endpoint).score(ROW, OUTPUT)
    assert (score.value, len(asked.requests)) == (None, 2)


def test_the_rationale_tells_the_judges_reasons(script) -> None:
    asked = script([
        '{"statements": ["a", "b"]}',
        json.dumps({"statements": [
            {"statement": "a", "reason": "said so", "verdict": 1}, {"statement": "b", "reason": "made up", "verdict": 0}
        ]}),
    ])  # fmt: skip

    assert make("ragas.Faithfulness", asked.endpoint).score(ROW, OUTPUT) == Score(0.5, "1: said so\n0: made up")


def test_points_of_a_rubric_stand_in_the_rationale(script, fits) -> None:
    score = make("ragas.DomainSpecificRubrics", script(fits(score=4, feedback="fine")).endpoint).score(ROW, OUTPUT)
    assert score == Score(0.75, "4 of 5: fine")


def test_own_rubrics_reach_the_judge(script, fits) -> None:
    asked = script(fits(score=4))
    make("ragas.DomainSpecificRubrics", asked.endpoint, rubrics=RUBRICS).score(ROW, OUTPUT)
    assert "score5_description: worth 5" in asked.requests[0].text


def test_a_conversation_is_judged_whole_and_without_its_system_message(script, fits) -> None:
    turns = [
        {"role": "system", "content": "BE BRIEF"},
        {"role": "user", "content": "FIRST"},
        {"role": "assistant", "content": "SECOND"},
        {"role": "user", "content": "THIRD"},
    ]
    asked = script(fits(verdict="1"))
    make("ragas.AgentGoalAccuracyWithoutReference", asked.endpoint).score(EvalRow("r1", {"messages": turns}), OUTPUT)

    text = asked.requests[0].text
    assert "Human: FIRST\\nAI: SECOND\\nHuman: THIRD\\nAI: RESPONSE" in text
    assert "BE BRIEF" not in text


def test_semantic_similarity_asks_nobody() -> None:
    scorer = make("ragas.SemanticSimilarity")
    assert scorer.score(ROW, OUTPUT).value == 0.0
    assert scorer.score(EvalRow("r1", {"q": "x"}, {"answers": ["QUESTION"]}), OUTPUT).value == pytest.approx(1.0)


def test_opposite_meanings_may_score_below_zero() -> None:
    def opposite(texts: list[str]) -> list[list[float]]:
        return [[1.0] if text == "RESPONSE" else [-1.0] for text in texts]

    assert TYPES["ragas.SemanticSimilarity"]("s", endpoint=NOWHERE, embed=opposite).score(ROW, OUTPUT).value == -1.0


def test_embeddings_that_are_no_numbers_are_an_error() -> None:
    scorer = TYPES["ragas.SemanticSimilarity"]("s", endpoint=NOWHERE, embed=lambda texts: [[float("nan")]] * len(texts))
    score = scorer.score(ROW, OUTPUT)
    assert score.value is None
    assert score.error is not None
    assert "outside -1 to 1" in score.error


def test_one_question_is_made_unless_strictness_says_more(script, fits) -> None:
    asked = script(fits(noncommittal=0))
    make("ragas.AnswerRelevancy", asked.endpoint).score(ROW, OUTPUT)
    assert len(asked.requests) == 1
    make("ragas.AnswerRelevancy", asked.endpoint, strictness=2).score(ROW, OUTPUT)
    assert len(asked.requests) == 3


@pytest.mark.parametrize("metric_name", [name for name in sorted(CASES) if not name.startswith(("Agent", "Topic"))])
def test_an_empty_output_is_the_worst_and_nobody_is_asked(metric_name: str, script) -> None:
    asked = script("nonsense")
    score = make(f"ragas.{metric_name}", asked.endpoint).score(ROW, Output(" \n"))

    if "RESPONSE" in CASES[metric_name][1]:
        worst = 1.0 if metric_name == "NoiseSensitivity" else 0.0
        assert (score, asked.requests) == (Score(worst, "the output is empty"), [])
    else:
        assert len(asked.requests) == 1  # judges the retrieval, whatever came out


LACKING = {
    "reference": ({"answers": []}, ROW.contexts, "expectations hold neither answers nor expected_response"),
    "retrieved_contexts": (ROW.expectations, (), "contexts are empty"),
    "reference_contexts": ({**ROW.expectations, "reference_contexts": []}, ROW.contexts, "no reference_contexts"),
    "reference_topics": ({**ROW.expectations, "reference_topics": None}, ROW.contexts, "no reference_topics"),
    "rubrics": ({**ROW.expectations, "rubrics": {}}, ROW.contexts, "no rubrics"),
}


@pytest.mark.parametrize(
    ("type_name", "column"),
    [
        (name, column)
        for name in sorted(TYPES)
        for column in ragas_judges._METRICS[name.removeprefix("ragas.")].columns
        if column in LACKING
    ],
)
def test_a_column_that_the_row_lacks_is_named_and_nobody_is_asked(type_name: str, column: str, script) -> None:
    expectations, contexts, problem = LACKING[column]
    row, asked = EvalRow("r7", ROW.inputs, expectations, contexts), script("nonsense")
    scorer = make(type_name, asked.endpoint)
    with pytest.raises(MissingExpectation, match=f"row r7: .*{problem}"):
        scorer.score(row, OUTPUT)
    assert asked.requests == []


def test_the_input_variable_may_be_named(script, fits) -> None:
    asked = script(fits(rating=4))
    row = EvalRow("r1", {"question": "QUESTION", "claim": "CLAIM"}, {"answers": ["REFERENCE"]})
    make("ragas.AnswerAccuracy", asked.endpoint, input_variable="claim").score(row, OUTPUT)
    assert "CLAIM" in asked.requests[0].text
    assert "QUESTION" not in asked.requests[0].text


@pytest.mark.parametrize("type_name", sorted(TYPES))
def test_the_parameters_that_are_accepted_are_ragas_own(type_name: str) -> None:
    metric = ragas_judges._METRICS[type_name.removeprefix("ragas.")]
    known = inspect.signature(getattr(ragas_judges.load_collections(), type_name.removeprefix("ragas."))).parameters
    assert metric.options.keys() <= known.keys()


def test_answer_correctness_by_facts_alone_needs_no_embeddings(script, fits) -> None:
    scorer = TYPES["ragas.AnswerCorrectness"]("s", endpoint=script(fits()).endpoint, weights=[1, 0])
    assert scorer.score(ROW, OUTPUT).value == pytest.approx(0.5)


def test_the_embedding_model_is_part_of_the_identity() -> None:
    class Named:
        def __init__(self, model: str) -> None:
            self.identity = {"model": model}

        def __call__(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

    one, other = (
        TYPES["ragas.SemanticSimilarity"]("s", endpoint=NOWHERE, embed=Named(model)).identity  # type: ignore[attr-defined]
        for model in ("minilm", "bge")
    )
    assert one["embeddings"] == {"model": "minilm"}
    assert one != other
