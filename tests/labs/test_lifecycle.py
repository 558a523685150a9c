"""What follows what in a lab, as a pipeline and by hand: alarms, promotions, a gate that says no."""

from __future__ import annotations

import pytest

from labs import lifecycle
from labs.lab import FIRST
from labs.lifecycle import BY_HAND, ByHand
from labs.monitor_steps import MonitorSteps
from labs.pipeline_cli import make_pipeline
from labs.wine.lab import WineLab
from llmops.errors import CannotRun, UsageError
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
    """Both kinds of steps. alarms: by window. challengers: what `retrain` gives in a window; None: it waits."""

    name = "pretended"

    def __init__(self, alarms=(), challengers=None, verdict="pass", champion=None):
        self.alarms, self.challengers, self.verdict, self.champion = alarms, challengers or {}, verdict, champion
        self.calls = []
        self.lab = self

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
        return {"champion": model["ref"], "previous": None}

    def kept(self):
        return self.champion or {}

    def windows(self):
        return WINDOWS

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


def run(lab, steps=None):
    return lifecycle.run("pretended", lab, lab, steps or Steps())


def test_without_an_alarm_nothing_is_trained_again():
    lab = PretendedLab()
    found = run(lab)
    assert [call[0] for call in lab.calls] == ["deploy", *["monitor"] * 4]
    assert (found["model"], found["retrained"], found["attempts"]) == ("pretended@1", [], [])
    assert [each["error"] for each in found["monitoring"]] == [0.5] * 4


def test_after_an_alarm_a_challenger_is_promoted_and_watches_the_next_windows():
    lab = PretendedLab(alarms=("w2",), challengers={"w2": "pretended@2"})
    found = run(lab)
    assert ("monitor", "w3", "pretended@2", 0) in lab.calls
    assert found["model"] == "pretended@2"
    assert [each["at"] for each in found["retrained"]] == ["w2"]


def test_a_challenger_that_waits_or_is_refused_is_tried_again_from_the_first_alarm_on():
    lab = PretendedLab(alarms=("w2",), challengers={"w4": "pretended@2"})
    found = run(lab)
    tried = [call for call in lab.calls if call[0] == "retrain"]
    assert [call[1:3] for call in tried] == [("w2", "w2"), ("w3", "w2"), ("w4", "w2")]
    assert [each["to"] for each in found["attempts"]] == [None, None, "pretended@2"]


def test_a_first_model_that_the_gate_refuses_is_not_registered():
    steps = Steps()
    found = run(PretendedLab(verdict="fail"), steps)
    assert steps.names[-2:] == ["gate", "keep"]
    assert (found["model"], found["verdict"]) == (None, "fail")
    assert "comparison" not in found["gate"]


def test_a_champion_that_the_best_does_not_replace_goes_on_with_the_windows_after_its_training():
    lab = PretendedLab(verdict="inconclusive", champion={"ref": "pretended@7", "trained_on": "w2"})
    found = run(lab)
    assert [call[:3] for call in lab.calls] == [("monitor", "w3", "pretended@7"), ("monitor", "w4", "pretended@7")]
    assert (found["model"], found["verdict"], len(found["monitoring"])) == ("pretended@7", "inconclusive", 2)


def test_windows_without_alarm_join_the_reference_until_there_is_one_or_a_new_champion():
    lab = PretendedLab(alarms=("w2",), challengers={"w3": "pretended@2"})
    run(lab)
    assert [call[4:] for call in lab.calls if call[0] == "monitor"] == [(), ("w1",), ("w1",), ()]


def test_estimates_of_the_past_are_those_of_the_present_champion():
    lab = PretendedLab()
    run(lab)
    assert [call[3] for call in lab.calls if call[0] == "monitor"] == [0, 1, 2, 3]


