"""Engines: what turns a rendered prompt into an answer. One protocol, one file for each backend.

A new engine is one file with a class, and one entry in `_OPENERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from llmops.engines.protocol import Engine
from llmops.errors import CannotRun, Corrupted, UsageError
from llmops.settings import Settings
from llmops.versions import ModelVersion
from llmops.weights import verified_path

__all__ = ["ENGINE_NAMES", "engine_name", "open_engine"]


def _open_llamacpp(model: ModelVersion, settings: Settings) -> Engine:
    from llmops.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine(
        verified_path(model, settings),
        slots=settings.engine_slots,
        context=settings.engine_context,
        threads=settings.engine_threads,
    )


def _open_transformers(model: ModelVersion, settings: Settings) -> Engine:
    from llmops.engines.transformers import TransformersEngine

    path = verified_path(model, settings)
    folder, gguf_file = (path.parent, path.name) if model.format == "gguf" else (path, None)
    return TransformersEngine(folder, gguf_file=gguf_file, slots=settings.engine_slots, threads=settings.engine_threads)


def _open_openai(model: ModelVersion, settings: Settings) -> Engine:
    from llmops.engines.openai import OpenAIEngine

    base_url, _, upstream_model = model.source.removeprefix("openai:").rpartition("#")
    return OpenAIEngine(
        base_url,
        upstream_model,
        key_variable=model.provenance.get("key_variable"),
        timeout=settings.engine_timeout,
        slots=settings.engine_slots,
    )


def _open_fake(model: ModelVersion, settings: Settings) -> Engine:
    from llmops.engines.fake import FakeEngine

    return FakeEngine(slots=settings.engine_slots, name=f"fake:{model.ref}")


_OPENERS: dict[str, Callable[[ModelVersion, Settings], Engine]] = {
    "fake": _open_fake,
    "llamacpp": _open_llamacpp,
    "openai": _open_openai,
    "transformers": _open_transformers,
}
_DEFAULTS = {"gguf": "llamacpp", "hf": "transformers", "openai": "openai"}
_CAN_OPEN = {"gguf": {"llamacpp", "transformers", "fake"}, "hf": {"transformers", "fake"}, "openai": {"openai", "fake"}}

ENGINE_NAMES = tuple(_OPENERS)


def engine_name(model: ModelVersion, settings: Settings, engine: str | None = None) -> str:
    """Which engine opens `model`: the one asked for, else the setting, else its format's default.

    Raises:
        UsageError: no such engine, or it was asked for and cannot open the model's format.
    """
    asked = engine or settings.engine
    if asked is None:
        return _DEFAULTS[model.format]
    if asked not in _OPENERS:
        raise UsageError(f"unknown engine {asked!r}; known: {', '.join(ENGINE_NAMES)}")
    if asked not in _CAN_OPEN[model.format]:
        if engine is None:  # a global setting is a preference, not an order
            return _DEFAULTS[model.format]
        raise UsageError(f"the {asked} engine cannot open {model.ref}, whose format is {model.format}")
    return asked


def open_engine(model: ModelVersion, settings: Settings, engine: str | None = None) -> Engine:
    """Loads `model`, after checking its bytes against the recorded sha256. Blocking: seconds for a small model.

    Raises:
        UsageError: as `engine_name`. Corrupted: the weights are not what was registered. CannotRun: they are missing.
        EngineUnavailable: the engine's package or upstream is missing.
    """
    name = engine_name(model, settings, engine)
    try:
        return _OPENERS[name](model, settings)
    except MemoryError as error:
        raise CannotRun(f"{model.ref}: not enough memory to load it with the {name} engine") from error
    except OSError as error:
        raise Corrupted(f"{model.ref}: the {name} engine cannot read its weights: {error}") from error
