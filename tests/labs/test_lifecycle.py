"""What follows what in a lab: alarms, challengers that wait, promotions, and a gate that says no."""

from __future__ import annotations

import pytest

from labs import lifecycle
from labs.bike.pipeline import pipeline
from llmops.errors import UsageError
from llmops.settings import Settings

WINDOWS = ("w1", "w2", "w3", "w4")


class Steps:
    """Does each step at once, and remembers its name."""

    cycle = "test"

    def __init__(self):
        self.names = []

    def do(self, name, function, *arguments, retries=0):
        self.names.append(name)
        return function(*arguments)


class PretendedLab:
    """alarms: by window. challengers: what `retrain` gives in a window, None for one that waits."""

    name = "pretended"

    def __init__(self, alarms=(), challengers=None, verdict="pass", champion=None):
        self.alarms, self.challengers, self.verdict, self.champion = alarms, challengers or {}, verdict, champion
        self.calls = []

    def ingest(self):
        return {"sha256": "abc"}

    def validate(self):
        return {"findings": []}

    def train(self):
        return {"best": "boosting"}

    def evaluate(self, trained):
        return {"name": "rmse", "value": 1.0}

    def gate(self, trained):
        return {"verdict": self.verdict, "reasons": ["because"], "comparison": {"rows": "many"}}

    def register(self, trained, verdict):
        return {"ref": "pretended@1", "trained_on": "first"}

    def deploy(self, model):
        self.calls.append(("deploy", model["ref"]))
        return {}

    def kept(self):
        return self.champion or {}

    def windows_of(self, model):
        return WINDOWS if model["trained_on"] == "first" else WINDOWS[WINDOWS.index(model["trained_on"]) + 1 :]

    def monitor(self, window, model, past, quiet):
        self.calls.append(("monitor", window, model["ref"], len(past), *quiet))
        return {"window": window, "alarm": window in self.alarms, "past_estimate": [1.0, 1.1]}

    def retrain(self, window, since, model):
        self.calls.append(("retrain", window, since, model["ref"]))
        to = self.challengers.get(window)
        new = {"ref": to, "trained_on": window}
        return {"at": window, "from": model["ref"], "to": to, "why": "judged", **({"model": new} if to else {})}

    def review(self, promotions, windows):
        return {"errors": dict.fromkeys(windows, 0.5), "retrained": [{"at": each["at"]} for each in promotions]}


def test_without_an_alarm_nothing_is_trained_again():
    lab = PretendedLab()
    found = lifecycle.run(lab, Steps())
    assert [call[0] for call in lab.calls] == ["deploy", *["monitor"] * 4]
    assert (found["model"], found["retrained"], found["attempts"]) == ("pretended@1", [], [])
    assert [each["error"] for each in found["monitoring"]] == [0.5] * 4


def test_after_an_alarm_a_challenger_is_promoted_and_watches_the_next_windows():
    lab = PretendedLab(alarms=("w2",), challengers={"w2": "pretended@2"})
    found = lifecycle.run(lab, Steps())
    assert ("monitor", "w3", "pretended@2", 0) in lab.calls
    assert found["model"] == "pretended@2"
    assert [each["at"] for each in found["retrained"]] == ["w2"]


def test_a_challenger_that_waits_or_is_refused_is_tried_again_from_the_first_alarm_on():
    lab = PretendedLab(alarms=("w2",), challengers={"w4": "pretended@2"})
    found = lifecycle.run(lab, Steps())
    tried = [call for call in lab.calls if call[0] == "retrain"]
    assert [call[1:3] for call in tried] == [("w2", "w2"), ("w3", "w2"), ("w4", "w2")]
    assert [each["to"] for each in found["attempts"]] == [None, None, "pretended@2"]


def test_a_first_model_that_the_gate_refuses_is_not_registered():
    steps = Steps()
    found = lifecycle.run(PretendedLab(verdict="fail"), steps)
    assert steps.names[-2:] == ["gate", "keep"]
    assert (found["model"], found["verdict"]) == (None, "fail")
    assert "comparison" not in found["gate"]


def test_a_champion_that_the_best_does_not_replace_goes_on_with_the_windows_after_its_training():
    lab = PretendedLab(verdict="inconclusive", champion={"ref": "pretended@7", "trained_on": "w2"})
    found = lifecycle.run(lab, Steps())
    assert [call[:3] for call in lab.calls] == [("monitor", "w3", "pretended@7"), ("monitor", "w4", "pretended@7")]
    assert (found["model"], found["verdict"], len(found["monitoring"])) == ("pretended@7", "inconclusive", 2)


def test_windows_without_alarm_join_the_reference_until_there_is_one_or_a_new_champion():
    lab = PretendedLab(alarms=("w2",), challengers={"w3": "pretended@2"})
    lifecycle.run(lab, Steps())
    assert [call[4:] for call in lab.calls if call[0] == "monitor"] == [(), ("w1",), ("w1",), ()]


def test_estimates_of_the_past_are_those_of_the_present_champion():
    lab = PretendedLab()
    lifecycle.run(lab, Steps())
    assert [call[3] for call in lab.calls if call[0] == "monitor"] == [0, 1, 2, 3]


@pytest.mark.parametrize(("inputs", "message"), [({"rows": 1}, "^rows: no input"), ({"source": 3}, "^source: must be")])
def test_inputs_that_a_lab_has_not_are_named(inputs, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        pipeline(Settings(home=tmp_path)).complete(inputs)
