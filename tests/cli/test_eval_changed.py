"""`llmops eval changed` in a git repository: which versions it gates, against which, and how it ends."""

import subprocess
from pathlib import Path

import pytest

from llmops.settings import Settings
from tests.registered_home import prompt_text, register_tiny, write_prompts, write_suite


@pytest.fixture
def project(home: Path, tmp_path: Path) -> Path:
    """A repository with one commit: prompt `qa`, in two versions, and a suite, half of whose rows are right."""
    register_tiny(Settings.from_environment())
    write_suite(tmp_path / "eval_sets", "sums", 8)
    write_prompts(tmp_path / "prompts")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "prompts", "eval_sets")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_new_version_is_gated_against_the_last_of_the_commit(llmops, project):
    assert llmops("eval", "changed", "--base", "main", "--json").json == {"base": "main", "changed": [], "gates": []}

    (project / "prompts" / "qa" / "v3.md").write_text(prompt_text("Be brief."))  # not committed: seen all the same
    markdown = project / "evals.md"
    done = llmops("eval", "changed", "--base", "main", "--markdown", str(markdown), "--json")
    (found,) = done.json["gates"]
    assert (found["suite"], found["prompt"], found["against"]) == ("sums", "qa@3", "qa@2")
    assert (found["verdict"], done.code) == ("inconclusive", 1)  # 8 rows are too few
    text = markdown.read_text("utf-8")
    assert text.startswith("# llmops evals\n")
    assert "inconclusive" in text

    git(project, "checkout", "-q", "-b", "change")
    git(project, "add", "prompts")
    git(project, "commit", "-q", "-m", "change")
    git(project, "checkout", "-q", "main")
    (project / "prompts" / "qa" / "v4.md").write_text(prompt_text("Main went on."))
    git(project, "add", "prompts")
    git(project, "commit", "-q", "-m", "elsewhere")
    git(project, "checkout", "-q", "change")  # which `main` has left: what it did since is no change of ours
    done = llmops("eval", "changed", "--base", "main", "--inconclusive", "pass", "--json")
    assert ([gate["prompt"] for gate in done.json["gates"]], done.code) == (["qa@3"], 0)


def test_a_version_edited_in_place_is_a_new_one_and_a_prompt_of_no_suite_is_named(llmops, project):
    (project / "prompts" / "qa" / "v2.md").write_text(prompt_text("Be kinder."))
    write_prompts(project / "prompts", "lone", ["Alone."])
    done = llmops("eval", "changed", "--base", "HEAD", "--json")
    assert done.json["changed"] == ["lone@1", "qa@3"]
    assert [(gate["prompt"], gate["against"]) for gate in done.json["gates"]] == [("qa@3", "qa@2")]
    assert "lone has changed, and no suite uses it" in done.err


def test_a_new_prompt_has_floors_to_meet_and_fails_below_them(llmops, project):
    write_prompts(project / "prompts", "new", ["New."])
    write_suite(project / "eval_sets", "news", 8, prompt="new")
    done = llmops("eval", "changed", "--base", "main", "--json")
    assert [(gate["prompt"], gate["against"], gate["verdict"]) for gate in done.json["gates"]] == [
        ("new@1", None, "pass")
    ]
    suite = project / "eval_sets" / "news.toml"
    suite.write_text(suite.read_text("utf-8").replace("correct = 0.4", "correct = 0.9"))
    done = llmops("eval", "changed", "--base", "main", "--inconclusive", "pass", "--json")
    assert ([gate["verdict"] for gate in done.json["gates"]], done.code) == (["fail"], 1)


def test_what_git_or_a_prompt_file_lacks_is_said(llmops, project):
    llmops("eval", "changed", "--base", "nowhere").refused(3, "git rev-parse", "nowhere")
    llmops("eval", "changed", "--base=--help").refused(3, "git rev-parse")
    (project / "prompts" / "qa" / "v3.md").write_text("# user\n{{ question\n")
    llmops("eval", "changed", "--base", "main").refused(3, "v3.md")


def test_a_clone_without_its_history_is_refused_and_says_what_it_needs(llmops, project, monkeypatch):
    git(project, "branch", "old")
    git(project, "commit", "-q", "--allow-empty", "-m", "second")
    git(project, "clone", "-q", "--depth", "1", f"file://{project}", "shallow")
    monkeypatch.chdir(project / "shallow")
    git(project / "shallow", "fetch", "-q", "--depth", "1", "origin", "old:old")
    llmops("eval", "changed", "--base", "old").refused(3, "a clone must have all of it")
