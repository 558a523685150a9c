"""Whether a release is served as it was evaluated: by the same engine in the same mode.

Both are opened by one function from the same settings, so they differ only where a run asked for something else
(`--repeatable`, `--engine`), or where a setting was changed since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmops.engines.opening import engine_identity
from llmops.engines.protocol import EngineIdentity
from llmops.eval_runs.matrix import NOISE_PARAM, SERVED_PARAM
from llmops.evaluation.noise import Noise
from llmops.recording import EvalRun
from llmops.settings import Settings
from llmops.versions import ModelVersion

_THEIR_OWN = ("openai", "fake")
"""Engines with no mode of ours: an upstream's is its own."""


def served_mode(run: EvalRun, model: ModelVersion, settings: Settings) -> str | None:
    """What a reader of a verdict must know of the answers that will be served; None when there is nothing to say.

    That they were made in another mode; and how many of a sample are others than those evaluated when they are made as
    the gateway makes them, where that is not none.
    """
    evaluated, served = evaluated_by(run), engine_identity(model, settings)
    if evaluated is None or (evaluated == served and served.name in _THEIR_OWN):
        return None
    noise = _measured(run, evaluated, served)
    if evaluated != served:
        counted = "how many answers differ is not known" if noise is None else _counted(noise)
        return f"evaluated by {_differences(evaluated, served)}: {counted}"
    if noise is None:
        return "how many answers differ when they are made again, as they are served, is not known"
    return f"made again, as they are served, {_counted(noise)}" if noise.flips else None


def evaluated_by(run: EvalRun) -> EngineIdentity | None:
    """The engine that made a run's answers; None for a run that does not say."""
    try:
        shown = {name: run.params[f"engine.{name}"] for name in ("name", "build", "settings")}
        return EngineIdentity(shown["name"], shown["build"], json.loads(shown["settings"]))
    except (KeyError, ValueError):
        return None


def mode_change(evaluated: Mapping[str, Any], model: ModelVersion, settings: Settings) -> str | None:
    """How the engine that would serve differs from the one a gate read, as `EngineIdentity.to_mapping` gives it."""
    before, served = EngineIdentity(**evaluated), engine_identity(model, settings)
    return None if before == served else f"evaluated by {_differences(before, served)}"


def _measured(run: EvalRun, evaluated: EngineIdentity, served: EngineIdentity) -> Noise | None:
    name = NOISE_PARAM if evaluated == served else SERVED_PARAM
    if name not in run.params:
        return None
    found = json.loads(run.params[name])
    if found.pop("served", served.to_mapping()) != served.to_mapping():
        return None  # the settings have changed since
    return Noise(**found)


def _counted(noise: Noise) -> str:
    low, high = noise.ci95
    return f"{noise.flips} of {noise.n} answers differ ({low:.0%} to {high:.0%} of all)"


def _differences(evaluated: EngineIdentity, served: EngineIdentity) -> str:
    """`llamacpp with slots 1, served by llamacpp with slots 16`: what differs, on both sides."""
    if evaluated.name != served.name:
        return f"{evaluated.name}, served by {served.name}"
    names = [name for name in {**evaluated.settings, **served.settings} if _of(evaluated, name) != _of(served, name)]
    sides = []
    for side in (evaluated, served):
        parts = [f"{name} {_of(side, name)}" for name in names]
        parts += [side.build] if evaluated.build != served.build else []
        sides.append(f"{side.name} with {', '.join(parts)}")
    return ", served by ".join(sides)


def _of(identity: EngineIdentity, name: str) -> Any:
    return identity.settings.get(name, "unknown")
