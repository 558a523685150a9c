"""What workers and the engine process say to each other: one JSON object a line.

A connection carries one operation: the worker sends it as its only frame, the engine process answers with frames until
it closes. Closing the connection cancels the operation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import orjson

from llmops.engines.protocol import EngineIdentity
from llmops.errors import EngineError
from llmops.generation import Chunk, Further, GenerationParameters, GenerationRequest, Message, Usage
from llmops.versions import ModelVersion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_FRAME_BYTES = 64 * 2**20
"""Largest frame either side takes: far above any request that the gateway lets in."""

Frame = Mapping[str, Any]

Rows: TypeAlias = "Sequence[Sequence[float]] | NDArray[np.float32]"
"""Vectors, each of the same length."""


class BadFrame(ValueError):
    """Bytes that are no frame, or a frame that means nothing here."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load the model, say what its engine is, and keep it loaded until the connection closes."""

    model: ModelVersion


@dataclass(frozen=True, slots=True)
class Stream:
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


Operation = Load | Stream | Embed | Ping


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the engine of a model is."""

    identity: EngineIdentity
    slots: int
    honours: frozenset[str]


@dataclass(frozen=True, slots=True)
class Started:
    """The request has its slot. queued_s: seconds it waited for the model and the slot."""

    queued_s: float


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


Answer = Loaded | Started | Chunk | Vectors | Pong | End | EngineError


class FrameSplitter:
    """Cuts the bytes that arrive into frames."""

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit, self._rest = limit, bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now that `data` has come. Raises BadFrame."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > self._limit or any(len(line) > self._limit for line in lines):
            raise BadFrame(f"a frame is larger than {self._limit} bytes")
        return map(_frame, lines)


def _frame(line: bytes) -> Frame:
    try:
        frame = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadFrame(f"not JSON: {error}") from error
    if not isinstance(frame, dict):
        raise BadFrame("not an object")
    return frame


def pack(item: Operation | Answer) -> bytes:
    """The frame of an operation or an answer. Raises BadFrame: it holds what JSON cannot, or is too large."""
    try:
        line = orjson.dumps(_plain(item), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise BadFrame(f"cannot be written as JSON: {error}") from error
    if len(line) > MAX_FRAME_BYTES:
        raise BadFrame(f"larger than {MAX_FRAME_BYTES} bytes")
    return line


def _plain(item: Operation | Answer) -> dict[str, Any]:
    if isinstance(item, (Load, Stream, Embed, Ping)):
        return _operation_fields(item)
    if isinstance(item, Chunk):
        return {"chunk": _chunk_fields(item)}
    if isinstance(item, EngineError):
        return {"error": _error_fields(item)}
    return _answer_fields(item)


def _operation_fields(item: Operation) -> dict[str, Any]:
    match item:
        case Stream():
            return {"op": "stream", "model": _model_fields(item.model), "request": _request_fields(item.request)}
        case Load():
            return {"op": "load", "model": _model_fields(item.model)}
        case Embed():
            return {"op": "embed", "texts": item.texts}
        case Ping():
            return {"op": "ping"}


def _answer_fields(item: Loaded | Started | Vectors | Pong | End) -> dict[str, Any]:
    match item:
        case Started():
            return {"started": item.queued_s}
        case End():
            return {"end": True}
        case Loaded():
            identity, honours = item.identity.to_mapping(), sorted(item.honours)
            return {"loaded": {"identity": identity, "slots": item.slots, "honours": honours}}
        case Vectors():
            return {"vectors": {"rows": item.rows, "tokens": item.tokens}}
        case Pong():
            return {"pong": {"models": item.models, "restarts": item.restarts}}


def operation(frame: Frame) -> Operation:
    """The operation that a worker's frame asks for. Raises BadFrame."""
    try:
        match frame["op"]:
            case "load":
                return Load(_model(frame["model"]))
            case "stream":
                return Stream(_model(frame["model"]), _request(frame["request"]))
            case "embed":
                return Embed(tuple(frame["texts"]))
            case "ping":
                return Ping()
            case unknown:
                raise BadFrame(f"unknown operation {unknown!r}")
    except (KeyError, TypeError, AttributeError) as error:
        raise BadFrame(f"not an operation: {error!r}") from error


