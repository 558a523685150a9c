"""A scripted model behind OpenAI's chat route: it copies JSON, counts, tells stories and calls tools as it is asked,
and misbehaves in the ways that a test names."""

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llmops.engine_check.keywords import KEYWORDS
from llmops.json_schema import AnswerSchema
from tests.engines.upstream_server import STREAM_HEAD, Seen, Send, chunked, reply, sse

CONFORMING: dict[str, Any] = {
    "type": 1, "enum": "red", "const": "red", "properties": {"a": 1}, "required": {"a": 1, "b": 2},
    "additionalProperties": {"a": 1}, "patternProperties": {"n1": 1}, "propertyNames": {"a": 1},
    "minProperties": {"a": 1, "b": 2}, "maxProperties": {"a": 1}, "dependentRequired": {"a": 1, "b": 2}, "items": [1],
    "prefixItems": ["a", 1], "minItems": [1, 2, 3, 4], "maxItems": [1], "uniqueItems": [1, 2], "contains": [9],
    "minLength": "elephants and trees", "maxLength": "red", "pattern (anchored)": "123",
    "pattern (not anchored)": "123",
    "format (date)": "2026-01-31", "format (date-time)": "2026-01-31T12:00:00Z", "format (email)": "a@example.org",
    "format (uuid)": "123e4567-e89b-12d3-a456-426614174000", "format (ipv4)": "10.0.0.1", "format (uri)": "http://a.org",
    "minimum (integer)": 11, "minimum (number)": 10.5, "maximum (integer)": 9, "maximum (number)": 9.5,
    "exclusiveMinimum": 11, "exclusiveMaximum": 9, "multipleOf": 10, "anyOf": True, "oneOf (at least one)": True,
    "oneOf (not both)": 7.5, "allOf": 50, "not": "red", "if (then)": {"a": 1, "b": 2}, "$ref": 1,
    "$ref (recursive)": {},
}  # fmt: skip
"""A value that follows the schema of each keyword's probe."""
_BY_SCHEMA = {json.dumps(each.schema, sort_keys=True): each for each in KEYWORDS}


