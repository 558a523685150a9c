from __future__ import annotations

import pytest

from labs.by_hand import ByHand, state_path
from llmops.errors import CannotRun, UsageError
from llmops.settings import Settings

WINDOWS = ("w1", "w2")


class PretendedLab:
    name = "pretended"

    def __init__(self, settings, verdict="pass", champion=None, alarm=True):
        self.settings, self.verdict, self.champion, self.alarm = settings, verdict, champion, alarm

    def train(self):
        return {"models": []}

    def evaluate(self, trained):
        return {"name": "rmse"}

    def gate(self, trained):
        return {"verdict": self.verdict, "reasons": ["because"]}

    def register(self, trained, verdict):
        return {"ref": "pretended@1"}

    def deploy(self, model):
        return {"champion": model["ref"], "previous": None}

    def kept(self):
        return {"ref": self.champion} if self.champion else {}

    def windows(self):
        return WINDOWS

    def windows_of(self, model):
        return WINDOWS[1:] if model["ref"] == "pretended@9" else WINDOWS

    def monitor(self, window, model, past, quiet):
        return {"window": window, "alarm": self.alarm, "past_estimate": None, "by": model["ref"], "quiet": list(quiet)}

    def retrain(self, window, since, model):
        return {
            "at": window,
            "since": since,
            "from": model["ref"],
            "to": "pretended@2",
            "model": {"ref": "pretended@2"},
        }


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


def hands(settings, **options):
    """As a command has it: what was done before is read from the file."""
    return ByHand(PretendedLab(settings, **options))


def test_each_step_goes_on_from_what_the_last_command_left(settings):
    hands(settings).train()
    assert hands(settings).register()["champion"] == "pretended@1"
    assert hands(settings).monitor()["window"] == "w1"
    assert hands(settings).retrain()["to"] == "pretended@2"
    assert hands(settings).monitor() == {
        "window": "w2",
        "alarm": True,
        "past_estimate": None,
        "by": "pretended@2",
        "quiet": [],
    }


@pytest.mark.parametrize(("step", "first"), [("register", "train"), ("monitor", "register"), ("retrain", "register")])
def test_a_step_names_the_one_that_must_come_first(settings, step, first):
    with pytest.raises(CannotRun, match=f"`llmops lab pretended {first}` must come first"):
        getattr(hands(settings), step)()


def test_a_model_that_the_gate_refuses_is_registered_and_not_deployed(settings):
    hands(settings).train()
    done = hands(settings, verdict="fail")
    done.train()
    assert done.register() == {"model": {"ref": "pretended@1"}, "champion": None, "kept": None, "reasons": ["because"]}


def test_the_champion_that_a_refused_model_does_not_replace_is_watched_after_its_training(settings):
    done = hands(settings, verdict="inconclusive", champion="pretended@9")
    done.train()
    assert done.register()["kept"] == "pretended@9"
    found = hands(settings).monitor()
    assert (found["window"], found["by"]) == ("w2", "pretended@9")


def test_windows_without_alarm_join_the_reference(settings):
    hands(settings).train()
    hands(settings).register()
    assert [hands(settings, alarm=False).monitor()["quiet"] for _ in WINDOWS] == [[], ["w1"]]


def test_windows_end_and_a_wrong_one_is_named(settings):
    hands(settings).train()
    hands(settings).register()
    with pytest.raises(UsageError, match="no window 'w9'; there are w1 to w2"):
        hands(settings).monitor("w9")
    for _ in WINDOWS:
        hands(settings).monitor()
    with pytest.raises(CannotRun, match="every window up to w2"):
        hands(settings).monitor()


def test_the_state_lies_in_the_home(settings):
    hands(settings).train()
    assert state_path(settings, "pretended").is_file()
