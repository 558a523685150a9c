"""`llmops models register`: prices are given together, shown, and kept."""

from __future__ import annotations

from tests.command_line import Run

SOURCE = ("--source", "openai:http://127.0.0.1:9/v1#big")


def test_prices_come_in_pairs_and_stay_with_the_version(llmops: Run) -> None:
    alone = llmops("models", "register", "big", *SOURCE, "--price-in", "2")
    assert alone.code == 2
    assert "--price-in and --price-out together" in alone.err
    made = llmops("models", "register", "big", *SOURCE, "--price-in", "2", "--price-out", "8", "--json")
    assert made.code == 0
    assert made.json["models"][0]["provenance"] == {"prices": {"per_million_in": 2.0, "per_million_out": 8.0}}
    other = llmops("models", "register", "big", *SOURCE, "--price-in", "3", "--price-out", "8")
    assert other.code == 2
    assert "register it by another name" in other.err
    assert [model["version"] for model in llmops("models", "list", "--json").json["models"]] == [1]
