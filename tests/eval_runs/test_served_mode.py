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


def test_of_answers_that_are_served_as_they_were_evaluated_nothing_is_said() -> None:
    assert served_mode(made_by(AS_SERVED, noise={"n": 32, "flips": 0}), LOCAL, SETTINGS) is None


def test_answers_that_flip_by_themselves_are_said() -> None:
    said = served_mode(made_by(AS_SERVED, noise={"n": 32, "flips": 3}), LOCAL, SETTINGS)
    assert said == "made again, as they are served, 3 of 32 answers differ (2% to 25% of all)"


def test_what_was_not_measured_is_said() -> None:
    assert str(served_mode(made_by(AS_SERVED), LOCAL, SETTINGS)).endswith("is not known")


def test_another_mode_is_named_with_the_share_of_answers_that_differ() -> None:
    measured = {"n": 32, "flips": 0, "served": AS_SERVED.to_mapping()}
    said = served_mode(made_by(ALONE, served=measured), LOCAL, SETTINGS)
    assert said == (
        "evaluated by llamacpp with slots 1, served by llamacpp with slots 16: "
        "0 of 32 answers differ (0% to 11% of all)"
    )


def test_a_share_that_was_measured_for_other_settings_is_not_said() -> None:
    measured = {"n": 32, "flips": 0, "served": AS_SERVED.to_mapping()}
    busier = replace(SETTINGS, engine_slots=8, engine_prompt_cache="no")
    assert served_mode(made_by(ALONE, served=measured), LOCAL, busier) == (
        "evaluated by llamacpp with slots 1, cache template, served by llamacpp with slots 8, cache no: "
        "how many answers differ is not known"
    )


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


def test_an_upstreams_mode_is_its_own() -> None:
    assert served_mode(made_by(engine_identity(UPSTREAM, SETTINGS)), UPSTREAM, SETTINGS) is None


def test_a_run_that_does_not_say_its_engine_has_no_mode() -> None:
    assert served_mode(replace(made_by(AS_SERVED), params={}), LOCAL, SETTINGS) is None
