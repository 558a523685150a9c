"""Picks and loads the engine for a model version. A new engine is one file and one entry in `_ENGINES`.

Engine modules are imported only when used: torch and llama.cpp are heavy.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from llmops.engines.protocol import Engine, EngineIdentity, RelayingEngine, refuse_response_format
from llmops.engines.python import CallableEngine, CallableModel
from llmops.errors import CannotRun, Corrupted, EngineRejected, UsageError
from llmops.generation import GenerationParameters
from llmops.load_once import ModelCache
from llmops.models.sources import UpstreamSource
from llmops.models.weights import verified_path
from llmops.settings import Settings
from llmops.versions import PYTHON, ModelVersion


def _threads(settings: Settings) -> int:
    """The setting, else as many as there are idle cores now, and at least one.

    Decoding threads spin until the slowest arrives, at every layer. Where they outnumber the free cores, the spinning
    ones take the time that the late one needs: measured on 2 cores with two busy processes, 2 threads decode 14 times
    slower than alone. An answer does not depend on the number of threads.
    """
    if settings.engine_threads is not None:
        return settings.engine_threads
    import psutil

    cores: int = psutil.cpu_count() or 1
    busy: float = psutil.cpu_percent(interval=0.25) / 100
    return max(1, round(cores * (1 - busy)))


def _gguf_path(model: ModelVersion, settings: Settings) -> Path:
    """The file to load: as it is stored, or with its weights held wide."""
    from llmops.models.quantise import wide_path

    path = verified_path(model, settings)
    return path if settings.engine_weights == "stored" else wide_path(path, model.sha256, settings.wide_weights_dir)


def _gguf_options(settings: Settings) -> dict[str, Any]:
    """What engines for GGUF files are made with, and their identity too."""
    return {
        "slots": settings.engine_slots,
        "context": settings.engine_context,
        "prompt_cache": settings.engine_prompt_cache,
        "weights": settings.engine_weights,
    }


class _EngineFactory(NamedTuple):
    """One model in the hands of its engine. open loads it (seconds); identify says beforehand what `open` will give;
    check raises EngineRejected, without a model, for a response format that the engine cannot enforce."""

    open: Callable[[], Engine]
    identify: Callable[[], EngineIdentity]
    check: Callable[[Mapping[str, Any]], object] = lambda _: None  # an upstream checks itself


def _llamacpp(model: ModelVersion, settings: Settings) -> _EngineFactory:
    from llmops.engines import llamacpp
    from llmops.engines.schemas import grammar_of
    from llmops.engines.upstreams import ReplicatedEngine

    options, replicas = _gguf_options(settings), settings.engine_replicas

    def opened() -> Engine:
        path, threads = _gguf_path(model, settings), max(1, _threads(settings) // replicas)
        engines = [llamacpp.LlamaCppEngine(path, threads=threads, **options) for _ in range(replicas)]
        return engines[0] if replicas == 1 else ReplicatedEngine(engines)

    return _EngineFactory(opened, lambda: llamacpp.identity(**options), grammar_of)


def _openvino(model: ModelVersion, settings: Settings) -> _EngineFactory:
    from llmops.engines import openvino
    from llmops.engines.schemas import enforced_schema

    options = _gguf_options(settings)

    def opened() -> Engine:
        return openvino.OpenVinoEngine(_gguf_path(model, settings), threads=_threads(settings), **options)

    return _EngineFactory(opened, lambda: openvino.identity(**options), enforced_schema)


def _transformers(model: ModelVersion, settings: Settings) -> _EngineFactory:
    from llmops.engines import transformers

    slots = settings.engine_slots

    def opened() -> Engine:
        path = verified_path(model, settings)
        folder, gguf_file = (path.parent, path.name) if model.format == "gguf" else (path, None)
        return transformers.TransformersEngine(folder, gguf_file=gguf_file, slots=slots, threads=_threads(settings))

    return _EngineFactory(opened, lambda: transformers.identity(slots), partial(refuse_response_format, "transformers"))


def _openai(model: ModelVersion, settings: Settings) -> _EngineFactory:
    from llmops.engines.openai_format import identity

    source = UpstreamSource.parse(model.source, model.provenance.get("key_variable"))

    def opened() -> Engine:
        from llmops.engines.openai import OpenAIEngine
        from llmops.engines.upstreams import Upstream, UpstreamsEngine

        engines = [
            OpenAIEngine(
                server.url,
                source.model,
                key_variable=server.key_variable,
                timeout=settings.engine_timeout,
                connect_timeout=settings.upstream_connect_timeout,
                first_byte_timeout=settings.upstream_first_byte_timeout,
                slots=settings.engine_slots,
                stream_always=settings.upstream_stream == "always",
            )
            for server in source.servers
        ]
        if len(engines) == 1:
            return engines[0]
        pairs = zip(engines, source.servers, strict=True)
        return UpstreamsEngine([Upstream(engine, server.url, server.weight) for engine, server in pairs])

    return _EngineFactory(opened, lambda: identity(", ".join(server.url for server in source.servers), source.model))


def _fake(_model: ModelVersion, settings: Settings) -> _EngineFactory:
    from llmops.engines.fake import FakeEngine

    engine = FakeEngine(slots=settings.engine_slots)
    return _EngineFactory(lambda: engine, lambda: engine.identity)


def _python(model: ModelVersion, settings: Settings) -> _EngineFactory:
    if not isinstance(model, CallableModel) or model.call is None:
        raise UsageError(f"{model.ref} is a Python callable: only llmops.evaluate, which is handed it, can ask it")
    call, slots = model.call, model.slots or settings.engine_slots
    return _EngineFactory(lambda: CallableEngine(call, model.identity, slots, model.timeout), lambda: model.identity)


# Of each engine the formats that it can open, and how. The first that can is a format's default.
_ENGINES = {
    "llamacpp": (frozenset({"gguf"}), _llamacpp),
    "openvino": (frozenset({"gguf"}), _openvino),
    "transformers": (frozenset({"hf", "gguf"}), _transformers),
    "openai": (frozenset({"openai"}), _openai),
    "fake": (frozenset({"gguf", "hf", "openai"}), _fake),
    PYTHON: (frozenset({PYTHON}), _python),
}
ENGINE_NAMES = tuple(name for name in _ENGINES if name != PYTHON)
"""Those that may be asked for by name."""


def engine_name(model: ModelVersion, settings: Settings, engine: str | None = None) -> str:
    """Which engine opens `model`: the one asked for, else the setting where it can, else its format's default. Raises
    UsageError: no such engine, or it was asked for and cannot open the model's format."""
    default = next((name for name, (formats, _) in _ENGINES.items() if model.format in formats), None)
    if default is None:
        raise UsageError(f"no engine opens {model.ref}, whose format is {model.format}")
    asked = engine or settings.engine or default
    if asked not in ENGINE_NAMES and asked != default:
        raise UsageError(f"unknown engine {asked!r}; known: {', '.join(ENGINE_NAMES)}")
    if model.format in _ENGINES[asked][0]:
        return asked
    if engine is None:  # the setting is a preference for models it fits
        return default
    raise UsageError(f"the {asked} engine cannot open {model.ref}, whose format is {model.format}")


