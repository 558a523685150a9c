"""Every type of judge: made by name and endpoint without anything heavy, and nothing that it reads leads it astray."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evaluation.server import KEY, MODEL, serving
from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import SCORER_TYPES
from llmops.evaluation.scorers.protocol import CachedScorer, best_of
from llmops.generation import Message
from llmops.judges import NEEDS_EMBEDDINGS, NEEDS_NO_JUDGE, TYPES, JudgeEndpoint
from llmops.judges.mlflow_judges import filled_once
from llmops.judges.pairwise import PairJudge
from llmops.prompt_file import PromptTemplate
from tests.judges.conftest import NOWHERE, RUBRICS, fitting, made
from tests.judges.scripted import completion


@pytest.mark.parametrize("type_name", sorted(TYPES))
def test_every_type_makes_a_scorer_of_the_suites_name_which_is_kept_under_type_judge_options_and_version(type_name):
    import mlflow

    scorer, other = made(type_name), JudgeEndpoint("nowhere", NOWHERE.base_url, "another", side_by_side=9)
    assert isinstance(scorer, CachedScorer)
    assert (scorer.name, scorer.side_by_side) == ("mine", 4)
    less_is_better = type_name == "ragas.NoiseSensitivity"
    assert (scorer.higher_is_better, scorer.worst) == ((False, 1.0) if less_is_better else (True, 0.0))
    found = scorer.identity
    assert (found["type"], found["judge"]) == (type_name, NOWHERE.identity)
    # Its prompts may change with MLflow: another version must not find the scores of this one.
    assert found.get("mlflow", mlflow.__version__) == mlflow.__version__
    assert json.loads(json.dumps(found)) != made(type_name, other).identity
    if type_name != "mlflow.make_judge":
        assert found != made(type_name, input_variable="q").identity


ASKING = sorted(set(TYPES) - NEEDS_NO_JUDGE)
GARBAGE = [
    "I think it is good.",
    "{}",
    '{"rationale": "x", "score": NaN}',
    '{"rationale": "x", "result": "absolutely"}',
]
FAILED = [(500, {}, "{}"), (200, {}, completion("{}", "length"))]


@pytest.mark.parametrize("type_name", ASKING)
def test_garbage_is_an_error_of_the_first_question_and_no_score(type_name, script):
    replies = [*GARBAGE, *FAILED]
    asked = script(replies)
    scorer = made(type_name, asked.endpoint)
    for already in range(len(replies)):
        score = scorer.score(CAPITAL, Output("Москва"))
        assert score.value is None
        assert str(score.error).startswith("Engine")
        assert len(asked.requests) == already + 1


WRONG_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    *((name, {"strict": True}, "strict: unknown key") for name in TYPES),
    ("ragas.Faithfulness", {"mode": "f1"}, "mode: unknown key"),
    ("ragas.Faithfulness", {"input_variable": ""}, "input_variable: must be text, and not blank"),
    ("ragas.FactualCorrectness", {"mode": "f2"}, "mode: must be 'precision', 'recall' or 'f1', not 'f2'"),
    ("ragas.FactualCorrectness", {"beta": 0}, "beta: must be greater than 0, not 0"),
    ("ragas.FactualCorrectness", {"atomicity": 1}, "atomicity: must be 'low' or 'high'"),
    ("ragas.TopicAdherence", {"mode": None}, "mode: "),
    ("ragas.NoiseSensitivity", {"mode": "recall"}, "mode: must be 'relevant' or 'irrelevant'"),
    ("ragas.AnswerRelevancy", {"strictness": 0}, "strictness: must be greater than or equal to 1"),
    ("ragas.AnswerCorrectness", {"weights": [1]}, "weights: must hold at least 2"),
    ("ragas.AnswerCorrectness", {"weights": [0, 0]}, "weights: one of them must be above 0"),
    ("ragas.AnswerCorrectness", {"weights": [1, -1]}, "weights[1]: must be greater than or equal to 0"),
    ("ragas.SummaryScore", {"coeff": 2}, "coeff: must be less than or equal to 1"),
    ("ragas.SummaryScore", {"length_penalty": "yes"}, "length_penalty: must be true or false"),
    ("ragas.DomainSpecificRubrics", {"rubrics": {"score1_description": "x"}}, "rubrics: must hold at least 5"),
    ("ragas.DomainSpecificRubrics", {"rubrics": {**RUBRICS, "score5_description": ""}}, "rubrics.score5_"),
    ("ragas.DomainSpecificRubrics", {"rubrics": {**RUBRICS, "score6_description": "x"}}, "rubrics.score6_"),
    ("ragas.SemanticSimilarity", {"threshold": 2}, "threshold: must be less than or equal to 1"),
    *((name, {"embed": None}, f"embed: {name} needs an embedding model") for name in sorted(NEEDS_EMBEDDINGS)),
    ("mlflow.Safety", {"guidelines": "x"}, "guidelines: unknown key"),
    ("mlflow.Guidelines", {"guidelines": []}, "guidelines: must not be empty"),
    ("mlflow.Guidelines", {"guidelines": ["a", ""]}, "guidelines[1]: must be text, and not blank"),
    ("mlflow.ConversationalGuidelines", {"guidelines": None}, "guidelines: "),
    ("mlflow.Correctness", {"input_variable": 1}, "input_variable: must be text, not 1"),
    ("mlflow.make_judge", {"instructions": "no variable"}, "instructions: must hold at least one of inputs"),
    ("mlflow.make_judge", {"instructions": "{{ trace }}"}, "instructions: there is no {{ trace }}"),
    ("mlflow.make_judge", {"instructions": "{{ conversation }} {{ inputs }}"}, "instructions: {{ conversation }} goes"),
    ("mlflow.make_judge", {"instructions": ""}, "instructions: must be text, and not blank"),
    ("mlflow.make_judge", {"scale": "stars"}, "scale: must be pass_fail, "),
    ("judge.rubric", {"instructions": " "}, "instructions: must be text, and not blank"),
    ("judge.rubric", {"instructions": 3}, "instructions: must be text, not 3"),
    ("judge.rubric", {"instructions": "{{ answer }}"}, "instructions: there is no {{ answer }}; there are input, out"),
    ("judge.rubric", {"scale": "stars"}, "scale: must be pass_fail, "),
    ("judge.rubric", {"scale": ["a", "b"]}, "good: must name some"),
    ("judge.rubric", {"input_variable": 3}, "input_variable: must be text, not 3"),
]


@pytest.mark.parametrize(("type_name", "options", "problem"), WRONG_OPTIONS)
def test_a_wrong_option_is_refused_by_its_name(type_name, options, problem):
    with pytest.raises(UsageError) as caught:
        made(type_name, **options)
    assert str(caught.value).startswith(problem)


class Unasked:
    """A client that answers itself, as `fitting` does. questions: all that it was asked."""

    def __init__(self, choose: Callable[[str, dict[str, Any]], Any]) -> None:
        self.choose = choose
        self.questions: list[str] = []

    def ask(self, messages: Any, schema: Any) -> Any:
        self.questions.extend(message["content"] for message in messages)
        return fitting(schema, self.choose)


EXPECTATIONS = {
    "answers": ["Москва"], "guidelines": ["Be brief."], "reference_contexts": ["Москва — столица."],
    "reference_topics": ["cities"],
    "rubrics": RUBRICS,
}  # fmt: skip
CAPITAL = EvalRow("r1", {"question": "Столица?"}, EXPECTATIONS, ("Москва — столица.",))
# Verdicts that say the worst where others say the best.
FOR_WORSE = {"noncommittal": 0, "refused_to_answer": False}


def best_answer(name: str, part: dict[str, Any]) -> Any:
    """The verdict of a judge that finds everything as good as can be."""
    if name in FOR_WORSE:
        return FOR_WORSE[name]
    if name in ("FP", "FN"):
        return []
    if part.get("type") == "boolean":
        return True
    choices = part.get("enum", [])
    return next((good for good in ("yes", "pass", "none", "1") if good in choices), max(choices, default=None))


@pytest.mark.parametrize("type_name", ASKING)
def test_the_best_verdicts_on_the_expected_answer_give_the_best_value(type_name):
    judge = made(type_name)
    judge._client = Unasked(best_answer)

    score = judge.score(CAPITAL, Output("Москва"))

    assert score.error is None
    if type_name == "ragas.SummaryScore":  # by half for brevity: an answer as long as its source has none
        assert 0.5 < score.value < 1
    else:
        assert score.value == pytest.approx(best_of(judge), abs=1e-6)


def test_names_stand_for_one_scorer_each_and_making_scorers_loads_nothing_heavy():
    assert not TYPES.keys() & SCORER_TYPES.keys()
    assert TYPES.keys() >= NEEDS_EMBEDDINGS | NEEDS_NO_JUDGE
    code = (
        "import sys, llmops.evaluation.scorers; from llmops.judges import TYPES, JudgeEndpoint;"
        "e = JudgeEndpoint('n', 'http://localhost/v1', 'm');"
        "TYPES['ragas.Faithfulness']('s', endpoint=e); TYPES['mlflow.Safety']('s', endpoint=e);"
        "TYPES['judge.rubric']('s', endpoint=e, instructions='x');"
        "heavy = 'mlflow ragas openai torch scipy numpy matplotlib sacrebleu rouge_score nltk jsonschema_rs'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What a row or an output says is material: text that looks like a placeholder is shown once, as it is.

PLAIN = "qqWORDqq"
# Names of placeholders in MLflow's, ragas' and our own texts, and other ways in which texts are filled.
LOOKALIKES = " ".join(
    [
        "{{expected_output}} {{ ground_truth }} {{ retrieval_context }} {{input}} {{ output }} {{ doc }} {{ content }}",
        "{{ guidelines }} {{ guidelines_context }} {{ conversation }} {{ inputs }} {{ outputs }} {{ expectations }}",
        "{{ expected }} {{ contexts }} {{ instructions }} {{{ output }}} {response} {reference} {user_input} {0} %s",
        "$output BRACE{{ output }}BRACEX",
    ]
)  # fmt: skip


def row(text: str) -> EvalRow:
    expectations = {
        "answers": [f"expected {text}"], "expected_response": f"expected {text}", "guidelines": [f"guideline {text}"],
        "reference_contexts": [f"source {text}"], "reference_topics": [f"topic {text}"], "rubrics": RUBRICS,
    }  # fmt: skip
    return EvalRow("r1", {"question": f"asked {text}"}, expectations, (f"context {text}",))


def sent(judge: Any, text: str, answer: str) -> str:
    """All that is asked about a row and an output that hold `text` everywhere."""
    judge._client = Unasked(lambda _, part: answer if part.get("type") == "string" and "enum" not in part else None)
    score = judge.score(row(text), Output(f"answered {text}"))
    assert score.error is None
    return "\n".join(judge._client.questions)


@pytest.mark.parametrize("type_name", ASKING)
def test_text_that_looks_like_a_placeholder_is_shown_as_it_is(type_name):
    judge = made(type_name)
    plain = sent(judge, PLAIN, "said")
    assert PLAIN in plain
    assert sent(judge, LOOKALIKES, "said") == plain.replace(PLAIN, LOOKALIKES)


def test_a_judges_answer_that_looks_like_a_placeholder_is_shown_as_it_is_in_the_next_question():
    judge = made("ragas.Faithfulness")
    plain = sent(judge, "word", PLAIN)
    assert PLAIN in plain
    assert sent(judge, "word", LOOKALIKES) == plain.replace(PLAIN, LOOKALIKES)


def test_two_answers_that_are_compared_and_a_prompts_variables_are_put_in_once_and_as_they_are():
    judge = PairJudge(NOWHERE)
    [_, question] = judge.messages(row(LOOKALIKES), f"first {LOOKALIKES}", f"second {LOOKALIKES}")
    [_, plain] = judge.messages(row(PLAIN), f"first {PLAIN}", f"second {PLAIN}")
    assert question["content"] == plain["content"].replace(PLAIN, LOOKALIKES)
    turns = (Message(role="user", content="{{ question }} by {{ context }}"),)
    asked, context = f"{LOOKALIKES} {{{{ context }}}}", f"{LOOKALIKES} {{{{ question }}}}"
    [message] = PromptTemplate(turns, "question").render({"question": asked, "context": context})
    assert message["content"] == f"{asked} by {context}"


def test_a_mark_that_a_value_holds_is_not_taken_for_a_brace():
    def get_prompt(first: str, second: list[str]) -> str:
        return f"{first}|{second}"

    filled = filled_once(get_prompt, {"first": "BRACE {{ second }} BRACEX", "second": ["{", "BRACEXX"]})
    assert filled == "BRACE {{ second }} BRACEX|['{', 'BRACEXX']"


# The real small model as judge, behind llama.cpp's own HTTP port: it follows every schema, whatever it thinks.

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOUND = sorted(Path(os.environ.get("LLMOPS_HOME", ".llmops"), "models").glob(f"*/{GGUF}"))
QUESTION = EvalRow(
    "r1", {"question": "What is the capital of France?"}, {"answers": ["Paris"]}, ("Paris is the capital of France.",)
)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[JudgeEndpoint]:
    with pytest.MonkeyPatch.context() as patched, serving(FOUND[0], slots=1) as url:
        patched.setenv("SMALL_MODEL_KEY", KEY)
        yield JudgeEndpoint("small", url, MODEL, "SMALL_MODEL_KEY", timeout=300, max_tokens=96, side_by_side=1)


@pytest.mark.slow
@pytest.mark.skipif(not FOUND, reason=f"no {GGUF} below $LLMOPS_HOME/models")
@pytest.mark.parametrize(
    ("type_name", "parameters"),
    [
        ("judge.rubric", {"instructions": "The answer names the right city."}),
        ("judge.rubric", {"instructions": "How good is the answer?", "scale": [1, 5]}),
        ("mlflow.make_judge", {"instructions": "Is {{ outputs }} right?", "scale": [1, 3]}),
        ("ragas.ContextRecall", {}),
    ],
)
def test_every_verdict_is_on_the_scale_or_was_cut_off(type_name, parameters, endpoint):
    score = TYPES[type_name]("s", endpoint=endpoint, **parameters).score(QUESTION, Output("It is Paris."))

    if score.error is None:
        assert 0 <= score.value <= 1
    else:
        # A small model may talk, or list, until its tokens are used up; nothing else may go wrong under a grammar.
        assert "cut off at max_tokens" in score.error
