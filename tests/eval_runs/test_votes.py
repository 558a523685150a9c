"""Votes between two releases, counted from a real log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmops.eval_runs.pairwise import judged, votes_between
from llmops.generation import GenerationParameters
from llmops.production_log import Feedback, LogRecord, ProductionLog
from llmops.prompt_file import parse_prompt
from llmops.versions import ModelVersion, PromptVersion, Release


def release(version: int, app: str = "assistant") -> Release:
    prompt = PromptVersion("qa", version, parse_prompt("---\ninput_variable: q\n---\n# user\n{{ q }}\n"))
    return Release(app, version, prompt, ModelVersion("tiny", 1, "file:x", "gguf", "a"), GenerationParameters())


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ProductionLog]:
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    yield log
    log.close()


def vote(log: ProductionLog, number: int, of: str, label: str, compared: str) -> None:
    one, other = (LogRecord(f"{number}-{name}", datetime.now(UTC), 200, "ok", release=name) for name in (of, compared))
    log.append([one, other])
    log.add_feedback(
        Feedback(one.request_id, one.key, "anonymous", app=one.app, release=of, label=label,
                 compared_to=other.request_id, compared_key=other.key, compared_release=compared)
    )  # fmt: skip


def test_votes_are_counted_for_the_releases_as_they_were_named(log):
    for number, (of, label, compared) in enumerate([
        ("assistant@9", "better", "assistant@10"),
        ("assistant@10", "better", "assistant@9"),
        ("assistant@9", "worse", "assistant@10"),
        ("assistant@9", "tie", "assistant@10"),
        ("assistant@9", "better", "assistant@11"),
    ]):  # fmt: skip
        vote(log, number, of, label, compared)
    found = votes_between(log, release(9), release(10))
    assert found is not None
    assert (found.a, found.b, found.n, found.wins_a, found.wins_b, found.ties) == (
        "assistant@9", "assistant@10", 4, 1, 2, 1,
    )  # fmt: skip
    turned = votes_between(log, release(10), release(9))
    assert turned is not None
    assert (turned.a, turned.wins_a, turned.wins_b) == ("assistant@10", 2, 1)
    assert turned.p_value == found.p_value


def test_there_are_no_votes_between_what_is_not_two_releases_of_one_app(log):
    vote(log, 0, "assistant@1", "better", "assistant@2")
    assert votes_between(log, None, release(2)) is None
    assert votes_between(log, release(1), release(1)) is None
    assert votes_between(log, release(1), release(2, "other")) is None
    assert votes_between(log, release(1), release(3)) is None


def test_the_interval_is_the_exact_sign_test_inverted():
    votes = judged("a@1", "a@2", 2, 8, 5)
    assert votes.share_b == 0.8
    assert votes.ci95 == pytest.approx((0.4439, 0.9748), abs=1e-4)  # Clopper and Pearson
    assert votes.p_value == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert votes.sentence() == (
        "votes: 2 for a@1, 8 for a@2, 5 for neither; 80% of those decided prefer a@2 (95 % interval 44% to 97%), "
        "p = 0.109"
    )
    assert votes.to_json()["n"] == 15


def test_ties_alone_decide_nothing():
    votes = judged("a@1", "a@2", 0, 0, 3)
    assert (votes.n, votes.ties, votes.p_value, votes.ci95) == (3, 3, None, None)
    assert votes.sentence() == "votes: 0 for a@1, 0 for a@2, 3 for neither"
