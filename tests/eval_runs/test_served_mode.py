"""What a verdict says of the mode in which a release is served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.engines.opening import engine_identity
from llmops.engines.protocol import EngineIdentity
from llmops.eval_runs.cells import mode_change, served_mode
from llmops.recording import EvalRun
from llmops.settings import Settings
from llmops.versions import ModelVersion

SETTINGS = Settings(home=Path("/nowhere"))
LOCAL = ModelVersion("tiny", 1, "file:x.gguf", "gguf", "0" * 64, Path("x.gguf"))
UPSTREAM = ModelVersion("far", 1, "openai:http://127.0.0.1:9/v1#m", "openai", "")
AS_SERVED = engine_identity(LOCAL, SETTINGS)
ALONE = replace(AS_SERVED, settings={**AS_SERVED.settings, "slots": 1})


def made_by(identity: EngineIdentity, **params: Any) -> EvalRun:
    shown = {f"engine.{name}": value for name, value in identity.to_mapping().items()}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in {**shown, **params}.items()
    }
    return EvalRun("r", "s", "p@1", "m@1", {}, 0, 0.0, None, "e", texts)


MEASURED = {"n": 32, "flips": 0, "served": AS_SERVED.to_mapping()}
BUSIER = replace(SETTINGS, engine_slots=8, engine_prompt_cache="no")
UNKNOWN = "how many answers differ is not known"


@pytest.mark.parametrize(
    ("run", "model", "settings", "said"),
    [
        (made_by(AS_SERVED, noise={"n": 32, "flips": 0}), LOCAL, SETTINGS, None),
        (
            made_by(AS_SERVED, noise={"n": 32, "flips": 3}), LOCAL, SETTINGS,
            "made again, as they are served, 3 of 32 answers differ (2% to 25% of all)",
        ),
        (
            made_by(AS_SERVED), LOCAL, SETTINGS,
            "how many answers differ when they are made again, as they are served, is not known",
        ),
        (
            made_by(ALONE, served=MEASURED), LOCAL, SETTINGS,
            "evaluated by llamacpp with slots 1, served by llamacpp with slots 16: "
            "0 of 32 answers differ (0% to 11% of all)",
        ),
        (  # measured for other settings
            made_by(ALONE, served=MEASURED), LOCAL, BUSIER,
            "evaluated by llamacpp with slots 1, cache template, "
            f"served by llamacpp with slots 8, cache no: {UNKNOWN}",
        ),
        (made_by(engine_identity(UPSTREAM, SETTINGS)), UPSTREAM, SETTINGS, None),  # its mode is its own
        (replace(made_by(AS_SERVED), params={}), LOCAL, SETTINGS, None),  # which engine it was, the run does not say
    ],
)  # fmt: skip
def test_a_verdict_says_how_served_answers_differ_from_those_evaluated(run, model, settings, said):
    assert served_mode(run, model, settings) == said


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (AS_SERVED, None),
        (ALONE, "evaluated by llamacpp with slots 1, served by llamacpp with slots 16"),
        (replace(AS_SERVED, name="openvino"), "evaluated by openvino, served by llamacpp"),
        (replace(AS_SERVED, build="old"), f"evaluated by llamacpp with old, served by llamacpp with {AS_SERVED.build}"),
    ],
)
def test_a_change_of_mode_since_a_gate_is_named(before: EngineIdentity, change: str | None) -> None:
    assert mode_change(before.to_mapping(), LOCAL, SETTINGS) == change
