"""LangChain's OpenAI classes, unchanged."""

import asyncio

import pytest
from pydantic import BaseModel

SAID = "You said: hello world"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.fixture(scope="module")
def langchain_openai():
    """Imported here, not by every process that collects the tests: it takes seconds."""
    return pytest.importorskip("langchain_openai")


@pytest.fixture
def chat(base_url, langchain_openai):
    return langchain_openai.ChatOpenAI(model="assistant", base_url=base_url, api_key="none", max_retries=0)


def test_invoke(chat, base_url, langchain_openai):
    message = chat.invoke("hello world")
    assert message.content == SAID
    assert message.usage_metadata["output_tokens"] == 4
    assert message.response_metadata["model_name"] == "assistant@2"
    options = {"temperature": 0.5, "max_tokens": 2, "seed": 1, "stop": ["X"], "top_p": 0.9, "n": 1}
    chat = langchain_openai.ChatOpenAI(model="assistant", base_url=base_url, api_key="none", **options)
    assert chat.invoke([("system", "Be brief."), ("user", "hello world")]).content == "You said:"


def test_stream(chat):
    async def pieces():
        return [chunk.content async for chunk in chat.astream("hello world")]

    assert "".join(chunk.content for chunk in chat.stream("hello world")) == "".join(asyncio.run(pieces())) == SAID
    counted = [chunk.usage_metadata for chunk in chat.stream("hello world", stream_usage=True) if chunk.usage_metadata]
    assert sum(usage["output_tokens"] for usage in counted) == 4


# LangChain hands the parsed object on in a field that its own types call empty.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output(chat, method):
    assert chat.with_structured_output(Person, method=method).invoke("who?") == Person(name="Ada", age=36)


def test_the_responses_route(base_url, langchain_openai):
    chat = langchain_openai.ChatOpenAI(
        model="assistant", base_url=base_url, api_key="none", use_responses_api=True, output_version="responses/v1"
    )
    assert chat.invoke("hello world").text() == SAID
    assert "".join(chunk.text() for chunk in chat.stream("hello world")) == SAID


def test_embeddings(base_url, langchain_openai):
    # Without the switch LangChain sends token numbers of OpenAI's own tokenizer.
    embeddings = langchain_openai.OpenAIEmbeddings(
        model="all-minilm-l6-v2", base_url=base_url, api_key="none", check_embedding_ctx_length=False
    )
    assert [vector[0] for vector in embeddings.embed_documents(["one", "three"])] == [3.0, 5.0]
