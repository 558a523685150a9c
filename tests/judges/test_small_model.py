"""The real small model as judge, behind llama.cpp's own HTTP port: it follows every schema, whatever it thinks."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.judges import TYPES, JudgeEndpoint

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOUND = sorted(Path(os.environ.get("LLMOPS_HOME", ".llmops"), "models").glob(f"*/{MODEL}"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOUND, reason=f"no {MODEL} below $LLMOPS_HOME/models"),
]

ROW = EvalRow(
    "r1", {"question": "What is the capital of France?"}, {"answers": ["Paris"]}, ("Paris is the capital of France.",)
)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[JudgeEndpoint]:
    import xllamacpp

    key = secrets.token_urlsafe(16)
    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(FOUND[0])
    parameters.n_parallel, parameters.n_ctx, parameters.verbosity = 1, 4096, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
    parameters.api_keys = [key]
    server: Any = xllamacpp.Server(parameters)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SMALL_MODEL_KEY", key)
        yield JudgeEndpoint(
            "small",
            f"{server.listening_address}/v1",
            "small",
            "SMALL_MODEL_KEY",
            timeout=300,
            max_tokens=96,
            side_by_side=1,
        )
    del server


@pytest.mark.parametrize(
    ("type_name", "parameters"),
    [
        ("judge.rubric", {"instructions": "The answer names the right city."}),
        ("judge.rubric", {"instructions": "How good is the answer?", "scale": [1, 5]}),
        ("mlflow.make_judge", {"instructions": "Is {{ outputs }} right?", "scale": [1, 3]}),
        ("ragas.ContextRecall", {}),
    ],
)
def test_every_verdict_is_on_the_scale_or_was_cut_off(
    type_name: str, parameters: dict[str, Any], endpoint: JudgeEndpoint
) -> None:
    score = TYPES[type_name]("s", endpoint=endpoint, **parameters).score(ROW, Output("It is Paris."))

    if score.error is None:
        assert score.value is not None
        assert 0 <= score.value <= 1
    else:
        # A small model may talk, or list, until its tokens are used up; nothing else may go wrong under a grammar.
        assert "cut off at max_tokens" in score.error
