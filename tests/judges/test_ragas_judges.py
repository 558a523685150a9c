"""Every ragas metric with a judge: the right columns are sent, the right score is read, garbage is an error."""

import asyncio
import inspect
import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

from llmops.errors import EngineError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import ragas_scorers
from llmops.evaluation.scorers.protocol import MissingExpectation
from llmops.judges import ragas_judges
from llmops.judges.client import JudgeClient, JudgeEndpoint
from llmops.judges.ragas_bridge import BoundedJudge, RagasEmbeddings, bounded_schema, reasons
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


def test_every_exported_name_of_ragas_is_built_or_accounted_for():
    collections = ragas_judges.load_collections()
    built = {name.removeprefix("ragas.") for name in (*TYPES, *ragas_scorers.TYPES)}
    told = {"BaseMetric", "DataCompyScore", "DistanceMeasure", "MultiModalFaithfulness", "MultiModalRelevance"}
    exported = {name for name in (*collections.__all__, *vars(collections)) if name[0].isupper()}
    assert exported - built == told
    assert all(name in (ragas_judges.__doc__ or "") for name in told)
    assert {f"ragas.{name}" for name in CASES} == TYPES.keys() - NEEDS_NO_JUDGE
    for name, metric in ragas_judges._METRICS.items():  # parameters that are accepted are ragas' own
        assert metric.options.keys() <= inspect.signature(getattr(collections, name)).parameters.keys()


@pytest.mark.parametrize("metric_name", sorted(CASES))
def test_the_columns_of_the_row_are_sent_and_the_score_is_read(metric_name, script, fits):
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
def test_an_answer_out_of_range_is_an_error_and_no_score(metric_name, says, script, fits):
    score = make(f"ragas.{metric_name}", script(fits(**says)).endpoint).score(ROW, OUTPUT)
    assert score.value is None
    assert score.error.startswith("EngineError: ")


def test_a_metric_whose_second_judgement_fails_does_not_score_by_the_first(script):
    # ragas itself would ask five times and then take the one rating there is.
    asked = script(['{"rating": 4}', "nonsense"])
    score = make("ragas.AnswerAccuracy", asked.endpoint).score(ROW, OUTPUT)
    assert (score.value, len(asked.requests)) == (None, 2)


def test_the_rationale_tells_the_judges_reasons(script):
    asked = script([
        '{"statements": ["a", "b"]}',
        json.dumps({"statements": [
            {"statement": "a", "reason": "said so", "verdict": 1}, {"statement": "b", "reason": "made up", "verdict": 0}
        ]}),
    ])  # fmt: skip

    assert make("ragas.Faithfulness", asked.endpoint).score(ROW, OUTPUT) == Score(0.5, "1: said so\n0: made up")


def test_own_rubrics_reach_the_judge_and_points_stand_in_the_rationale(script, fits):
    asked = script(fits(score=4, feedback="fine"))
    score = make("ragas.DomainSpecificRubrics", asked.endpoint, rubrics=RUBRICS).score(ROW, OUTPUT)
    assert score == Score(0.75, "4 of 5: fine")
    assert "score5_description: worth 5" in asked.requests[0].text


def test_a_conversation_is_judged_whole_and_without_its_system_message(script, fits):
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


def opposite(texts: list[str]) -> list[list[float]]:
    return [[1.0] if text == "RESPONSE" else [-1.0] for text in texts]


@pytest.mark.parametrize(
    ("embed", "value", "problem"),
    [
        (embed, 0.0, ""),
        (lambda texts: [[1.0]] * len(texts), 1.0, ""),
        (opposite, -1.0, ""),
        (lambda texts: [[float("nan")]] * len(texts), None, "outside -1 to 1"),
    ],
    ids=["across", "equal", "opposite", "no numbers"],
)
def test_semantic_similarity_is_the_cosine_of_embeddings_and_asks_nobody(embed, value, problem):
    score = TYPES["ragas.SemanticSimilarity"]("s", endpoint=NOWHERE, embed=embed).score(ROW, OUTPUT)
    assert score.value == (value if value is None else pytest.approx(value))
    assert problem in str(score.error)


def test_one_question_is_made_unless_strictness_says_more_and_facts_alone_need_no_embeddings(script, fits):
    asked = script(fits(noncommittal=0))
    make("ragas.AnswerRelevancy", asked.endpoint).score(ROW, OUTPUT)
    assert len(asked.requests) == 1
    make("ragas.AnswerRelevancy", asked.endpoint, strictness=2).score(ROW, OUTPUT)
    assert len(asked.requests) == 3
    by_facts = TYPES["ragas.AnswerCorrectness"]("s", endpoint=script(fits()).endpoint, weights=[1, 0])
    assert by_facts.score(ROW, OUTPUT).value == pytest.approx(0.5)


