"""Answers as the servers of docs/upstreams.md shape them: `SHAPES[name]` has one whole and streamed.

An upstream that answers with `answer` gives the shape that the last message of the user names.
"""

import json
from dataclasses import dataclass
from typing import Any

from tests.engines.upstream_server import STREAM_HEAD, Seen, Send, chunked, reply, sse

USAGE = {
    "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3, "accepted_prediction_tokens": 2},
    "cost": 0.25,
}  # fmt: skip
DONE = "[DONE]"


@dataclass(frozen=True)
class Shape:
    """whole: the body of a reply that is not streamed, and its status. events: of one that is; bytes are sent as they
    are."""

    whole: Any = None
    events: tuple[Any, ...] | bytes = ()
    status: int = 200


def message(content: Any = "Hello", finish: Any = "stop", usage: Any = USAGE, **fields: Any) -> dict[str, Any]:
    """A whole reply with one answer."""
    said = {"role": "assistant", "content": content, **fields}
    return _object("chat.completion", choices=[{"index": 0, "message": said, "finish_reason": finish}], usage=usage)


def piece(finish: Any = None, choice: dict[str, Any] | None = None, **delta: Any) -> dict[str, Any]:
    """An event of one answer."""
    return _object(
        "chat.completion.chunk", choices=[{"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}]
    )


def _object(kind: str, **fields: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-shape", "object": kind, "created": 1700000000, "model": "big", **fields}


FILTERED = _object("chat.completion.chunk", choices=[], prompt_filter_results=[])
USED = _object("chat.completion.chunk", choices=[], usage=USAGE)


def call(index: int | None, name: str | None, arguments: Any, identity: str | None, **more: Any) -> dict[str, Any]:
    """A tool call, or a piece of one."""
    function = {"name": name, "arguments": arguments}
    told = {"index": index, "id": identity, "type": "function", "function": function, **more}
    function |= {} if arguments is not None else {"arguments": ""}
    return {key: value for key, value in told.items() if value is not None}


WEATHER, CLOCK = '{"city":"Oslo"}', '{"zone":"CET"}'
BOTH = [call(None, "weather", WEATHER, "call_a"), call(None, "clock", CLOCK, "call_b")]
START = {"role": "assistant", "content": ""}
TOOLS = {"role": "assistant", "content": None}
_LOGPROB = {"token": "Hello", "logprob": -0.1, "bytes": [72], "top_logprobs": []}


def _calls(*deltas: dict[str, Any], finish: str = "tool_calls") -> tuple[Any, ...]:
    return (
        *(piece(**(TOOLS if n == 0 else {}), tool_calls=[d]) for n, d in enumerate(deltas)),
        piece(finish),
        USED,
        DONE,
    )


def _text(*pieces: Any, finish: Any = "stop", **ending: Any) -> tuple[Any, ...]:
    return (piece(**START), *pieces, piece(finish, **ending), USED, DONE)


LINES = "a\u2028b\u0085c\u2029d\x1ce"
CUSTOM = {"id": "call_c", "type": "custom", "custom": {"name": "run", "input": ""}}
SIGNED = {"google": {"thought_signature": "s"}}
HELLO = (piece(content="Hel"), piece(content="lo"))

SHAPES: dict[str, Shape] = {
    "text": Shape(message(), _text(*HELLO)),
    "empty": Shape(message(""), _text()),
    "no content": Shape(message(None), (piece(role="assistant"), piece("stop"), USED, DONE)),
    "content in parts": Shape(
        message([{"type": "text", "text": "Hello"}]),
        (piece(role="assistant", content=[{"type": "text", "text": "Hello"}]), piece("stop"), USED, DONE),
    ),
    "refusal": Shape(
        message(None, refusal="I can't do that"),
        (piece(role="assistant", refusal="I can't"), piece(refusal=" do that"), piece("stop"), USED, DONE),
    ),
    "reasoning_content": Shape(
        message("42", reasoning_content="let me see"),
        _text(piece(reasoning_content="let me"), piece(reasoning_content=" see"), piece(content="42")),
    ),
    "reasoning": Shape(
        message("42", reasoning="let me see"),
        (piece(role="assistant", content="", reasoning="let me"), piece(role="assistant", content="", reasoning=" see"),
         piece(role="assistant", content="42"), piece("stop"), USED, DONE),
    ),
    "thinking": Shape(message("42", thinking="let me see"), _text(piece(thinking="let me see"), piece(content="42"))),
    "reasoning_details": Shape(
        message("42", reasoning_details=[{"type": "reasoning.text", "text": "let me see", "index": 0, "format": "x"}]),
        _text(
            piece(reasoning_details=[{"type": "reasoning.text", "text": "let me", "index": 0, "format": "x"}]),
            piece(reasoning_details=[{"type": "reasoning.text", "text": " see", "index": 0, "format": "x"}]),
            piece(content="42"),
        ),
    ),
    "tools": Shape(
        message(None, "tool_calls", tool_calls=BOTH),
        _calls(
            call(0, "weather", "", "call_a"), call(0, None, '{"city":', None), call(1, "clock", "", "call_b"),
            call(0, None, '"Oslo"}', None), call(1, None, CLOCK, None),
        ),
    ),
    "fields in a function, and a long id": Shape(
        message(None, "tool_calls", tool_calls=[
            {**BOTH[0], "id": "call_" + "s" * 1_000, "function": {**BOTH[0]["function"], "note": {"a": [1]}}}]),
    ),
    "content without parts": Shape(message([])),
    "tools and text": Shape(
        message("I look", "tool_calls", tool_calls=BOTH),
        (piece(**START), piece(content="I look"), piece(tool_calls=[call(0, "weather", WEATHER, "call_a")]),
         piece(tool_calls=[call(1, "clock", CLOCK, "call_b")]), piece("tool_calls"), USED, DONE),
    ),
    "tools that end with stop": Shape(
        message(None, "stop", tool_calls=BOTH), _calls(call(0, "weather", WEATHER, "call_a"), finish="stop")
    ),
    "fields in a call": Shape(
        message(None, "tool_calls", tool_calls=[call(None, "weather", WEATHER, "call_a", extra_content=SIGNED)]),
        _calls(call(0, "weather", WEATHER, "call_a", extra_content=SIGNED)),
    ),
    "unknown finish": Shape(message("Hello", "repetition"), _text(*HELLO, finish="repetition")),
    "null finish": Shape(message("Hello", None), (piece(**START), *HELLO, USED, DONE)),
    "cut off": Shape(message("Hello", "length"), _text(*HELLO, finish="length")),
    "usage null": Shape(message(usage=None), (piece(**START), *HELLO, piece("stop"), DONE)),
    "usage in part": Shape(
        message(usage={"prompt_tokens": 9, "total_tokens": 9}),
        (piece(**START), *HELLO, piece("stop"), {**USED, "usage": {"prompt_tokens": 9, "total_tokens": 9}}, DONE),
    ),
    "usage with the finish": Shape(None, (piece(**START), *HELLO, {**piece("stop"), "usage": USAGE}, DONE)),
    "usage with every event": Shape(
        None, (piece(**START), *({**each, "usage": {**USAGE, "completion_tokens": n}} for n, each in enumerate(HELLO)),
               piece("stop"), USED, DONE)
    ),
    "logprobs": Shape(
        {**message(), "choices": [{**message()["choices"][0], "logprobs": {"content": [_LOGPROB], "refusal": None}}]},
        _text(piece(content="Hello", choice={"logprobs": {"content": [_LOGPROB], "refusal": None}})),
    ),
    "fields of vLLM": Shape(
        {**message(refusal=None, annotations=None, audio=None), "service_tier": None, "system_fingerprint": None,
         "prompt_logprobs": None, "kv_transfer_params": None},
        _text(*HELLO, choice={"stop_reason": 128009, "token_ids": None}),
    ),
    "fields of OpenRouter": Shape(
        {**message(annotations=[{"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A",
                                                                          "start_index": 0, "end_index": 5}}]),
         "provider": "Someone", "system_fingerprint": "fp"},
        tuple({**each, "provider": "Someone"} if isinstance(each, dict) else each
              for each in _text(*HELLO, choice={"native_finish_reason": "STOP"})),
    ),
    "fields of llama.cpp": Shape(
        {**message(), "timings": {"prompt_n": 3, "predicted_ms": 1.5}, "system_fingerprint": "b1-2"},
        (piece(**START), *HELLO, {**piece("stop"), "timings": {"prompt_n": 3}}, USED, DONE),
    ),
    "fields at the end": Shape(
        {**message(), "citations": ["https://a.example"]},
        (piece(**START), *HELLO, piece("stop"),
         {**USED, "citations": ["https://a.example"], "service_tier": "flex"}, DONE),
    ),
    "nulls of SGLang": Shape(
        {**message(reasoning_content=None, tool_calls=None), "metadata": {"weight_version": "default"}},
        (piece(role="assistant", content="", reasoning_content=None, tool_calls=None),
         piece(role=None, content="Hello", reasoning_content=None, tool_calls=None, choice={"matched_stop": None}),
         piece("stop", role=None, content=None, reasoning_content=None, tool_calls=None, choice={"matched_stop": 2}),
         USED, DONE),
    ),
    "audio": Shape(
        message(None, audio={"id": "audio_1", "data": "AAAA", "transcript": "Hello", "expires_at": 1}),
        (piece(role="assistant", audio={"id": "audio_1", "data": "AA"}),
         piece(audio={"data": "AA", "transcript": "Hello"}), piece("stop"), USED, DONE),
    ),
    "empty events": Shape(None, _text(piece(), FILTERED, *HELLO)),
    "text with the finish": Shape(None, _text(piece(content="Hel"), content="lo")),
    "line separators": Shape(message(LINES), _text(piece(content=LINES))),
    "finish reasons that are empty texts": Shape(
        None, (piece("", **START), *(piece("", content=text) for text in ("Hel", "lo")), piece("stop"), USED, DONE)
    ),
    "all in one event": Shape(None, ({**piece("stop", role="assistant", content="Hello"), "usage": USAGE}, DONE)),
    "a custom call": Shape(
        message(None, "tool_calls", tool_calls=[{**CUSTOM, "custom": {"name": "run", "input": "ls"}}]),
        (piece(**TOOLS, tool_calls=[{"index": 0, **CUSTOM}]),
         *(piece(tool_calls=[{"index": 0, "custom": {"input": letter}}]) for letter in "ls"),
         piece("tool_calls"), USED, DONE),
    ),
}  # fmt: skip

"""Those that clients must see as they are."""


def _choices(*choices: tuple[int, dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    told = [{"index": index, "delta": delta, "finish_reason": finish} for index, delta in choices]
    return _object("chat.completion.chunk", choices=told)


TWO_ANSWERS: dict[str, Shape] = {
    "both begin, then speak in turn": Shape(None, (
        _choices((0, START)), _choices((1, START)), _choices((1, {"content": "b"})), _choices((0, {"content": "a"})),
        _choices((0, {}), (1, {}), finish="stop"), USED, DONE,
    )),
    "calls of both in turn": Shape(None, (
        _choices((0, {**TOOLS, "tool_calls": [call(0, "weather", "", "call_a")]}),
                 (1, {**TOOLS, "tool_calls": [call(0, "clock", "", "call_b")]})),
        _choices((1, {"tool_calls": [call(0, None, CLOCK, None)]})),
        _choices((0, {"tool_calls": [call(0, None, WEATHER, None)]})),
        _choices((0, {}), (1, {}), finish="tool_calls"), USED, DONE,
    )),
}  # fmt: skip
"""Likewise, of requests with `n` of 2."""

ODD_TOOLS: dict[str, Shape] = {
    "arguments as an object": Shape(
        message(None, "tool_calls", tool_calls=[
            call(None, "weather", json.loads(WEATHER), "call_a"), call(None, "clock", json.loads(CLOCK), "call_b")]),
        _calls(call(0, "weather", json.loads(WEATHER), "call_a"), call(1, "clock", json.loads(CLOCK), "call_b")),
    ),
    "no type": Shape(
        message(None, "tool_calls", tool_calls=[{**each, "type": None} for each in BOTH]),
        _calls(*({**each, "type": None, "index": n} for n, each in enumerate(BOTH))),
    ),
    "both of index 0": Shape(
        message(None, "tool_calls", tool_calls=[{**each, "index": 0} for each in BOTH]),
        _calls(*({**each, "index": 0} for each in BOTH)),
    ),
    "no index": Shape(message(None, "tool_calls", tool_calls=BOTH), _calls(*BOTH)),
    "counted from 1": Shape(
        message(None, "tool_calls", tool_calls=[{**each, "index": n} for n, each in enumerate(BOTH, 1)]),
        _calls(*({**each, "index": n} for n, each in enumerate(BOTH, 1))),
    ),
    "id and name in every piece": Shape(None, _calls(
        call(0, "weather", "", "call_a"), call(0, "weather", '{"city":', "call_a"),
        call(0, "weather", '"Oslo"}', "call_a"),
        call(1, "clock", CLOCK, "call_b"),
    )),
    "empty id and name in later pieces": Shape(None, _calls(
        call(0, "weather", "", "call_a"), {**call(0, "", '{"city":', ""), "type": ""}, call(0, "", '"Oslo"}', ""),
        call(1, "clock", CLOCK, "call_b"),
    )),
    "pieces of two calls of index 0": Shape(None, _calls(
        call(0, "weather", '{"city":', "call_a"), call(0, "clock", "", "call_b"), call(0, None, '"Oslo"}', "call_a"),
        call(0, None, CLOCK, "call_b"),
    )),
    "another id in every piece": Shape(None, _calls(
        call(0, "weather", "", "call_a"), call(0, None, '{"city":', "call_x"), call(0, None, '"Oslo"}', "call_y"),
        call(1, "clock", CLOCK, "call_b"),
    )),
    "another id in every piece, with the name": Shape(None, _calls(
        call(0, "weather", '{"city":', "call_a"), call(0, "weather", '"Oslo"}', "call_x"),
        call(0, "clock", CLOCK, "call_b"),
    )),
    "as a whole message in an event": Shape(None, (
        _object("chat.completion.chunk", choices=[
            {"index": 0, "message": message(None, tool_calls=BOTH)["choices"][0]["message"], "finish_reason": "stop"}]),
        DONE,
    )),
    "name after the id": Shape(None, _calls(
        {"index": 0, "id": "call_a", "type": "function"}, {"index": 0, "function": {"name": "weather"}},
        call(0, None, WEATHER, None), call(1, "clock", CLOCK, "call_b"),
    )),
}  # fmt: skip
"""Those in which every client must see the calls `BOTH`, numbered from 0."""

NO_IDS: dict[str, Shape] = {
    "no ids": Shape(
        message(None, "tool_calls", tool_calls=[{**each, "id": None} for each in BOTH]),
        _calls(*({**each, "id": None, "index": 0} for each in BOTH)),
    ),
    "neither ids nor numbers": Shape(None, _calls(*({**each, "id": None} for each in BOTH))),
    "empty ids": Shape(None, _calls(*({**each, "id": ""} for each in BOTH))),
}
"""The same, but that each needs an id before a client can answer it."""

_ERROR = {"message": "no room", "type": "invalid_request_error", "code": 400, "param": "messages"}
_NEGATIVE = {"prompt_tokens": -4, "completion_tokens": -2, "total_tokens": -6}
_NEGATIVE_DETAIL = {**USAGE, "completion_tokens_details": {"reasoning_tokens": -3}}
_BROKEN_DETAILS = {**USAGE, "prompt_tokens_details": "none"}
_OLDER_CHOICE = {"index": 0, "text": "of a text completion", "finish_reason": "stop"}
_BAD_CHOICE = {**message()["choices"][0], "index": 9}

FAILURES: dict[str, Shape] = {
    "400: error of OpenAI": Shape({"error": _ERROR}, ({"error": _ERROR},)),
    "400: error of OpenAI as status": Shape({"error": _ERROR}, status=400),
    "400: error of vLLM": Shape({"object": "error", **_ERROR}, ({"object": "error", **_ERROR},)),
    "400: error of TGI": Shape(
        {"error": "no room", "error_type": "validation"}, (b'{"error":"no room","error_type":"validation"}',)
    ),
    "400: error in an event of that name": Shape(None, b'event: error\ndata: {"message":"no room","code":400}\n\n'),
    "400: error in a field of that name": Shape(None, b'error: {"code":400,"message":"no room"}\n\n'),
    "503: error of too many": Shape(
        {"error": {"message": "no room", "code": "429"}},
        ({"error": {"message": "no room", "type": "rate_limit_error"}},),
    ),
    "502: error of OpenRouter": Shape(
        {"error": {"message": "no room", "code": 502}},
        ({**piece("error", content=""), "error": {"message": "no room", "code": 502}},),
    ),
    "502: error in the choice": Shape(
        {
            **message(),
            "choices": [{**message("", "error")["choices"][0], "error": {"message": "no room", "code": 502}}],
        },
        (piece(None, {"error": {"message": "no room", "code": 502}}),),
    ),
    "502: finish_reason 'error'": Shape(message("abc", "error"), _text(finish="error")),
    "502: finish_reason 'abort'": Shape(message("abc", "abort"), _text(finish="abort")),
    "502: usage.prompt_tokens = -4": Shape(
        message(usage=_NEGATIVE), (piece(**START), {**piece("stop"), "usage": _NEGATIVE}, DONE)
    ),
    "502: usage.completion_tokens_details.reasoning_tokens = -3": Shape(
        message(usage=_NEGATIVE_DETAIL), (piece(**START), {**piece("stop"), "usage": _NEGATIVE_DETAIL}, DONE)
    ),
    "502: usage.prompt_tokens_details that is no object": Shape(
        message(usage=_BROKEN_DETAILS), (piece(**START), {**piece("stop"), "usage": _BROKEN_DETAILS}, DONE)
    ),
    "400: error in a list of one, as Gemini's": Shape([{"error": _ERROR}], ([{"error": _ERROR}],)),
    "400: error in a list of one as status": Shape([{"error": _ERROR}], status=400),
    "400: body.x: too large": Shape({"detail": [{"loc": ["body", "x"], "msg": "too large", "type": "e"}]}, status=422),
    "400: body.n: too many": Shape(
        {"object": "error", "message": {"detail": [{"loc": ["body", "n"], "msg": "too many"}]}}, status=422
    ),
    "502: error in a list of Cloudflare's": Shape(
        {"errors": [{"message": "no room", "code": 7003}], "success": False},
        ({"errors": [{"message": "no room", "code": 7003}], "success": False},),
    ),
    "400: error as plain text": Shape(b"no room", status=422),
    "503: error of an overloaded server": Shape({"error": _ERROR}, status=529),
    "502: finish_reason 'network_error'": Shape(message("abc", "network_error"), _text(finish="network_error")),
    "502: an answer without a message": Shape(
        {**message(), "choices": [_OLDER_CHOICE]}, (_object("text_completion", choices=[_OLDER_CHOICE]), DONE)
    ),
    "502: a tool call without a name": Shape(
        message(None, "tool_calls", tool_calls=[{}]),
        (piece(**TOOLS, tool_calls=[{"index": 0}]), piece("tool_calls"), DONE),
    ),
    "502: an answer of index 9 where one answer was asked for": Shape(
        {**message(), "choices": [_BAD_CHOICE]}, ({"choices": [{**piece()["choices"][0], "index": 9}]},)
    ),
    "502: no answer": Shape({**message(), "choices": []}, (DONE,)),
    "502: not JSON": Shape(None, ("{",)),
    "503: the stream ended before the answer did": Shape(None, (piece(**START),)),
    "503: the stream ended": Shape(None, b""),
}
"""Each is a failure, of the status and for the reason in its name; where that begins with `error`, it is `no room`."""


async def answer(seen: Seen, send: Send) -> bool:
    """The shape that the user names."""
    asked = [each["content"] for each in seen.body["messages"] if each["role"] == "user"][-1]
    shape = {**SHAPES, **TWO_ANSWERS, **ODD_TOOLS, **NO_IDS, **FAILURES}[asked]
    if shape.status != 200 or not seen.body.get("stream"):
        return await reply(shape.status, shape.whole)(seen, send)
    events = shape.events if isinstance(shape.events, bytes) else sse(*shape.events)
    await send(STREAM_HEAD + chunked(events) + b"0\r\n\r\n")
    return True
