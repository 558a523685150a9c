"""LangChain's OpenAI classes, unchanged."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

SAID = "You said: hello world"

langchain_openai = pytest.importorskip("langchain_openai")


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.fixture
def chat(base_url):
    return langchain_openai.ChatOpenAI(model="assistant", base_url=base_url, api_key="none", max_retries=0)


def test_invoke(chat):
    message = chat.invoke("hello world")
    assert message.content == SAID
    assert message.usage_metadata["output_tokens"] == 4
    assert message.response_metadata["model_name"] == "assistant@2"


def test_invoke_with_parameters(base_url):
    options = {"temperature": 0.5, "max_tokens": 2, "seed": 1, "stop": ["X"], "top_p": 0.9, "n": 1}
    chat = langchain_openai.ChatOpenAI(model="assistant", base_url=base_url, api_key="none", **options)
    assert chat.invoke([("system", "Be brief."), ("user", "hello world")]).content == "You said:"


def test_stream(chat):
    assert "".join(chunk.content for chunk in chat.stream("hello world")) == SAID


def test_astream(chat):
    async def pieces():
        return [chunk.content async for chunk in chat.astream("hello world")]

    assert "".join(asyncio.run(pieces())) == SAID


def test_stream_with_usage(chat):
    chunks = list(chat.stream("hello world", stream_usage=True))
    assert chunks[-1].usage_metadata["output_tokens"] == 4 or sum(
        chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata
    )


# LangChain hands the parsed object on in a field that its own types call empty.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_structured_output_by_json_schema(chat):
    assert chat.with_structured_output(Person, method="json_schema").invoke("who?") == Person(name="Ada", age=36)


def test_structured_output_by_json_mode(chat):
    assert chat.with_structured_output(Person, method="json_mode").invoke("who?") == Person(name="Ada", age=36)


def test_the_responses_route(base_url):
    chat = langchain_openai.ChatOpenAI(
        model="assistant", base_url=base_url, api_key="none", use_responses_api=True, output_version="responses/v1"
    )
    assert chat.invoke("hello world").text() == SAID
    assert "".join(chunk.text() for chunk in chat.stream("hello world")) == SAID


def test_embeddings(base_url):
    # Without the switch LangChain sends token numbers of OpenAI's own tokenizer.
    embeddings = langchain_openai.OpenAIEmbeddings(
        model="all-minilm-l6-v2", base_url=base_url, api_key="none", check_embedding_ctx_length=False
    )
    assert [vector[0] for vector in embeddings.embed_documents(["one", "three"])] == [3.0, 5.0]
