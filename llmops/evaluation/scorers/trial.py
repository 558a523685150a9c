"""Tries a scorer on a made-up row, so that one that cannot score is found before the first answer is generated."""

from __future__ import annotations

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers.protocol import IdentifiedScorer, MissingExpectation, Scorer

_TEXT = "The cat sat on the mat."
_CALLS = '[{"name": "sit", "args": {"on": "mat"}}]'
# All that any scorer reads of a row.
_ROW = EvalRow(
    "made-up",
    {"question": "Where did the cat sit?"},
    {
        "answers": [_TEXT],
        "expected_response": _TEXT,
        "expected_number": 4,
        "expected_json": {"answer": _TEXT},
        "choices": [_TEXT, "The dog ran."],
        "pattern": "cat",
        "tool_calls": [{"name": "sit", "args": {"on": "mat"}}],
        "reference_contexts": [_TEXT],
        "retrieved_context_ids": ["1"],
        "reference_context_ids": ["1"],
    },
    (_TEXT,),
)
_OUTPUTS = tuple(
    Output(text, tokens_in=9, tokens_out=9, latency_ms=9.0, first_token_ms=3.0, choice_logprobs=(-1.0, -2.0))
    for text in (_TEXT, f'{{"answer": "{_TEXT}"}}', _CALLS, "Москва 4", "")
)


def try_scorer(scorer: Scorer) -> None:
    """Scores a made-up row with several outputs. Scorers that depend on a model (judges, embeddings) are left alone: it
    might have to be fetched, or asked for money. A scorer that finds the row of another kind than it is for is content.

    Raises:
        UsageError: the scorer crashes, or gives an error instead of a score on every output.
    """
    if isinstance(scorer, IdentifiedScorer):
        return
    problems: list[str] = []
    for output in _OUTPUTS:
        try:
            score = scorer.score(_ROW, output)
        except MissingExpectation:
            return
        except Exception as error:
            raise UsageError(f"cannot score a made-up row: {type(error).__name__}: {error}") from error
        if score.error is None:
            continue
        problems.append(score.error)
    if len(problems) == len(_OUTPUTS):
        raise UsageError(f"cannot score a made-up row: {problems[0]}")
