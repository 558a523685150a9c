"""`llmops init`: the project that it makes works at once."""

from pathlib import Path

import pytest

from llmops.settings import Settings


@pytest.fixture
def registered(home: Path) -> Path:
    """A home that has a made-up model of the default one's name, so that none is downloaded."""
    from llmops.registry import Registry, model_registration

    settings, weights = Settings.from_environment(), home.parent / "made-up.gguf"
    weights.write_bytes(b"GGUF made up")
    model_registration.register(settings, Registry(settings), "smollm2-135m-instruct", f"file:{weights}", "MIT")
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
