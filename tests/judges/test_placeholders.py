"""What a row or an output says is material: text that looks like a judge's placeholder is shown once, as it is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.generation import Message
from llmops.judges import NEEDS_NO_JUDGE, TYPES
from llmops.judges.mlflow_judges import filled_once
from llmops.judges.pairwise import PairJudge
from llmops.prompt_file import PromptTemplate
from tests.judges.conftest import NEEDED, NOWHERE, RUBRICS, fitting

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
    questions: list[str] = []

    class Client:
        def ask(self, messages: Any, schema: Any) -> dict[str, Any]:
            questions.extend(message["content"] for message in messages)
            return json.loads(answer_to(schema, answer))  # type: ignore[no-any-return]

    judge._client = Client()
    score = judge.score(row(text), Output(f"answered {text}"))
    assert score.error is None
    return "\n".join(questions)


def answer_to(schema: dict[str, Any], said: str) -> str:
    return json.dumps(
        fitting(schema, lambda _name, part: said if part.get("type") == "string" and "enum" not in part else None)
    )


ASKING = sorted(set(TYPES) - NEEDS_NO_JUDGE)


@pytest.mark.parametrize("type_name", ASKING)
def test_text_that_looks_like_a_placeholder_is_shown_as_it_is(type_name: str) -> None:
    def embed(texts: Any) -> Any:
        return np.ones((len(texts), 1))

    judge = TYPES[type_name]("s", endpoint=NOWHERE, embed=embed, **NEEDED.get(type_name, {}))
    plain = sent(judge, PLAIN, "said")
    assert PLAIN in plain
    assert sent(judge, LOOKALIKES, "said") == plain.replace(PLAIN, LOOKALIKES)


def test_a_judges_answer_that_looks_like_a_placeholder_is_shown_as_it_is_in_the_next_question() -> None:
    judge: Any = TYPES["ragas.Faithfulness"]("s", endpoint=NOWHERE)
    plain = sent(judge, "word", PLAIN)
    assert PLAIN in plain
    assert sent(judge, "word", LOOKALIKES) == plain.replace(PLAIN, LOOKALIKES)


def test_two_answers_that_are_compared_are_shown_as_they_are() -> None:
    judge = PairJudge(NOWHERE)
    [_, question] = judge.messages(row(LOOKALIKES), f"first {LOOKALIKES}", f"second {LOOKALIKES}")
    [_, plain] = judge.messages(row(PLAIN), f"first {PLAIN}", f"second {PLAIN}")
    assert question["content"] == plain["content"].replace(PLAIN, LOOKALIKES)


def test_a_prompts_variables_are_put_in_once_and_as_they_are() -> None:
    turns = (Message(role="user", content="{{ question }} by {{ context }}"),)
    question, context = f"{LOOKALIKES} {{{{ context }}}}", f"{LOOKALIKES} {{{{ question }}}}"
    [message] = PromptTemplate(turns, "question").render({"question": question, "context": context})
    assert message["content"] == f"{question} by {context}"


def test_a_mark_that_a_value_holds_is_not_taken_for_a_brace() -> None:
    def get_prompt(first: str, second: list[str]) -> str:
        return f"{first}|{second}"

    filled = filled_once(get_prompt, {"first": "BRACE {{ second }} BRACEX", "second": ["{", "BRACEXX"]})
    assert filled == "BRACE {{ second }} BRACEX|['{', 'BRACEXX']"
