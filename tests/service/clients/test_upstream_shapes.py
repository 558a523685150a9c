"""What comes from an upstream comes through: the official client gets equal objects from the gateway and from the
upstream asked directly, field by field, but for ids, names and times."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from llmops.engines.openai import OpenAIEngine
from tests.engines.upstream_server import UpstreamServer
from tests.engines.upstream_shapes import BOTH, FAILURES, NO_IDS, ODD_TOOLS, SHAPES, Shape, answer

OF_EACH = {"id", "model", "created"}
Form = Callable[[openai.OpenAI, str], Any]


@contextmanager
def running(server: UpstreamServer) -> Iterator[UpstreamServer]:
    """The server on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield server
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def asked(serve_shared: Any) -> Iterator[dict[str, openai.OpenAI]]:
    """A client of the upstream, and one of a gateway before it."""
    with (
        running(UpstreamServer(answer)) as upstream,
        serve_shared(engine=lambda _: OpenAIEngine(upstream.url, "big")) as gateway,
        openai.OpenAI(base_url=upstream.url, api_key="x", max_retries=0) as direct,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as through,
    ):
        yield {"direct": direct, "through": through, "gateway": gateway}


def told(value: Any) -> Any:
    """Every field with a value, but those that differ by nature."""
    if isinstance(value, dict):
        return {name: told(item) for name, item in value.items() if item is not None and name not in OF_EACH}
    return [told(item) for item in value] if isinstance(value, list) else value


def whole(client: openai.OpenAI, shape: str) -> Any:
    reply = client.chat.completions.create(model="assistant", messages=[{"role": "user", "content": shape}])
    return reply.to_dict(warnings=False)


def streamed(client: openai.OpenAI, shape: str) -> Any:
    """All events put together as the client does it, and the fields around them."""
    state, around = ChatCompletionStreamState(), {}
    for chunk in client.chat.completions.create(
        model="assistant", messages=[{"role": "user", "content": shape}], stream=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        around |= {name: value for name, value in chunk.to_dict(warnings=False).items() if value is not None}
        state.handle_chunk(chunk)
    return {**around, **state.current_completion_snapshot.to_dict(warnings=False)}


def forms_of(shapes: Mapping[str, Shape]) -> list[Any]:
    """Each shape whole and streamed, where it has that form."""
    forms = [(name, whole, shape.whole) for name, shape in shapes.items()]
    forms += [(name, streamed, shape.events) for name, shape in shapes.items()]
    return [pytest.param(name, form, id=f"{name}, {form.__name__}") for name, form, body in forms if body]


# Of the client, whose type for content is text.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(("shape", "form"), forms_of(SHAPES))
def test_a_reply_of_any_shape_comes_through(asked, shape, form):
    assert told(form(asked["through"], shape)) == told(form(asked["direct"], shape))


def calls(client: openai.OpenAI, shape: str, form: Form) -> Any:
    (choice,) = form(client, shape)["choices"]
    return [
        {**told(call["function"]), "id": call["id"], "type": call["type"]} for call in choice["message"]["tool_calls"]
    ]


RIGHT = [{**call["function"], "type": "function"} for call in BOTH]


@pytest.mark.parametrize(("shape", "form"), forms_of(ODD_TOOLS))
def test_tool_calls_of_any_shape_are_numbered_named_and_have_arguments_as_text(asked, shape, form):
    identities = [{"id": call["id"]} for call in BOTH]
    assert calls(asked["through"], shape, form) == [a | b for a, b in zip(RIGHT, identities, strict=True)]


@pytest.mark.parametrize(("shape", "form"), forms_of(NO_IDS))
def test_a_tool_call_without_an_id_gets_one_of_its_own(asked, shape, form):
    found = calls(asked["through"], shape, form)
    assert len({call.pop("id") for call in found}) == 2
    assert found == RIGHT


@pytest.mark.parametrize(("shape", "form"), forms_of(FAILURES))
def test_a_failure_of_any_shape_has_its_status_and_reason_and_is_logged_as_one(asked, shape, form):
    status, _, reason = shape.partition(": ")
    reason = "no room" if reason.startswith("error ") else reason
    with pytest.raises(openai.APIStatusError, match=re.escape(reason)) as caught:
        form(asked["through"].with_options(max_retries=0), shape)
    assert caught.value.status_code == int(status)
    record = asked["gateway"].records()[-1]
    assert (record.status, record.outcome) == (int(status), "error")
    assert reason in record.details["error"]
    assert record.input == shape
