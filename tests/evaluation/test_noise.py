"""The share of answers that flip by themselves, with its exact interval."""

from __future__ import annotations

import json

import pytest

from llmops.evaluation.results import Noise


def test_the_share_is_flips_of_answers() -> None:
    assert Noise(32, 8).share == 0.25
    assert Noise(0, 0).share == 0.0


@pytest.mark.parametrize(
    ("n", "flips", "ci95"),
    [
        (30, 0, (0.0, 1 - 0.025 ** (1 / 30))),
        (30, 30, (0.025 ** (1 / 30), 1.0)),
        (20, 5, (0.08657, 0.49105)),  # Clopper–Pearson, R: binom.test(5, 20)
    ],
)
def test_the_interval_is_clopper_and_pearsons(n: int, flips: int, ci95: tuple[float, float]) -> None:
    assert Noise(n, flips).ci95 == pytest.approx(ci95, abs=1e-5)


def test_noise_is_plain_json() -> None:
    told = json.loads(json.dumps(Noise(20, 5).to_json()))

    assert told.keys() == {"n", "flips", "flip_share", "ci95"}
    assert (told["n"], told["flips"], told["flip_share"]) == (20, 5, 0.25)
    assert len(told["ci95"]) == 2
