from __future__ import annotations

import dataclasses


async def embed(texts):
    return [[0.0] for _ in texts], 0


def test_the_embedding_model_is_listed_where_there_is_one(serve):
    with serve(embed=embed) as gateway:
        names = [card["id"] for card in gateway.http.get("/v1/models").json()["data"]]
        assert names == sorted(names)
        assert "all-minilm-l6-v2" in names
        assert gateway.http.get("/v1/models/all-minilm-l6-v2").json()["id"] == "all-minilm-l6-v2"


def test_a_release_says_when_it_was_made(serve, release):
    with serve(dataclasses.replace(release(1, "champion"), created_at=1_790_000_000.7)) as gateway:
        made = {card["id"]: card["created"] for card in gateway.http.get("/v1/models").json()["data"]}
        assert made == {
            "assistant": 1_790_000_000, "assistant@1": 1_790_000_000, "assistant@champion": 1_790_000_000, "tiny@1": 0,
        }  # fmt: skip
        assert gateway.http.get("/v1/models/assistant").json()["created"] == 1_790_000_000


def test_an_unknown_name_is_404_and_names_what_exists(shared_gateway):
    reply = shared_gateway.http.get("/v1/models/nobody")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "assistant@champion" in reply.json()["error"]["message"]
