"""A Python callable as an engine: an agent, a chain, anything that takes a row's inputs and returns text.

What a callable asks may have changed since it was asked last, and nobody can see that. So its answers are kept for the
one evaluation that asked for them, unless whoever hands it in names a version.
"""

import asyncio
import contextvars
import inspect
import json
import platform
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmops.engines.protocol import EngineIdentity
from llmops.errors import EngineRejected, UsageError
from llmops.generation import UNKNOWN_USAGE, Chunk, GenerationRequest
from llmops.hashing import content_hash, source_of
from llmops.processes import run_blocking
from llmops.versions import PYTHON, ModelVersion, Ref

MOST_SECONDS = 600.0
"""After which a call counts as one that gives no answer, unless the model says otherwise."""

Answering = Callable[[dict[str, Any]], str | Awaitable[str]]


@dataclass(frozen=True, slots=True)
class CallableModel(ModelVersion):
    """A callable in the place of a model version. call: takes a row's inputs and returns text, or an awaitable of it.
    asked: names the evaluation that its answers are kept for; None where it has a version. slots: how many calls may be
    under way at a time; None: as the settings say. timeout: seconds that a call may take."""

    call: Answering | None = None
    asked: str | None = None
    slots: int | None = None
    timeout: float = MOST_SECONDS

    @property
    def identity(self) -> EngineIdentity:
        """What the answers depend on besides the callable's own source, which is the model version's hash."""
        settings: Mapping[str, Any] = self.provenance if self.asked is None else {"asked": self.asked}
        return EngineIdentity(PYTHON, platform.python_version(), settings)


def model(
    call: Answering,
    *,
    name: str | None = None,
    version: str | None = None,
    slots: int | None = None,
    timeout: float = MOST_SECONDS,
) -> CallableModel:
    """A callable (an agent, a chain) that `evaluate` asks in the place of a model: with a row's inputs, a dict; it
    returns text, or an awaitable of it.

    Args:
        call: what is asked; a plain function is called on several threads at a time.
        name: by which it is registered; by default the function's.
        version: of all that it depends on. Only with one are its answers taken from the cache by later evaluations.
        slots: calls under way at a time; by default `LLMOPS_ENGINE_SLOTS`.
        timeout: seconds after which a call is given up and its row fails. A plain function runs on in its thread, which
            nobody can end, and ends with the process at the latest.

    Raises UsageError: it has no name that can be registered.
    """
    if not callable(call):
        raise UsageError(f"models: {call!r} is neither the name of a model version nor callable")
    name = name or str(getattr(call, "__name__", type(call).__name__))
    try:
        Ref.parse(name)
    except UsageError as error:
        raise UsageError(
            f"{name} cannot be registered under this name: llmops.model(…, name=…) gives another"
        ) from error
    if slots is not None and slots < 1:
        raise UsageError("slots: must be 1 or more")
    if not timeout > 0:
        raise UsageError("timeout: must be more than 0 seconds")
    where = call if hasattr(call, "__qualname__") else type(call)
    source = f"{PYTHON}:{where.__module__}:{where.__qualname__}"
    provenance = {} if version is None else {"version": str(version)}
    sha256 = content_hash({"source": source_of(call), **provenance})
    return CallableModel(
        name, 0, source, PYTHON, sha256, provenance=provenance, call=call, slots=slots, timeout=timeout
    )


class CallableEngine:
    """Asks a callable. One that raises, returns no text or takes too long fails that row at once: it is not asked
    again. timeout: seconds."""

    supported_extras: frozenset[str] = frozenset()

    def __init__(self, call: Answering, identity: EngineIdentity, slots: int, timeout: float = MOST_SECONDS) -> None:
        self.identity, self.slots = identity, slots
        self._call, self._timeout = call, timeout

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        inputs = json.loads(request.messages[-1]["content"])
        call = partial(contextvars.copy_context().run, self._call, inputs)
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                text: Any = await run_blocking(call, name="llmops-callable")
                if inspect.isawaitable(text):
                    text = await text
        except Exception as error:
            if limit.expired():
                raise EngineRejected(f"no answer within {self._timeout:g} s") from error
            raise EngineRejected(f"{type(error).__name__}: {error}") from error
        if not isinstance(text, str):
            raise EngineRejected(f"it returned {type(text).__name__}, not text")
        yield Chunk(text)
        yield Chunk("", "stop", UNKNOWN_USAGE)

    async def close(self) -> None:
        """Nothing is held."""