def engine_identity(model: ModelVersion, settings: Settings, engine: str | None = None) -> EngineIdentity:
    """The identity that the engine for `model` will have, without loading it. Raises UsageError."""
    return _ENGINES[engine_name(model, settings, engine)][1](model, settings).identify()


def check_parameters(
    model: ModelVersion, settings: Settings, parameters: GenerationParameters, engine: str | None = None
) -> None:
    """Raises UsageError when the engine for `model` cannot enforce the response format: named as requests are refused.

    For an upstream it is the upstream's to say.
    """
    if parameters.response_format is not None:
        try:
            _ENGINES[engine_name(model, settings, engine)][1](model, settings).check(parameters.response_format)
        except EngineRejected as error:
            raise UsageError(str(error)) from error


def open_engine(model: ModelVersion, settings: Settings, engine: str | None = None) -> Engine:
    """Loads `model`, after checking its bytes against the recorded sha256. Blocking: seconds for a small model.

    Raises:
        UsageError: as `engine_name`. Corrupted: the weights are not what was registered. CannotRun: they are missing.
        EngineUnavailable: the engine's package or upstream is missing.
    """
    name = engine_name(model, settings, engine)
    try:
        return _ENGINES[name][1](model, settings).open()
    except MemoryError as error:
        raise CannotRun(f"{model.ref}: not enough memory to load it with the {name} engine") from error
    except OSError as error:
        raise Corrupted(f"{model.ref}: the {name} engine cannot read its weights: {error}") from error


logger = logging.getLogger("llmops.service")
EngineOpener = Callable[[ModelVersion], Engine]
"""Opens a model; blocks while weights load. Raises EngineError or another CannotRun."""
EngineKey = tuple[str, str]


def engine_key(model: ModelVersion) -> EngineKey:
    """The same for models that can share an engine."""
    # An upstream server has no weights to hash; its address is its identity.
    return (model.format, model.sha256 or model.source)


class EnginePool(ModelCache[ModelVersion, Engine]):
    """Engines by model content, so that two names of the same weights share one engine."""

    def __init__(self, open_engine: EngineOpener, *, most_idle: int = 3) -> None:
        super().__init__(open_engine, engine_key, most_idle=most_idle)

    @asynccontextmanager
    async def lease(self, model: ModelVersion) -> AsyncIterator[Engine]:
        """The model's engine, loaded when it is not yet; it stays open until the block ends. Raises EngineUnavailable:
        it cannot be loaded; the next lease tries again."""
        entry = self._entry(model)
        entry.users += 1
        try:
            yield await self._loaded(entry)
        finally:
            entry.users -= 1
            if entry.users == 0:
                self._evict()

    @property
    def modes(self) -> dict[str, dict[str, Any]]:
        """Model ref → what its open engine is, with every setting that can change a greedy answer."""
        entries = self._entries.values()
        return {entry.version.ref: asdict(entry.model.identity) for entry in entries if entry.model is not None}

    @property
    def problems(self) -> list[str]:
        """What loaded engines say of the servers behind them: a line for each that gets no requests now."""
        engines = (entry.model for entry in self._entries.values())
        return [problem for engine in engines if isinstance(engine, RelayingEngine) for problem in engine.problems()]

    async def dispose(self, model: Engine, ref: str) -> None:
        """Closes an engine that left the pool."""
        try:
            await model.close()
        except Exception:
            logger.exception("model %s: its engine did not close cleanly", ref)
