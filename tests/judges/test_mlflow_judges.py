"""MLflow's judges: word for word what MLflow itself would send, asked of our endpoint."""

import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import MissingExpectation
from llmops.judges.client import JudgeEndpoint
from llmops.judges.mlflow_judges import TYPES
from tests.judges.conftest import NOWHERE
from tests.judges.scripted import ScriptedJudge

ROW = EvalRow(
    "r1",
    {"question": "QUESTION"},
    {"answers": ["REFERENCE"], "expected_response": "REFERENCE", "guidelines": ["GUIDELINE"]},
    ("CONTEXT", "ANOTHER"),
)
TURNS = [
    {"role": "system", "content": "ROLE"},
    {"role": "user", "content": "FIRST"},
    {"role": "assistant", "content": "SECOND"},
    {"role": "user", "content": "THIRD"},
]
TALK = EvalRow("r2", {"messages": TURNS}, {"answers": ["REFERENCE"]})
OUTPUT = Output("RESPONSE")
YES = '{"rationale": "because", "result": "yes"}'
NO = '{"rationale": "because", "result": "no"}'
PARAMETERS: dict[str, dict[str, Any]] = {
    "Guidelines": {"guidelines": ["GUIDELINE", "MORE"]},
    "ConversationalGuidelines": {"guidelines": "GUIDELINE"},
    "make_judge": {"instructions": "Does {{ outputs }} fit {{ inputs }}, by {{ expectations }}?"},
}
OF_TALKS = sorted(name for name in TYPES if "Conversation" in name or name == "mlflow.UserFrustration")


def make(name: str, endpoint: JudgeEndpoint = NOWHERE, **parameters: Any) -> Any:
    name = name.removeprefix("mlflow.")
    return TYPES[f"mlflow.{name}"]("s", endpoint=endpoint, **{**PARAMETERS.get(name, {}), **parameters})


@pytest.fixture(scope="module", autouse=True)
def mlflow_quiet() -> Iterator[None]:
    """MLflow reports nothing of these tests to its makers; read when it is imported."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patched.setenv("DO_NOT_TRACK", "1")
        yield


Official = Callable[[Callable[[], Any]], list[dict[str, str]]]


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Iterator[Official]:
    """`official(call)` the messages that MLflow's own judge sends, when it is led to a scripted judge."""
    with ScriptedJudge(lambda _: YES) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_API_BASE", judge.base_url)

        def sent(call: Callable[[], Any]) -> list[dict[str, str]]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call()
            return judge.requests[-1].body["messages"]  # type: ignore[no-any-return]

        yield sent


MODEL = "openai:/scripted-model"
ROW_INPUTS = {"inputs": "QUESTION", "outputs": "RESPONSE"}
CHUNKS = [{"content": "CONTEXT"}, {"content": "ANOTHER"}]


def of_scorer(name: str, **given: Any) -> Any:
    from mlflow.genai import scorers

    return getattr(scorers, name)(model=MODEL, **PARAMETERS.get(name, {}))(**given)


def of_judge(name: str, **given: Any) -> Any:
    from mlflow.genai import judges

    return getattr(judges, name)(model=MODEL, **given)


def of_make_judge() -> Any:
    from mlflow.genai.judges import make_judge

    judge = make_judge(
        "s",
        PARAMETERS["make_judge"]["instructions"],
        MODEL,
        feedback_value_type=Literal["yes", "no"],
        generate_rationale_first=True,
    )
    return judge(inputs=ROW.inputs, outputs="RESPONSE", expectations=dict(ROW.expectations))


EXPECTED = {"expectations": {"expected_response": "REFERENCE"}}
CALLS: dict[str, Callable[[], Any]] = {
    "Correctness": lambda: of_scorer("Correctness", **ROW_INPUTS, **EXPECTED),
    "Equivalence": lambda: of_scorer("Equivalence", outputs="RESPONSE", **EXPECTED),
    "ExpectationsGuidelines": lambda: of_scorer(
        "ExpectationsGuidelines", **ROW_INPUTS, expectations={"guidelines": ["GUIDELINE"]}
    ),
    "Guidelines": lambda: of_scorer("Guidelines", **ROW_INPUTS),
    "RelevanceToQuery": lambda: of_scorer("RelevanceToQuery", **ROW_INPUTS),
    "Safety": lambda: of_scorer("Safety", outputs="RESPONSE"),
    "RetrievalGroundedness": lambda: of_judge("is_grounded", request="QUESTION", response="RESPONSE", context=CHUNKS),
    "RetrievalSufficiency": lambda: of_judge(
        "is_context_sufficient",
        request="QUESTION",
        context=CHUNKS,
        expected_facts=None,
        expected_response="REFERENCE",
    ),
    "Completeness": lambda: of_scorer("Completeness", inputs=ROW.inputs, outputs="RESPONSE"),
    "Fluency": lambda: of_scorer("Fluency", outputs="RESPONSE"),
    "Summarization": lambda: of_scorer("Summarization", inputs=ROW.inputs, outputs="RESPONSE"),
    "make_judge": of_make_judge,
}


