"""The GitHub action without GitHub: its script with a `gh` that keeps comments in a file, and what its YAML names."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action.yml"

# Comments by id. What real `gh` does with `--jq` is done for the one expression that the script asks for.
GH = """
import json, os, pathlib, sys
kept = pathlib.Path(os.environ["COMMENTS"])
comments = json.loads(kept.read_text())
words = sys.argv[1:]
assert words.pop(0) == "api" and os.environ["GH_TOKEN"] == "secret"
if os.environ.get("FORK"):
    sys.exit("HTTP 403: Resource not accessible by integration")
if "--jq" in words:
    assert "repos/o/r/issues/7/comments" in words
    marker = words[words.index("--jq") + 1].split('startswith("')[1].split('")')[0]
    print("\\n".join(number for number, text in comments.items() if text.startswith(marker)))
else:
    method, field = (words[words.index(option) + 1] for option in ("--method", "--field"))
    text = pathlib.Path(field.removeprefix("body=@")).read_text(encoding="utf-8")
    (place,) = [word for word in words if word.startswith("repos/")]
    if method == "POST":
        assert place == "repos/o/r/issues/7/comments"
        comments[str(len(comments) + 1)] = text
    else:
        assert method == "PATCH" and place.startswith("repos/o/r/issues/comments/")
        comments[place.rpartition("/")[2]] = text
    kept.write_text(json.dumps(comments))
"""
LLMOPS = """
import os, pathlib, sys
assert sys.argv[1:5] == ["eval", "changed", "--base", "abc"], sys.argv
if "SAID" in os.environ:
    pathlib.Path(sys.argv[sys.argv.index("--markdown") + 1]).write_text(os.environ["SAID"] * int(os.environ["TIMES"]))
sys.exit(int(os.environ["CODE"]))
"""


def put(folder, name, program):
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{program}", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Job:
    """Runs the script, and has what it left."""

    def __init__(self, folder):
        self.comments_file, self.summary, self.bin = folder / "comments.json", folder / "summary.md", folder / "bin"
        self.bin.mkdir()
        put(self.bin, "gh", GH)
        put(self.bin, "llmops", LLMOPS)
        self.comments_file.write_text(json.dumps({"1": "a person's comment"}))

    def run(self, said, code=0, **environment):
        given = {
            "BASE": "abc",
            "FOLDER": ".",
            "INCONCLUSIVE": "fail",
            "PULL_REQUEST": "7",
            "GH_TOKEN": "secret",
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "COMMENTS": str(self.comments_file),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "CODE": str(code),
            "TIMES": "1",
            **({} if said is None else {"SAID": said}),
        }
        return subprocess.run(
            ["bash", ROOT / "deploy" / "github" / "evals.sh"],
            env={**os.environ, **given, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def comments(self):
        return json.loads(self.comments_file.read_text())


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_there_is_one_comment_and_it_is_updated(job):
    assert job.run("first", code=1).returncode == 1
    assert job.comments == {"1": "a person's comment", "2": "<!-- llmops evals of . -->\nfirst"}
    assert job.run("second").returncode == 0
    assert job.comments == {"1": "a person's comment", "2": "<!-- llmops evals of . -->\nsecond"}
    assert job.summary.read_text() == "firstsecond"


def test_each_project_of_a_repository_has_its_own_comment(job):
    for folder, said in (("shop", "one"), ('apps/desk"; x', "other"), ("shop", "again")):
        assert job.run(said, FOLDER=folder).returncode == 0
    assert list(job.comments.values())[1:] == [
        "<!-- llmops evals of shop -->\nagain",
        "<!-- llmops evals of apps/desk___x -->\nother",
    ]


def test_a_comment_longer_than_github_takes_is_cut_between_characters(job):
    assert job.run("äß€", TIMES="10000").returncode == 0
    text = job.comments["2"]
    assert len(text) < 65_536
    assert re.fullmatch(r"<!-- llmops evals of \. -->\n(äß€)+ä?ß?\n\n… the rest is in the summary of the job\n", text)


def test_where_no_comment_may_be_written_the_gate_still_decides(job):
    for code in (0, 1):
        done = job.run("text", code=code, FORK="yes")
        assert done.returncode == code
        assert "::warning::" in done.stdout
    assert list(job.comments) == ["1"]


def test_evals_that_could_not_run_fail_the_job_and_outside_a_pull_request_nothing_is_posted(job):
    assert job.run(None, code=3).returncode == 3
    assert job.run("text", PULL_REQUEST="").returncode == 0
    assert list(job.comments) == ["1"]


def test_the_action_uses_every_input_and_declares_those_that_it_and_the_new_projects_workflow_use():
    action = yaml.safe_load(ACTION.read_text("utf-8"))
    assert set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", ACTION.read_text("utf-8"))) == set(action["inputs"])
    assert all("${{" not in step.get("run", "") for step in action["runs"]["steps"])  # no text of others in a script
    workflow = yaml.safe_load((ROOT / "llmops" / "cli" / "new_project" / "evals.yml").read_text("utf-8"))
    (used,) = [step for step in workflow["jobs"]["evals"]["steps"] if step["uses"] == "ACTION"]
    assert set(used["with"]) <= set(action["inputs"])
    gitlab = yaml.safe_load((ROOT / "deploy" / "gitlab" / "llmops.gitlab-ci.yml").read_text("utf-8"))
    assert not [name for name in gitlab["llmops-evals"]["variables"] if name.startswith("LLMOPS_")]  # unknown settings