@pytest.mark.parametrize("metric_name", [name for name in sorted(CASES) if not name.startswith(("Agent", "Topic"))])
def test_an_empty_output_is_the_worst_and_nobody_is_asked(metric_name, script):
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
def test_a_column_that_the_row_lacks_is_named_and_nobody_is_asked(type_name, column, script):
    expectations, contexts, problem = LACKING[column]
    row, asked = EvalRow("r7", ROW.inputs, expectations, contexts), script("nonsense")
    scorer = make(type_name, asked.endpoint)
    with pytest.raises(MissingExpectation, match=f"row r7: .*{problem}"):
        scorer.score(row, OUTPUT)
    assert asked.requests == []


def test_the_input_variable_may_be_named(script, fits):
    asked = script(fits(rating=4))
    row = EvalRow("r1", {"question": "QUESTION", "claim": "CLAIM"}, {"answers": ["REFERENCE"]})
    make("ragas.AnswerAccuracy", asked.endpoint, input_variable="claim").score(row, OUTPUT)
    assert "CLAIM" in asked.requests[0].text
    assert "QUESTION" not in asked.requests[0].text


# What ragas would count although it says nothing cannot come through the bridge.


class Statements(BaseModel):
    statements: list[str] = Field(..., description="made from the answer")


class Judged(BaseModel):
    statement: str
    reason: str
    verdict: int


class Verdicts(BaseModel):
    statements: list[Judged]


class Rating(BaseModel):
    rating: int


def verdicts(*values: int) -> str:
    judged = [{"statement": f"s{i}", "reason": f"because {i}", "verdict": value} for i, value in enumerate(values)]
    return json.dumps({"statements": judged})


def statements(*texts: str) -> str:
    return json.dumps({"statements": list(texts)})


def test_objects_are_closed_whole_and_without_titles_and_known_fields_bounded():
    given = Verdicts.model_json_schema()
    schema = bounded_schema(given, {"verdict": (0, 1)}, [3, 2])
    assert given == Verdicts.model_json_schema()
    assert schema["$defs"]["Judged"]["properties"]["verdict"] == {"enum": [0, 1], "type": "integer"}
    for part in (schema, schema["$defs"]["Judged"]):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])
        assert "title" not in json.dumps(part)
    field = schema["properties"]["statements"]  # as long as one of the lists asked about
    assert (field["minItems"], field["maxItems"]) == (2, 3)


def bounded(script: Any, *replies: Any) -> BoundedJudge:
    return BoundedJudge(JudgeClient(script(list(replies)).endpoint), {"rating": (0, 2, 4)})


@pytest.mark.parametrize(
    ("asked_about", "judged", "problem"),
    [
        ([2], verdicts(1), "the judge"),
        ([2], verdicts(1, 1, 0), "the judge"),
        ([2], verdicts(1, 7), "the judge"),
        ([1, 3], verdicts(1, 1), "2 verdicts on 3 statements"),  # a length between those asked about
    ],
)
def test_each_statement_gets_a_verdict_of_0_or_1(asked_about, judged, problem, script):
    judge = bounded(script, *(statements(*"abc"[:n]) for n in asked_about), judged)
    for _ in asked_about:
        judge.generate("split", Statements)
    with pytest.raises(EngineError, match=problem):
        judge.generate("judge", Verdicts)


def test_an_answer_comes_as_the_model_asked_for_awaited_or_not_and_after_a_failure_nothing_more_is_asked(
    script,
):
    asked = script(['{"rating": 4}', '{"rating": 2}', "nonsense", '{"rating": 4}'])
    judge = BoundedJudge(JudgeClient(asked.endpoint), {"rating": (0, 2, 4)})
    assert judge.generate("rate", Rating) == Rating(rating=4)
    assert asyncio.run(judge.agenerate("rate", Rating)) == Rating(rating=2)
    for _ in range(3):
        with pytest.raises(EngineError, match="not JSON"):
            judge.generate("rate", Rating)
    assert len(asked.requests) == 3
    assert judge.failure is not None


def test_embeddings_are_lists_of_plain_numbers():
    import numpy as np

    embeddings = RagasEmbeddings(lambda texts: np.array([[len(text), 1] for text in texts], dtype=np.float32))
    assert embeddings.embed_texts(["a", "bcd"]) == [[1.0, 1.0], [3.0, 1.0]]
    assert asyncio.run(embeddings.aembed_text("ab")) == [2.0, 1.0]
    assert asyncio.run(embeddings.aembed_texts(["ab"])) == [[2.0, 1.0]]


def test_reasons_of_all_answers_stand_a_line_each_with_their_verdicts():
    answers = [{"statements": ["a"]}, json.loads(verdicts(1, 0)), {"reason": "so", "more": {"reason": ""}}]
    assert reasons(answers) == "1: because 0\n0: because 1\nso"
