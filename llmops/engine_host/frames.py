"""What workers and the engine process say to each other: one JSON object a line.

A connection carries one operation: the worker sends it as its only frame, the engine process answers with frames until
it closes. Closing the connection cancels the operation.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import orjson

from llmops.engines.protocol import EngineIdentity
from llmops.errors import EngineError
from llmops.generation import Chunk, ExtraFields, GenerationParameters, GenerationRequest, Usage
from llmops.versions import ModelVersion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_FRAME_BYTES = 64 * 2**20
"""Largest frame either side takes: far above any request that the gateway lets in."""
Frame = Mapping[str, Any]
T = TypeVar("T")

Rows: TypeAlias = "Sequence[Sequence[float]] | NDArray[np.float32]"
"""Vectors, each of the same length."""


class BadFrame(ValueError):
    """Bytes that are no frame, or a frame that means nothing here."""


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Load the model, say what its engine is, and keep it loaded until the connection closes."""

    model: ModelVersion


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Answer the request with the model, loading it when need be."""

    model: ModelVersion
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Embed:
    """Turn each text into a vector."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Say what is loaded, and how much is waiting."""


Operation = LoadModel | StreamAnswer | Embed | Ping


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the engine of a model is."""

    identity: EngineIdentity
    slots: int
    supported_extras: frozenset[str]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of the next texts, in their order. tokens: that the model read of them."""

    rows: Rows
    tokens: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping. models: by ref, see `EngineHost.report`. restarts: lives this process had before."""

    models: Mapping[str, Mapping[str, Any]]
    restarts: int


@dataclass(frozen=True, slots=True)
class End:
    """The operation is done; a connection that closes without it has failed."""


HostAnswer = Loaded | Chunk | Vectors | Pong | End | EngineError


class FrameSplitter(Generic[T]):
    """Cuts the bytes that arrive into frames. read: `operation` or `answer`. limit: bytes of a frame."""

    def __init__(self, read: Callable[[Frame], T], limit: int = MAX_FRAME_BYTES) -> None:
        self._read, self._limit, self._rest = read, limit, bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """What the frames say that are whole now that `data` has come. Raises BadFrame, perhaps on iteration."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > self._limit or any(len(line) > self._limit for line in lines):
            raise BadFrame(f"a frame is larger than {self._limit} bytes")
        try:
            return map(self._read, [orjson.loads(line) for line in lines])
        except orjson.JSONDecodeError as error:
            raise BadFrame(f"not JSON: {error}") from error


def pack(item: Operation | HostAnswer) -> bytes:
    """The frame of an operation or an answer: its fields by the name of its class. Raises BadFrame: it holds what JSON
    cannot, or is too large."""
    name: str = type(item).__name__
    fields: Any = item
    if isinstance(item, Chunk):  # most are a few letters of text: what a chunk lacks is left out
        fields = {"text": item.text}
        fields |= {name: value for name, value in zip(_RARE, _rare(item), strict=True) if value != _RARE[name]}
    elif isinstance(item, EngineError):
        details = {name: getattr(item, name) for name in _ERROR_DETAILS if hasattr(item, name)}
        name, fields = "EngineError", {"kind": name, "message": str(item), "details": details}
    try:
        option = orjson.OPT_APPEND_NEWLINE
        if "numpy" in sys.modules:  # orjson would import it, 15 MB of a process that has no arrays
            option |= orjson.OPT_SERIALIZE_NUMPY
        line = orjson.dumps({name: fields}, default=_plain, option=option)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise BadFrame(f"cannot be written as JSON: {error}") from error
    if len(line) > MAX_FRAME_BYTES:
        raise BadFrame(f"larger than {MAX_FRAME_BYTES} bytes")
    return line


def _plain(value: Any) -> Any:
    """What orjson does not write by itself: other mappings than dictionaries, named tuples, sets, paths."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, frozenset)):
        return list(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def operation(frame: Frame) -> Operation:
    """The operation that a worker's frame asks for. Raises BadFrame."""
    return _read(frame, _OPERATIONS, "an operation")


def answer(frame: Frame) -> HostAnswer:
    """What the engine process's frame says. Raises BadFrame."""
    return _read(frame, _ANSWERS, "an answer")


def _read(frame: Frame, readers: Mapping[str, Callable[..., T]], what: str) -> T:
    try:
        (name, fields), *_ = frame.items()
        return readers[name](**fields)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadFrame(f"not {what}: {error!r}") from error


def _model(*, path: str | None, aliases: Sequence[str], **fields: Any) -> ModelVersion:
    return ModelVersion(path=None if path is None else Path(path), aliases=tuple(aliases), **fields)


def _request(*, messages: Any, shared_prefix: Any, parameters: Mapping[str, Any], **fields: Any) -> GenerationRequest:
    decoding = GenerationParameters(**{**parameters, "stop": tuple(parameters["stop"])})
    return GenerationRequest(tuple(messages), decoding, shared_prefix=tuple(shared_prefix), **fields)


def _chunk(**fields: Any) -> Chunk:
    if usage := fields.get("usage"):
        fields["usage"] = Usage(**usage)
    if extra_fields := fields.get("extra_fields"):
        fields["extra_fields"] = ExtraFields(*extra_fields)
    return Chunk(**fields)


def _loaded(identity: Mapping[str, Any], slots: int, supported_extras: Sequence[str]) -> Loaded:
    return Loaded(EngineIdentity(**identity), slots, frozenset(supported_extras))


def _kinds(root: type[EngineError]) -> dict[str, type[EngineError]]:
    return {root.__name__: root} | {name: kind for each in root.__subclasses__() for name, kind in _kinds(each).items()}


_ERROR_KINDS = _kinds(EngineError)
_ERROR_DETAILS = ("retry_after", "lasting", "param", "reason")

_RARE = {each.name: each.default for each in dataclasses.fields(Chunk) if each.name != "text"}
_rare = attrgetter(*_RARE)

_OPERATIONS: Mapping[str, Callable[..., Operation]] = {
    "LoadModel": lambda model: LoadModel(_model(**model)),
    "StreamAnswer": lambda model, request: StreamAnswer(_model(**model), _request(**request)),
    "Embed": lambda texts: Embed(tuple(texts)),
    "Ping": Ping,
}
_ANSWERS: Mapping[str, Callable[..., HostAnswer]] = {
    "Chunk": _chunk,
    "End": End,
    "Loaded": _loaded,
    "Vectors": Vectors,
    "Pong": Pong,
    "EngineError": lambda kind, message, details: _ERROR_KINDS[kind](message, **details),
}