@dataclass
class ScriptedModel:
    """`behave` answers as an `UpstreamServer` asks it to.

    enforces: names of keywords that answers follow; all where None. refuses: words that a request may not hold.
    obeys: fields of a request that are obeyed. always: a text that answers every request for JSON. slots: requests
    generated at a time. deaf: a generation goes on after its client has left. limit: requests in flight, beyond which
    it answers 429. piece_s: between two pieces.
    """

    enforces: frozenset[str] | None = None
    refuses: tuple[str, ...] = ()
    obeys: frozenset[str] = frozenset(
        {"stop", "seed", "n", "logprobs", "tools", "tool_choice", "parallel", "max_tokens"}
    )
    always: str | None = None
    context: int = 1000
    cuts: bool = False
    piece_s: float = 0.0
    slots: int = 64
    deaf: bool = False
    limit: int = 1000
    in_flight: int = 0
    _slots: asyncio.Semaphore | None = None
    _running: set[asyncio.Task[Any]] = field(default_factory=set)

    async def behave(self, seen: Seen, send: Send) -> bool:
        """Answers one request."""
        if seen.line.startswith("GET"):
            return await reply(200 if "/models" in seen.line else 404, {"data": [{"id": "scripted"}]})(seen, send)
        if refused := next((word for word in self.refuses if f'"{word}"' in seen.raw.decode()), None):
            error = {"error": {"message": f"{refused} is not supported ({seen.headers.get('authorization')})"}}
            return await reply(400, error)(seen, send)
        if self.in_flight >= self.limit:
            return await reply(429, {"error": {"message": "busy"}}, "retry-after: 7\r\n")(seen, send)
        words = sum(len(str(message["content"]).split()) for message in seen.body["messages"])
        if words > self.context and not self.cuts:
            error = {"message": "too long", "code": "context_length_exceeded", "type": "invalid_request_error"}
            return await reply(400, {"error": error})(seen, send)
        self.in_flight += 1
        try:
            return await self._answer(seen.body, min(words, self.context), send)
        finally:
            self.in_flight -= 1

    async def _answer(self, body: dict[str, Any], prompt_tokens: int, send: Send) -> bool:
        choices = [self._message(body, index) for index in range(body.get("n", 1) if "n" in self.obeys else 1)]
        tokens = sum(len(pieces) for pieces, _, _ in choices)
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
        if not body.get("stream"):
            await self._generate(tokens)
            answers = [
                {
                    "index": index,
                    "finish_reason": end,
                    "message": {"role": "assistant", "content": "".join(pieces), **more},
                }
                for index, (pieces, end, more) in enumerate(choices)
            ]
            return await reply(200, {"choices": answers, "usage": counts})(Seen("", {}, body), send)
        await send(STREAM_HEAD)
        for index, (pieces, end, more) in enumerate(choices):
            if more:
                await send(chunked(sse({"choices": [{"index": index, "delta": more}]})))
            await self._generate(len(pieces), lambda at, index=index, pieces=pieces: send(chunked(sse(
                {"choices": [{"index": index, "delta": {"content": pieces[at]}, **_logprobs(self, body, pieces[at])}]}
            ))))  # fmt: skip
            await send(chunked(sse({"choices": [{"index": index, "delta": {}, "finish_reason": end}]})))
        await send(chunked(sse({"choices": [], "usage": counts}, "[DONE]")) + b"0\r\n\r\n")
        return True

    async def _generate(self, tokens: int, say: Any = None) -> None:
        """Takes a slot for as long as the tokens take."""
        self._slots = self._slots or asyncio.Semaphore(self.slots)

        async def work() -> None:
            async with self._slots:
                for at in range(tokens):
                    await asyncio.sleep(self.piece_s)
                    if say is not None:
                        with suppress(ConnectionError):  # of a client that has left
                            await say(at)

        task = asyncio.ensure_future(work())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await (asyncio.shield(task) if self.deaf else task)

    def _message(self, body: dict[str, Any], index: int) -> tuple[list[str], str, dict[str, Any]]:
        """Pieces of one answer, its finish reason, and what else its message holds."""
        asked, system = body["messages"][-1]["content"], body["messages"][0]
        if body.get("response_format"):
            return [self._json(body["response_format"], asked)], "stop", {}
        if "Copy this JSON" in asked:
            return [asked.partition(": ")[2]], "stop", {}
        if body.get("tools") and "tools" in self.obeys and (calls := self._calls(body, asked)):
            return [], "tool_calls", {"tool_calls": calls}
        if system["role"] == "system":
            return ["pineapple"], "stop", {}
        if asked.startswith("What is 17"):
            return ["391"], "stop", {"reasoning_content": "20 times 17 is 340"}
        text = [f"{number} " for number in range(6, 2000)]
        if body.get("temperature"):
            sampled = random.Random(body.get("seed", 0) + index if "seed" in self.obeys else None)  # noqa: S311
            text = [f"{sampled.random()} " for _ in text]
        if "stop" in self.obeys and (stops := body.get("stop")):
            return text[: text.index(f"{stops[0]} ")], "stop", {}
        most = body["max_tokens"]
        if most > 40 and asked.startswith("Count"):
            return text[:20], "stop", {}
        return text[: most if "max_tokens" in self.obeys else most + 3], "length", {}

    def _json(self, response_format: dict[str, Any], asked: str) -> str:
        if self.always is not None:
            return self.always
        if response_format["type"] == "json_object":
            return "{}" if self.enforces is None or "json_object" in self.enforces else "Hello"
        schema, copy = response_format["json_schema"]["schema"], asked.partition(": ")[2]
        keyword = _BY_SCHEMA.get(json.dumps(schema["properties"]["value"], sort_keys=True))
        if keyword is None or (self.enforces is not None and keyword.name not in self.enforces):
            return copy
        follows = AnswerSchema(schema).problem(copy) is None
        return copy if follows else json.dumps({"value": CONFORMING[keyword.name]})

    def _calls(self, body: dict[str, Any], asked: str) -> list[dict[str, Any]]:
        choice = body.get("tool_choice", "auto") if "tool_choice" in self.obeys else "auto"
        if choice == "none" or (choice == "auto" and "Do not call" in asked):
            return []
        name = choice["function"]["name"] if isinstance(choice, dict) else "get_weather"
        cities = ["Paris", "Rome"] if "Rome" in asked else ["Paris"]
        if body.get("parallel_tool_calls") is False and "parallel" in self.obeys:
            cities = cities[:1]
        return [
            {"index": at, "id": f"call-{at}", "type": "function",
             "function": {"name": name, "arguments": json.dumps({"city": city})}}
            for at, city in enumerate(cities)
        ]  # fmt: skip


def _logprobs(model: ScriptedModel, body: dict[str, Any], piece: str) -> dict[str, Any]:
    if not body.get("logprobs") or "logprobs" not in model.obeys:
        return {}
    others = [{"token": "a", "logprob": -1.0}] * body["top_logprobs"]
    return {"logprobs": {"content": [{"token": piece, "logprob": -0.5, "top_logprobs": others}]}}