FACTS = {"expected_facts": ["ONE", "TWO"]}  # go before an expected response
OTHER_ROWS: dict[str, tuple[EvalRow, Callable[[], Any]]] = {
    "RelevanceToQuery": (
        TALK, lambda: of_scorer("RelevanceToQuery", inputs={"messages": TURNS}, outputs="RESPONSE")
    ),
    "Correctness": (
        EvalRow("r1", ROW.inputs, {**ROW.expectations, **FACTS}),
        lambda: of_scorer("Correctness", **ROW_INPUTS, expectations=FACTS),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "call"),
    [
        *((name, ROW, call) for name, call in sorted(CALLS.items())),
        *((name, *each) for name, each in OTHER_ROWS.items()),
    ],
)
def test_the_judge_is_asked_word_for_word_what_mlflow_asks(name, row, call, official, script):
    asked = script(YES)
    score = make(name, asked.endpoint).score(row, OUTPUT)
    assert score == Score(True, "yes: because", label="yes")
    assert asked.requests[0].body["messages"] == official(call)


@pytest.mark.parametrize("type_name", OF_TALKS)
def test_a_conversation_is_put_as_mlflow_puts_it(type_name, script):
    from mlflow.genai import scorers

    name, asked = type_name.removeprefix("mlflow."), script('{"rationale": "x", "result": "resolved"}')
    score = make(name, asked.endpoint).score(TALK, OUTPUT)
    if name == "UserFrustration":
        assert score == Score(True, "resolved: x", label="resolved")
    judge = getattr(scorers, name)(model=MODEL, **PARAMETERS.get(name, {}))._create_judge()
    whole = [*TURNS, {"role": "assistant", "content": "RESPONSE"}]

    assert asked.requests[0].body["messages"] == [
        {"role": "system", "content": judge._build_system_message(False)},
        {"role": "user", "content": judge._build_user_message(None, None, None, whole)},
    ]


@pytest.mark.parametrize("type_name", sorted(TYPES))
def test_every_judge_is_asked_for_its_verdict_by_schema_greedily(type_name, script):
    labels = ["none", "resolved", "unresolved"] if type_name == "mlflow.UserFrustration" else ["yes", "no"]
    asked = script(json.dumps({"rationale": "because", "result": labels[-1]}))

    score = make(type_name, asked.endpoint).score(TALK if type_name in OF_TALKS else ROW, OUTPUT)

    assert score.error is None
    assert score.value in (False, 0.0)
    assert asked.requests[0].schema["properties"] == {
        "rationale": {"type": "string"},
        "result": {"type": "string", "enum": labels},
    }
    assert (asked.requests[0].body["temperature"], asked.requests[0].body["model"]) == (0, "scripted-model")


def test_the_relevance_of_a_retrieval_is_the_share_of_relevant_contexts(script):
    asked = script([YES, NO])
    score = make("RetrievalRelevance", asked.endpoint).score(ROW, OUTPUT)
    assert score == Score(0.5, "1. yes: because\n2. no: because")
    assert ["CONTEXT" in request.text for request in asked.requests] == [True, False]
    assert all("QUESTION" in request.text for request in asked.requests)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Correctness", "neither answers nor expected_response"),
        ("Equivalence", "neither answers nor expected_response"),
        ("ExpectationsGuidelines", "no guidelines"),
        ("RetrievalGroundedness", "contexts are empty"),
        ("RetrievalRelevance", "contexts are empty"),
        ("RetrievalSufficiency", "contexts are empty"),
    ],
)
def test_a_column_that_the_row_lacks_is_named_and_nobody_is_asked(name, problem, script):
    asked = script(YES)
    with pytest.raises(MissingExpectation, match=f"row r3: .*{problem}"):
        make(name, asked.endpoint).score(EvalRow("r3", {"q": "x"}), OUTPUT)
    assert asked.requests == []


def test_a_made_judge_may_give_points_and_sees_what_its_instructions_name_and_nothing_else(script):
    asked = script('{"rationale": "x", "result": 4}')
    judge = make("make_judge", asked.endpoint, instructions="Rate {{ outputs }} from 1 to 5.", scale=[1, 5])
    assert judge.score(ROW, OUTPUT) == Score(0.75, "4: x", label="4")
    assert "result (int)" in asked.requests[0].text
    assert asked.requests[0].body["messages"][1]["content"] == 'outputs: "RESPONSE"'


def test_every_judge_of_mlflow_is_built_or_accounted_for():
    from mlflow.genai import scorers

    from llmops.judges import mlflow_judges

    own = set(scorers._LAZY_IMPORTS) - {"get_all_scorers"}
    left_out = own - {name.removeprefix("mlflow.") for name in TYPES}

    assert left_out == {
        "ConversationalToolCallEfficiency", "KnowledgeRetention", "PIIDetection", "RegexMatch", "ResponseLength",
        "ToolCallCorrectness", "ToolCallEfficiency",
    }  # fmt: skip
    assert all(name in (mlflow_judges.__doc__ or "") for name in own)