def answer(frame: Frame) -> Answer:
    """What the engine process's frame says. Raises BadFrame."""
    try:
        (kind, value), *_ = frame.items()
        match kind:
            case "chunk":
                return _chunk(value)
            case "started":
                return Started(float(value))
            case "end":
                return End()
            case "loaded":
                identity = EngineIdentity(**value["identity"])
                return Loaded(identity, value["slots"], frozenset(value["honours"]))
            case "vectors":
                return Vectors(value["rows"], int(value["tokens"]))
            case "pong":
                return Pong(value["models"], value["restarts"])
            case "error":
                return _error(value)
            case unknown:
                raise BadFrame(f"unknown answer {unknown!r}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise error if isinstance(error, BadFrame) else BadFrame(f"not an answer: {error!r}") from error


def _model_fields(model: ModelVersion) -> dict[str, Any]:
    fields = {item.name: getattr(model, item.name) for item in dataclasses.fields(model)}
    return {**fields, "path": None if model.path is None else str(model.path), "provenance": dict(model.provenance)}


def _model(fields: Mapping[str, Any]) -> ModelVersion:
    path = fields["path"]
    return ModelVersion(**{**fields, "path": None if path is None else Path(path), "aliases": tuple(fields["aliases"])})


def _request_fields(request: GenerationRequest) -> dict[str, Any]:
    return {
        "messages": request.messages,
        "parameters": request.parameters.to_mapping(),
        "extras": dict(request.extras),
        "whole": request.whole,
        "headers": dict(request.headers),
        "beginning": request.beginning,
    }


def _request(fields: Mapping[str, Any]) -> GenerationRequest:
    parameters = {**fields["parameters"], "stop": tuple(fields["parameters"]["stop"])}
    turns = {name: cast(tuple[Message, ...], tuple(fields[name])) for name in ("messages", "beginning")}
    return GenerationRequest(**{**fields, **turns, "parameters": GenerationParameters(**parameters)})


def _chunk_fields(chunk: Chunk) -> dict[str, Any]:
    """Most chunks are a few letters of text; what a chunk lacks is left out."""
    fields: dict[str, Any] = {"text": chunk.text}
    if chunk.finish_reason is not None:
        fields["finish_reason"] = chunk.finish_reason
    if chunk.usage is not None:
        fields["usage"] = (chunk.usage.tokens_in, chunk.usage.tokens_out, chunk.usage.reported)
    if chunk.index:
        fields["index"] = chunk.index
    if chunk.tool_calls:
        fields["tool_calls"] = chunk.tool_calls
    if chunk.logprobs:
        fields["logprobs"] = chunk.logprobs
    if chunk.queued_s is not None:
        fields["queued_s"] = chunk.queued_s
    if chunk.further is not None:
        fields["further"] = [dict(part) for part in chunk.further]
    return fields


def _chunk(fields: dict[str, Any]) -> Chunk:
    if usage := fields.get("usage"):
        fields["usage"] = Usage(*usage)
    if further := fields.get("further"):
        fields["further"] = Further(*further)
    return Chunk(**fields)


def _kinds(root: type[EngineError]) -> dict[str, type[EngineError]]:
    found = {root.__name__: root}
    for kind in root.__subclasses__():
        found |= _kinds(kind)
    return found


_ERROR_KINDS = _kinds(EngineError)
_ERROR_DETAILS = ("retry_after", "lasting", "param", "reason")


def _error_fields(error: EngineError) -> dict[str, Any]:
    details = {name: getattr(error, name) for name in _ERROR_DETAILS if hasattr(error, name)}
    return {"kind": type(error).__name__, "message": str(error), "details": details}


def _error(fields: Mapping[str, Any]) -> EngineError:
    return _ERROR_KINDS[fields["kind"]](fields["message"], **fields["details"])
