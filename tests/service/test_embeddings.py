import asyncio

import httpx
import pytest

from llmops.errors import EngineBusy, EngineUnavailable
from tests.at_once import wait_until
from tests.service.conftest import assert_refused, embed

MODEL = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def embedding(serve_shared):
    with serve_shared(embed=embed) as gateway:
        yield gateway


def ask(gateway, sent="two words", **fields):
    return gateway.http.post("/v1/embeddings", json={"model": MODEL, "input": sent, **fields})


def test_a_text_or_several_give_a_vector_each_in_order(embedding):
    assert [item["index"] for item in ask(embedding, dimensions=384, user="u").json()["data"]] == [0]
    reply = ask(embedding, ["a", "bbb", "cc"])
    assert [item["embedding"][0] for item in reply.json()["data"]] == [1.0, 3.0, 2.0]
    assert reply.json()["model"] == reply.headers["x-llmops-model"] == MODEL


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": [1, 2]}, "input", "token numbers are not supported"),
        ({"input": [[1, 2]]}, "input", "token numbers are not supported"),
        ({"input": ""}, "input", "none empty"),
        ({"input": []}, "input", "1 to 2048 texts"),
        ({"input": ["x"] * 2049}, "input", "1 to 2048 texts"),
        ({"dimensions": 128}, "dimensions", "only 384"),
        ({"encoding_format": "int8"}, "encoding_format", "float"),
        ({"truncate": True}, "truncate", "unknown field"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(embedding, fields, param, words):
    assert_refused(ask(embedding, **fields), param, words)


def test_another_model_is_404_and_so_is_every_model_where_there_is_none(embedding, shared_gateway):
    reply = ask(embedding, model="assistant")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert MODEL in reply.json()["error"]["message"]
    assert ask(shared_gateway).status_code == 404
    assert MODEL not in shared_gateway.http.get("/v1/models").text


def test_the_record_has_the_texts_and_no_output(embedding):
    ask(embedding, ["one\x00", "two words"], user="u")
    record = embedding.records()[-1]
    assert (record.input, record.output, record.model) == ("one\ufffd\ntwo words", "", MODEL)
    assert (record.release, record.tokens_in, record.tokens_out, record.status) == (None, 3, 0, 200)
    assert record.details == {"route": "embeddings", "texts": 2, "user": "u"}


@pytest.mark.parametrize(
    ("failure", "status"),
    [(EngineUnavailable("secret", retry_after=3), 503), (EngineBusy("full"), 429), (ZeroDivisionError("secret"), 500)],
)
def test_an_engine_that_fails_gives_its_status_and_is_logged(serve, failure, status):
    async def failing(_):
        raise failure

    with serve(embed=failing) as gateway:
        reply = ask(gateway)
        assert reply.status_code == status
        assert "secret" not in reply.text
        assert ("retry-after" in reply.headers) == (status != 500)
        (record,) = gateway.records()
        assert (record.status, record.outcome) == (status, "error")


def test_vectors_that_take_too_long_are_504_and_a_client_that_leaves_stops_the_work(serve):
    stopped = []

    async def hanging(_):
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(True)

    with serve(embed=hanging, engine_timeout=0.5) as gateway:
        assert ask(gateway).status_code == 504
        with pytest.raises(httpx.ReadTimeout):
            gateway.http.post("/v1/embeddings", json={"model": MODEL, "input": "x"}, timeout=0.1)
        wait_until(lambda: len(stopped) == len(gateway.records()) == 2)
        outcomes = [(record.status, record.outcome) for record in gateway.records()]
    assert outcomes == [(504, "error"), (499, "cancelled")]
