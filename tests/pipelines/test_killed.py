"""A pipeline whose process is killed goes on in another one, and does each finished step once."""

import json
import subprocess
import sys

import pytest

# Three steps that add a line to a file each. `inside` kills within a step, whose result is then lost; `after` behind
# it, when it is kept; `recorded` when it is written down and not yet kept.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from llmops.pipelines import Pipeline, Pipelines
from llmops.settings import Settings

home, url, where, victim = sys.argv[1:5]
calls, names = Path(home) / "calls", ["load", "train", "register"]

def die(place, name):
    if (place, name) == (where, victim):
        os.kill(os.getpid(), signal.SIGKILL)

class Book:
    def begin(self, pipeline, cycle, inputs): pass
    def step(self, record): die("recorded", record.name)
    def end(self, result, error): pass

def work(name, before):
    with calls.open("a") as file:
        file.write(name + "\\n")
    die("inside", name)
    return before + [name]

def function(steps, inputs):
    made = []
    for name in names:
        made = steps.do(name, work, name, made)
        die("after", name)
    return {"made": made}

with Pipelines(Settings(home=Path(home), pipelines_url=url or None), recorder=Book()) as pipelines:
    done = pipelines.run(Pipeline("lab", function, ""), {"n": 1}, cycle="x")
print(json.dumps(done.to_json()))
"""
NAMES = ["load", "train", "register"]


def run(home, url="", where="", victim=""):
    """The run's JSON; None where it was killed."""
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(home), url, where, victim]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stderr) in ((-9, ""), (0, "")), ended.stderr
    return None if ended.returncode else json.loads(ended.stdout)


def check_going_on(home, url, where, victim):
    assert run(home, url, where, victim) is None
    done = run(home, url)

    finished = NAMES.index(victim) + (where == "after")
    calls = (home / "calls").read_text().split()
    assert calls == NAMES if where == "after" else [*NAMES[: finished + 1], *NAMES[finished:]]
    assert {step["name"]: step["status"] for step in done["steps"]} == {
        name: "skipped" if number < finished else "done" for number, name in enumerate(NAMES)
    }
    assert (done["status"], done["result"], done["inputs"]) == ("finished", {"made": NAMES}, {"n": 1})


def test_a_step_that_was_killed_is_done_again_and_those_before_it_are_not(tmp_path):
    check_going_on(tmp_path, "", "inside", "train")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inside", "recorded", "after"])
@pytest.mark.parametrize("victim", NAMES)
def test_it_goes_on_wherever_it_was_killed(tmp_path, where, victim):
    check_going_on(tmp_path, "", where, victim)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inside", "after"])
def test_it_goes_on_in_postgresql(tmp_path, postgres_database, where):
    check_going_on(tmp_path, postgres_database, where, "train")
    calls = (tmp_path / "calls").read_text()
    assert {step["status"] for step in run(tmp_path, postgres_database)["steps"]} == {"skipped"}
    assert (tmp_path / "calls").read_text() == calls


@pytest.mark.slow
def test_a_run_may_be_killed_again_and_again(tmp_path):
    for where, victim in (("inside", "load"), ("after", "load"), ("recorded", "train"), ("inside", "register")):
        assert run(tmp_path, "", where, victim) is None
    assert run(tmp_path)["result"] == {"made": NAMES}
    assert (tmp_path / "calls").read_text().split() == ["load", "load", "train", "train", "register", "register"]
