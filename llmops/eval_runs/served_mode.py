"""How the answers that will be served may differ from those that were evaluated."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmops.engines.opening import engine_identity
from llmops.engines.protocol import EngineIdentity
from llmops.eval_runs.matrix import NOISE_PARAM, SERVED_PARAM
from llmops.evaluation.results import Noise
from llmops.recording import EvalRun
from llmops.settings import Settings
from llmops.versions import PYTHON, ModelVersion

_THEIR_OWN = ("openai", "fake")  # engines with no mode of ours: an upstream's is its own


def evaluated_by(run: EvalRun) -> EngineIdentity | None:
    """The engine that made a run's answers; None for a run that does not say."""
    try:
        shown = {name: run.params[f"engine.{name}"] for name in ("name", "build", "settings")}
        return EngineIdentity(shown["name"], shown["build"], json.loads(shown["settings"]))
    except (KeyError, ValueError):
        return None


def served_mode(run: EvalRun, model: ModelVersion, settings: Settings) -> str | None:
    """What a reader of a verdict must know of the answers that will be served; None when there is nothing to say.

    That they were made in another mode; and how many of a sample are others than those evaluated when they are made as
    the gateway makes them, where that is not none. Engines are opened from the same settings for both, so that the
    modes differ only where a run asked for something else (`--repeatable`, `--engine`), or a setting was changed since.
    """
    evaluated = evaluated_by(run)
    if evaluated is None or model.format == PYTHON:  # a callable is not served
        return None
    served = engine_identity(model, settings)
    if evaluated == served and served.name in _THEIR_OWN:
        return None
    measured = json.loads(run.params.get(NOISE_PARAM if evaluated == served else SERVED_PARAM, "null"))
    if measured is None or measured.pop("served", asdict(served)) != asdict(served):
        noise, differ = None, "is not known"  # not measured, or before the settings were changed
    else:
        noise = Noise(**measured)
        differ = "{} of {} answers differ ({:.0%} to {:.0%} of all)".format(noise.flips, noise.n, *noise.ci95)
    if evaluated != served:
        counted = differ if noise is not None else f"how many answers differ {differ}"
        return f"evaluated by {_differences(evaluated, served)}: {counted}"
    if noise is None:
        return f"how many answers differ when they are made again, as they are served, {differ}"
    return f"made again, as they are served, {differ}" if noise.flips else None


def mode_change(evaluated: Mapping[str, Any], model: ModelVersion, settings: Settings) -> str | None:
    """How the engine that would serve differs from the one a gate read, as its fields' JSON."""
    before, served = EngineIdentity(**evaluated), engine_identity(model, settings)
    return None if before == served else f"evaluated by {_differences(before, served)}"


def _differences(evaluated: EngineIdentity, served: EngineIdentity) -> str:
    """`llamacpp with slots 1, served by llamacpp with slots 16`: what differs, on both sides."""
    if evaluated.name != served.name:
        return f"{evaluated.name}, served by {served.name}"
    names = {**evaluated.settings, **served.settings}
    both = [{name: side.settings.get(name, "unknown") for name in names} for side in (evaluated, served)]
    sides = []
    for side, settings in zip((evaluated, served), both, strict=True):
        parts = [f"{name} {value}" for name, value in settings.items() if both[0][name] != both[1][name]]
        parts += [side.build] if evaluated.build != served.build else []
        sides.append(f"{side.name} with {', '.join(parts)}")
    return ", served by ".join(sides)
