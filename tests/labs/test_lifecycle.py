"""What follows what in a lab, as a pipeline and by hand: alarms, promotions, a gate that says no."""

import pytest

from labs import lifecycle
from labs.lab import FIRST
from labs.lifecycle import BY_HAND, ByHand
from labs.pipeline_cli import make_pipeline
from labs.steps import LabSteps
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


class PretendedSteps:
    """Steps of a lab `toy`. alarms: by window. challengers: what `retrain` gives in a window; None: it waits."""

    name = "toy"
    settings = Settings()

    def __init__(self, alarms=(), challengers=None, verdict="pass", champion=None):
        self.alarms, self.challengers, self.verdict, self.champion = alarms, challengers or {}, verdict, champion
        self.calls = []
        self.lab = self

    def ingest(self):
        return {"sha256": "abc"}

    def validate(self):
        return {"findings": []}

    def train(self):
        return {"best": "boosting", "findings": []}

    def evaluate(self, trained):
        return {"name": "rmse", "value": 1.0}

    def gate(self, trained):
        return {"verdict": self.verdict, "reasons": ["because"], "comparison": {"rows": "many"}}

    def register(self, trained, verdict):
        return {"ref": "toy@1", "trained_on": "first"}

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


DEPLOYED, QUIET = ("deploy", "toy@1"), ("monitor", "w1", "toy@1", 0)
KEPT = {"ref": "toy@7", "trained_on": "w2"}


@pytest.mark.parametrize(
    ("options", "calls", "model", "attempts"),
    [
        pytest.param(
            {},
            [DEPLOYED, QUIET, ("monitor", "w2", "toy@1", 1, "w1"), ("monitor", "w3", "toy@1", 2, "w1", "w2"),
             ("monitor", "w4", "toy@1", 3, "w1", "w2", "w3")],
            "toy@1", {}, id="quiet windows join the reference, and nothing is trained again",
        ),
        pytest.param(
            {"alarms": ("w2",), "challengers": {"w2": "toy@2"}},
            [DEPLOYED, QUIET, ("monitor", "w2", "toy@1", 1, "w1"), ("retrain", "w2", "w2", "toy@1"),
             ("monitor", "w3", "toy@2", 0), ("monitor", "w4", "toy@2", 1, "w3")],
            "toy@2", {"w2": "toy@2"}, id="a promoted challenger is watched afresh",
        ),
        pytest.param(
            {"alarms": ("w2",), "challengers": {"w4": "toy@2"}},
            [DEPLOYED, QUIET, ("monitor", "w2", "toy@1", 1, "w1"), ("retrain", "w2", "w2", "toy@1"),
             ("monitor", "w3", "toy@1", 2, "w1"), ("retrain", "w3", "w2", "toy@1"),
             ("monitor", "w4", "toy@1", 3, "w1"), ("retrain", "w4", "w2", "toy@1")],
            "toy@2", {"w2": None, "w3": None, "w4": "toy@2"}, id="one that waits or is refused is tried again",
        ),
        pytest.param(
            {"verdict": "inconclusive", "champion": KEPT},
            [("monitor", "w3", "toy@7", 0), ("monitor", "w4", "toy@7", 1, "w3")],
            "toy@7", {}, id="a champion that is not replaced goes on after its training",
        ),
    ],
)  # fmt: skip
def test_windows_are_monitored_and_after_an_alarm_the_model_is_trained_again(options, calls, model, attempts):
    lab = PretendedSteps(**options)
    found = lifecycle.run(lab, Steps())
    assert lab.calls == calls
    assert (found["lab"], found["model"], found["verdict"]) == ("toy", model, options.get("verdict", "pass"))
    assert {each["at"]: each["to"] for each in found["attempts"]} == attempts
    assert [each["at"] for each in found["retrained"]] == [window for window, to in attempts.items() if to]
    monitored = [call[1] for call in calls if call[0] == "monitor"]
    assert [(each["window"], each["error"]) for each in found["monitoring"]] == [(name, 0.5) for name in monitored]


def test_a_first_model_that_the_gate_refuses_is_not_registered():
    steps = Steps()
    found = lifecycle.run(PretendedSteps(verdict="fail"), steps)
    assert steps.names[-2:] == ["gate", "keep"]
    assert (found["model"], found["verdict"]) == (None, "fail")
    assert "comparison" not in found["gate"]


@pytest.mark.parametrize(("inputs", "message"), [({"rows": 1}, "^rows: no input"), ({"source": 3}, "^source: must be")])
def test_inputs_that_a_lab_has_not_are_named(inputs, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        make_pipeline("bike", Settings(home=tmp_path)).complete(inputs)


@pytest.fixture
def hands(tmp_path):
    """Steps by hand, as a command has them: what was done before is read from the file."""

    def make(lab=None, **options):
        lab = lab or PretendedSteps(**options)
        lab.settings = Settings(home=tmp_path)
        return ByHand(lab)

    return make


def test_each_step_by_hand_goes_on_from_what_the_last_command_left(hands, tmp_path):
    lab = PretendedSteps(alarms=WINDOWS, challengers={"w1": "toy@2"})
    assert hands(lab).data() == {"data": {"sha256": "abc"}, "quality": {"findings": []}}
    assert hands(lab).train()["gate"]["verdict"] == "pass"
    assert hands(lab).register()["champion"] == "toy@1"
    assert hands(lab).monitor()["window"] == "w1"
    assert hands(lab).retrain()["to"] == "toy@2"
    assert hands(lab).monitor()["window"] == "w2"
    assert hands(lab).retrain()["to"] is None
    assert lab.calls == [
        DEPLOYED, QUIET, ("retrain", "w1", "w1", "toy@1"), ("monitor", "w2", "toy@2", 0),
        ("retrain", "w2", "w2", "toy@2"),
    ]  # fmt: skip
    assert (tmp_path / "labs" / "toy.json").is_file()
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
    with pytest.raises(CannotRun, match=f"`llmops lab toy {first}` must come first"):
        getattr(hands(), step)()


def test_by_hand_a_model_that_the_gate_refuses_is_registered_and_the_champion_is_watched_after_its_training(hands):
    hands(verdict="fail").train()
    refused = {"model": {"ref": "toy@1", "trained_on": "first"}, "champion": None, "reasons": ["because"]}
    assert hands().register() == {**refused, "kept": None}
    with pytest.raises(CannotRun, match="register` must come first"):
        hands().monitor()
    lab = PretendedSteps(champion=KEPT)
    assert hands(lab).register() == {**refused, "kept": "toy@7"}
    assert hands(lab).monitor()["window"] == "w3"
    assert lab.calls == [("monitor", "w3", "toy@7", 0)]


def test_by_hand_quiet_windows_join_the_reference_and_one_may_be_looked_at_again(hands):
    lab = PretendedSteps(alarms=("w3",))
    hands(lab).train()
    hands(lab).register()
    for window in (None, None, "w1", None, None):
        hands(lab).monitor(window)
    assert lab.calls == [
        DEPLOYED, QUIET, ("monitor", "w2", "toy@1", 1, "w1"), ("monitor", "w1", "toy@1", 2, "w1", "w2"),
        ("monitor", "w3", "toy@1", 2, "w1", "w2"), ("monitor", "w4", "toy@1", 3, "w1", "w2"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no window 'w9'; there are w1 to w4"):
        hands(lab).monitor("w9")
    with pytest.raises(CannotRun, match="every window up to w4"):
        hands(lab).monitor()


class StepsWithErrors(LabSteps):
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

    return StepsWithErrors(LabOfFour(Settings(home=tmp_path), cycle="test"))


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
