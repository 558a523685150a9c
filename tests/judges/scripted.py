"""A judge that says what a function tells it to.

with ScriptedJudge(lambda request: '{"rationale": "fine", "score": "pass"}') as judge:
    client = JudgeClient(judge.endpoint)
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Self

from llmops.judges.client import JudgeEndpoint
from tests.engines.upstream_server import Seen, Send, reply, serving, whole

Reply = str | tuple[int, Mapping[str, str], str]
Answer = Callable[[dict[str, Any]], Reply]


def completion(text: str, finish_reason: str = "stop") -> str:
    """The body of a chat completion that says `text`."""
    said = whole(text, id="scripted", created=0, model="scripted")  # as MLflow asks for
    said["choices"][0]["finish_reason"] = finish_reason
    return json.dumps(said)


class ScriptedJudge:
    """An OpenAI-compatible server on a free loopback port while the context lasts.

    answer: from a request's JSON body to the text of a completion, or to a whole reply (status, headers, body). What it
    raises becomes a reply of status 500 that names it. settings: of `endpoint`, which leads here. requests: every
    request, in the order of arrival.
    """

    def __init__(self, answer: Answer, **settings: Any) -> None:
        self._answer, self._settings = answer, settings
        self.requests: list[Seen] = []
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self.base_url = self._running.enter_context(serving(self._behave)).url
        self.endpoint = JudgeEndpoint("scripted", self.base_url, "scripted-model", retries=0, **self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    async def _behave(self, seen: Seen, send: Send) -> bool:
        if not seen.line.startswith("POST /v1/chat/completions "):
            return await reply(404, {"error": {"message": "no such path"}})(seen, send)
        self.requests.append(seen)
        status, headers, text = await asyncio.to_thread(self._said, seen.body)
        return await reply(status, text.encode(), "".join(f"{name}: {headers[name]}\r\n" for name in headers))(
            seen, send
        )

    def _said(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], str]:
        try:
            said = self._answer(body)
        except Exception as error:  # noqa: BLE001 - the script is the test's; the caller sees its error as a reply
            return 500, {}, json.dumps({"error": {"message": f"{type(error).__name__}: {error}"}})
        return (200, {}, completion(said)) if isinstance(said, str) else said
