"""The official Python client, unchanged: sync, async, streamed, structured, all routes."""

import asyncio
import base64
import struct

import openai
import pytest
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "hello world"}]
SAID = "You said: hello world"


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def client(base_url):
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


def test_chat(client):
    reply = client.chat.completions.create(model="assistant", messages=MESSAGES, user="u", metadata={"a": "b"}, n=1)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (SAID, "stop")
    assert (reply.id[:9], reply.model) == ("chatcmpl-", "assistant@2")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0


def test_chat_streamed(client):
    asked = {"model": "assistant", "messages": MESSAGES}
    with client.chat.completions.stream(**asked) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == SAID == final.choices[0].message.content
    assert len([piece for piece in pieces if piece]) == 4
    *chunks, usage = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert (usage.choices, usage.usage.completion_tokens) == ([], 4)
    assert len({chunk.id for chunk in [*chunks, usage]}) == 1


def test_chat_parsed_into_a_pydantic_model(client):
    reply = client.chat.completions.parse(model="assistant", messages=MESSAGES, response_format=Person)
    assert reply.choices[0].message.parsed == Person(name="Ada", age=36)


def test_chat_async_many_at_once_and_streamed(base_url):
    async def work():
        asked = {"model": "assistant", "messages": MESSAGES}
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            replies = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(8)))
            stream = await client.chat.completions.create(**asked, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        return {reply.choices[0].message.content for reply in replies}, "".join(pieces)

    assert asyncio.run(work()) == ({SAID}, SAID)


def test_prompt_variables_go_in_the_extra_body(client):
    extra = {"prompt_variables": {"tone": "polite"}}
    reply = client.chat.completions.create(model="assistant@3", messages=MESSAGES, extra_body=extra)
    assert reply.choices[0].message.content == "You said: polite: hello world"


def test_several_answers_come_whole_and_streamed(client, clients_gateway):
    asked = {"model": "assistant", "messages": MESSAGES, "n": 2}
    whole = client.chat.completions.create(**asked)
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [(0, SAID), (1, SAID)]
    assert whole.usage.completion_tokens == 8
    texts, ends = ["", ""], {}
    for chunk in client.chat.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends[choice.index] = choice.finish_reason
    assert (texts, ends) == ([SAID, SAID], {0: "stop", 1: "stop"})
    details = clients_gateway.records()[-1].details
    assert details["extras"] == {"n": 2}
    assert details["other_answers"] == [{"output": SAID, "finish_reason": "stop"}]


def test_errors_are_the_clients_own_classes(client, clients_gateway):
    before = clients_gateway.log.count()
    with pytest.raises(openai.NotFoundError, match=r"nobody.*assistant@champion") as unknown:
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert clients_gateway.log.count() == before
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="assistant", messages=MESSAGES, temperature=9)
    assert raised.value.param == "temperature"


def test_completions(client):
    reply = client.completions.create(model="assistant", prompt="hello world", max_tokens=3)
    assert (reply.id[:5], reply.object, reply.model) == ("cmpl-", "text_completion", "assistant@2")
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("You said: hello", "length")
    assert reply.usage.completion_tokens == 3
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 3


def test_completions_streamed(client):
    asked = {"model": "assistant", "prompt": "hi", "stream": True}
    *chunks, last = client.completions.create(**asked, stream_options={"include_usage": True})
    assert [chunk.choices[0].text for chunk in chunks] == ["You", " said:", " hi", ""]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (last.choices, last.usage.completion_tokens) == ([], 3)
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert {chunk.usage for chunk in chunks} == {None}
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert not any("usage" in chunk.to_dict() for chunk in client.completions.create(**asked))


def test_responses(client):
    reply = client.responses.create(model="assistant", input="hello world", instructions="Be brief.", temperature=0.5)
    assert (reply.output_text, reply.object, reply.status) == (SAID, "response", "completed")
    assert (reply.model, reply.instructions, reply.temperature) == ("assistant@2", "Be brief.", 0.5)
    assert reply.usage.output_tokens == 4
    assert reply.usage.total_tokens == reply.usage.input_tokens + 4
    (item,) = reply.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    part = {"type": "output_text", "text": SAID, "annotations": [], "logprobs": []}
    assert [each.to_dict() for each in item.content] == [part]
    turns = [*MESSAGES, *reply.output, {"role": "user", "content": "second"}]
    assert client.responses.create(model="assistant", input=turns).output_text == "You said: second"


def test_responses_streamed(client):
    with client.responses.stream(model="assistant", input="hello world") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 4,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(12))
    assert (events[0].response.status, events[0].response.output) == ("in_progress", [])
    assert events[-1].response.output[0].id == events[-2].item.id
    assert len({event.item_id for event in events if hasattr(event, "item_id")}) == 1
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAID
    assert final.output_text == events[-2].item.content[0].text == SAID


def test_responses_parsed_into_a_pydantic_model(client):
    assert client.responses.parse(model="assistant", input="who?", text_format=Person).output_parsed.age == 36
    with client.responses.stream(model="assistant", input="who?", text_format=Person) as stream:
        assert stream.get_final_response().output_parsed == Person(name="Ada", age=36)


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_embeddings(client, encoding):
    reply = client.embeddings.create(model="all-minilm-l6-v2", input=["one", "two words"], **encoding)
    assert [item.index for item in reply.data] == [0, 1]
    assert (reply.model, reply.usage.prompt_tokens, reply.usage.total_tokens) == ("all-minilm-l6-v2", 3, 3)
    vectors = [item.embedding for item in reply.data]
    if encoding.get("encoding_format") == "base64":
        vectors = [struct.unpack("<384f", base64.b64decode(vector)) for vector in vectors]
    assert [list(vector[:2]) for vector in vectors] == [[3.0, 0.5], [9.0, 0.5]]
    assert {len(vector) for vector in vectors} == {384}
