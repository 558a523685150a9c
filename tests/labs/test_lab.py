"""What a lab works out by itself, on a pretended one without data or gateway."""

from __future__ import annotations

import pytest

from labs.definition import FIRST
from labs.wine.lab import WineLab
from llmops.errors import CannotRun
from llmops.settings import Settings

WINDOWS = ("w1", "w2", "w3")


class PretendedLab(WineLab):
    def windows(self):
        return WINDOWS

    def _error_in(self, window):
        return 0.5

    def _mean_error(self, ref, windows):
        return {"wine@1": 0.4, "wine@2": 0.2}.get(ref, 0.1) + len(windows)


@pytest.fixture
def lab(tmp_path):
    return PretendedLab(Settings(home=tmp_path), cycle="test")


def test_a_review_without_promotions_has_errors_alone(lab):
    assert lab.review([], WINDOWS[1:]) == {"errors": {"w2": 0.5, "w3": 0.5}, "retrained": []}


def test_each_promotion_is_reviewed_over_the_windows_that_it_served(lab):
    promotions = [{"at": "w1", "from": "wine@1", "to": "wine@2"}, {"at": "w2", "from": "wine@2", "to": "wine@3"}]
    found = lab.review(promotions, WINDOWS)["retrained"]
    assert [(each["at"], each["windows"], each["error_before"], each["error_after"]) for each in found] == [
        ("w1", ["w2"], 1.4, 1.2),
        ("w2", ["w3"], 1.2, 1.1),
    ]


def test_a_promotion_in_the_last_window_has_served_none(lab):
    (found,) = lab.review([{"at": "w3", "from": "wine@1", "to": "wine@2"}], WINDOWS)["retrained"]
    assert (found["windows"], found["error_before"], found["error_after"]) == ([], None, None)


def test_windows_of_a_model_are_those_after_its_training(lab):
    assert lab.windows_of({"ref": "wine@1", "trained_on": FIRST}) == list(WINDOWS)
    assert lab.windows_of({"ref": "wine@2", "trained_on": "w2"}) == ["w3"]
    with pytest.raises(CannotRun, match="wine@3 was trained on w9, which this data has not"):
        lab.windows_of({"ref": "wine@3", "trained_on": "w9"})
