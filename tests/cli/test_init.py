"""`llmops init`: the project that it makes works at once."""

import json
import os
from pathlib import Path

import pytest
import yaml

from llmops.cli.init import _installed_from
from llmops.settings import Settings
from tests.registered_home import register_tiny


@pytest.fixture
def registered(home: Path) -> Path:
    """A home that has a made-up model of the default one's name, so that none is downloaded."""
    register_tiny(Settings.from_environment(), "smollm2-135m-instruct")
    return home


def test_a_new_project_holds_what_is_needed_and_its_suite_runs_at_once(llmops, registered, tmp_path, monkeypatch):
    made = llmops("init", "my-shop", "--json").json
    assert (made["prompt"], made["model"], made["home"]) == ("my-shop@1", "smollm2-135m-instruct@1", str(registered))
    project = tmp_path / "my-shop"
    files = [str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(made["files"])
    assert all("PROJECT" not in path.read_text("utf-8") for path in project.rglob("*") if path.is_file())
    assert {".gitignore", ".github/workflows/evals.yml", "tests/test_my-shop.py"} <= set(files)

    monkeypatch.chdir(project)
    (run,) = llmops("eval", "run", "my-shop", "--json").json["runs"]
    assert (run["rows"], run["generated"]) == (10, 10)


def test_in_a_git_repository_the_workflow_stands_where_github_looks_for_it_and_two_projects_do_not_mix(
    llmops, registered, tmp_path
):
    (tmp_path / ".git").mkdir()
    for folder in ("shop", "apps/desk"):
        made = llmops("init", folder, "--action", "o/copy@v1", "--json").json
        name = Path(folder).name
        assert os.path.normpath(tmp_path / folder / made["files"][-1]) == str(
            tmp_path / ".github" / "workflows" / f"evals-{name}.yml"
        )
        workflow = yaml.safe_load((tmp_path / ".github" / "workflows" / f"evals-{name}.yml").read_text("utf-8"))
        (step,) = [step for step in workflow["jobs"]["evals"]["steps"] if step["uses"] == "o/copy@v1"]
        assert step["with"]["working-directory"] == folder
        assert workflow[True]["pull_request"]["paths"] == [f"{folder}/prompts/**"]  # YAML reads `on` as true
    llmops("init", "other/desk").refused(2, "evals-desk.yml is there already")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("source", "origin", "uses"),
    [
        ({"url": "https://github.com/o/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, "", "o/r@abc"),
        ({"url": "https://gitlab.com/o/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, "", None),
        ({"url": "FOLDER", "dir_info": {}}, "git@github.com:o/r.git", "o/r@main"),
        ({"url": "FOLDER", "dir_info": {"editable": True}}, "https://github.com/o/r", "o/r@main"),
        ({"url": "FOLDER", "dir_info": {}}, "", None),
        ({"url": "file:///a/llmops-0.1.0-py3-none-any.whl", "archive_info": {}}, "", None),
        ({}, "", None),
    ],
)
def test_the_workflow_uses_the_copy_that_llmops_was_installed_from_where_that_is_known(
    source, origin, uses, monkeypatch, tmp_path
):
    checkout = tmp_path / "check out"
    (checkout / ".git").mkdir(parents=True)
    remote = f'[remote "origin"]\n\turl = {origin}\n' if origin else ""
    (checkout / ".git" / "config").write_text(f"[core]\n\tbare = false\n{remote}[branch]\n")
    found = {name: value if value != "FOLDER" else checkout.as_uri() for name, value in source.items()}
    installed = tmp_path / "llmops-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: llmops\nVersion: 0.1.0\n")
    if found:
        (installed / "direct_url.json").write_text(json.dumps(found))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _installed_from() == uses


def test_a_project_without_the_workflow_has_nothing_of_github(llmops, registered, tmp_path):
    made = llmops("init", "shop", "--no-github", "--json").json
    assert not (tmp_path / "shop" / ".github").exists()
    assert not [name for name in made["files"] if "github" in name]


def test_a_folder_that_is_not_empty_is_refused_untouched(llmops, home, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "kept.txt").write_text("mine")
    llmops("init", "shop").refused(2, "shop is not empty")
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("name", ["two words", "1st", "sh{o}p"])
def test_a_name_that_no_prompt_can_have_is_refused(llmops, home, tmp_path, name):
    llmops("init", name).refused(2, "must be letters")
    assert not (tmp_path / name).exists()


def test_folders_that_the_environment_names_are_pointed_out(llmops, registered, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMOPS_PROMPTS", str(tmp_path))
    assert "LLMOPS_PROMPTS is set" in llmops("init", "shop").err


def test_where_no_model_can_be_downloaded_the_project_is_there_and_what_is_missing_is_said(
    llmops, home, monkeypatch, tmp_path
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    llmops("init", "shop").refused(3, "shop is made", "llmops models pull", "error: ")
    assert (tmp_path / "shop" / "eval_sets" / "shop.toml").exists()
    assert [each["name"] for each in llmops("prompts", "list", "--json").json["prompts"]] == ["shop"]