@pytest.mark.parametrize(("inputs", "message"), [({"rows": 1}, "^rows: no input"), ({"source": 3}, "^source: must be")])
def test_inputs_that_a_lab_has_not_are_named(inputs, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        make_pipeline("bike", Settings(home=tmp_path)).complete(inputs)


@pytest.fixture
def hands(tmp_path):
    """Steps by hand, as a command has them: what was done before is read from the file."""

    def make(lab=None, **options):
        lab = lab or PretendedLab(**options)
        return ByHand("pretended", Settings(home=tmp_path), lab, lab)

    return make


def test_each_step_by_hand_goes_on_from_what_the_last_command_left(hands, tmp_path):
    lab = PretendedLab(alarms=WINDOWS, challengers={"w1": "pretended@2"})
    assert hands(lab).data() == {"data": {"sha256": "abc"}, "quality": {"findings": []}}
    assert hands(lab).train()["gate"]["verdict"] == "pass"
    assert hands(lab).register()["champion"] == "pretended@1"
    assert hands(lab).monitor()["window"] == "w1"
    assert hands(lab).retrain()["to"] == "pretended@2"
    assert hands(lab).monitor()["window"] == "w2"
    assert hands(lab).retrain()["to"] is None
    assert lab.calls == [
        ("deploy", "pretended@1"), ("monitor", "w1", "pretended@1", 0), ("retrain", "w1", "w1", "pretended@1"),
        ("monitor", "w2", "pretended@2", 0), ("retrain", "w2", "w2", "pretended@2"),
    ]  # fmt: skip
    assert (tmp_path / "labs" / "pretended.json").is_file()
    assert BY_HAND == "by-hand"


@pytest.mark.parametrize(
    ("done", "step", "first"),
    [
        ((), "register", "train"),
        ((), "monitor", "register"),
        ((), "retrain", "register"),
        (("train", "register"), "retrain", "monitor"),
    ],
)
def test_a_step_by_hand_names_the_one_that_must_come_first(hands, done, step, first):
    for each in done:
        getattr(hands(), each)()
    with pytest.raises(CannotRun, match=f"`llmops lab pretended {first}` must come first"):
        getattr(hands(), step)()


def test_by_hand_a_model_that_the_gate_refuses_is_registered_and_the_champion_is_watched_after_its_training(hands):
    hands().train()
    hands(verdict="fail").train()
    model = {"ref": "pretended@1", "trained_on": "first"}
    refused = {"model": model, "champion": None, "reasons": ["because"]}
    assert hands().register() == {**refused, "kept": None}
    with pytest.raises(CannotRun, match="register` must come first"):
        hands().monitor()
    lab = PretendedLab(champion={"ref": "pretended@9", "trained_on": "w1"})
    assert hands(lab).register() == {**refused, "kept": "pretended@9"}
    assert hands(lab).monitor()["window"] == "w2"
    assert lab.calls == [("monitor", "w2", "pretended@9", 0)]


def test_by_hand_quiet_windows_join_the_reference_and_one_may_be_looked_at_again(hands):
    lab = PretendedLab(alarms=("w3",))
    hands(lab).train()
    hands(lab).register()
    for window in (None, None, "w1", None, None):
        hands(lab).monitor(window)
    assert [call[1:] for call in lab.calls[1:]] == [
        ("w1", "pretended@1", 0), ("w2", "pretended@1", 1, "w1"), ("w1", "pretended@1", 2, "w1", "w2"),
        ("w3", "pretended@1", 2, "w1", "w2"), ("w4", "pretended@1", 3, "w1", "w2"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no window 'w9'; there are w1 to w4"):
        hands(lab).monitor("w9")
    with pytest.raises(CannotRun, match="every window up to w4"):
        hands(lab).monitor()


class MonitorStepsWithErrors(MonitorSteps):
    """Errors without predictions."""

    def _error_in(self, window):
        return 0.5

    def _mean_error(self, ref, windows):
        return {"wine@1": 0.4, "wine@2": 0.2}.get(ref, 0.1) + len(windows) if windows else None


@pytest.fixture
def steps(tmp_path):
    class LabOfFour(WineLab):
        def windows(self):
            return WINDOWS

    return MonitorStepsWithErrors(LabOfFour(Settings(home=tmp_path), cycle="test"))


@pytest.mark.parametrize(
    ("promoted_in", "reviewed"),
    [
        ((), []),
        (("w1", "w2"), [("w1", ["w2"], 1.4, 1.2), ("w2", ["w3", "w4"], 2.2, 2.1)]),
        (("w4",), [("w4", [], None, None)]),  # it has served none
    ],
)
def test_each_promotion_is_reviewed_over_the_windows_that_it_served(steps, promoted_in, reviewed):
    promotions = [{"at": at, "from": f"wine@{n}", "to": f"wine@{n + 1}"} for n, at in enumerate(promoted_in, 1)]
    found = steps.review(promotions, WINDOWS)
    assert found["errors"] == dict.fromkeys(WINDOWS, 0.5)
    assert [
        (each["at"], each["windows"], each["error_before"], each["error_after"]) for each in found["retrained"]
    ] == reviewed


def test_windows_of_a_model_are_those_after_its_training(steps):
    assert steps.windows_of({"ref": "wine@1", "trained_on": FIRST}) == list(WINDOWS)
    assert steps.windows_of({"ref": "wine@2", "trained_on": "w2"}) == ["w3", "w4"]
    with pytest.raises(CannotRun, match="wine@3 was trained on w9, which this data has not"):
        steps.windows_of({"ref": "wine@3", "trained_on": "w9"})
