from __future__ import annotations

from pathlib import Path

import pytest

import llmops
from llmops.errors import CannotRun
from llmops.settings import Settings, describe_folder, eval_sets_folder, prompts_folder, with_samples

FINDERS = {"prompts": prompts_folder, "eval_sets": eval_sets_folder}


@pytest.mark.parametrize("name", FINDERS)
def test_an_explicit_folder_is_taken(name, tmp_path):
    assert FINDERS[name](Settings(**{name: tmp_path})) == tmp_path


@pytest.mark.parametrize("name", FINDERS)
def test_an_explicit_folder_that_is_absent_is_named_with_its_variable(name, tmp_path):
    with pytest.raises(CannotRun, match=f"^LLMOPS_{name.upper()}={tmp_path}/none: no such folder$"):
        FINDERS[name](Settings(**{name: tmp_path / "none"}))


@pytest.mark.parametrize("name", FINDERS)
def test_an_explicit_file_is_no_folder(name, tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(CannotRun, match="no such folder"):
        FINDERS[name](Settings(**{name: tmp_path / "f"}))


@pytest.mark.parametrize("name", FINDERS)
def test_a_folder_without_either_uses_the_samples_of_the_checkout_and_says_so(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = FINDERS[name](Settings())
    assert found == Path(llmops.__file__).parents[1] / name
    assert "llmops' own samples" in describe_folder(found)
    assert str(tmp_path / name) in describe_folder(found)


@pytest.mark.parametrize("name", FINDERS)
def test_a_working_folder_that_has_its_own_uses_them(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert FINDERS[name](Settings()) == tmp_path / name
    assert describe_folder(tmp_path / name) == f"{name}: {tmp_path / name}"


@pytest.mark.parametrize("name", FINDERS)
def test_a_project_that_lacks_one_folder_gets_no_samples_for_it(name, tmp_path, monkeypatch):
    other = next(each for each in FINDERS if each != name)
    (tmp_path / other).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotRun, match=f"has {other}/ but no {name}/: make it, or set LLMOPS_{name.upper()}$"):
        FINDERS[name](Settings())


@pytest.mark.parametrize("name", FINDERS)
def test_the_demo_takes_the_samples_also_where_the_working_folder_has_its_own(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert FINDERS[name](with_samples(Settings())) == Path(llmops.__file__).parents[1] / name


@pytest.mark.parametrize("name", FINDERS)
def test_an_explicit_folder_goes_before_the_working_folders_and_the_demos(name, tmp_path, monkeypatch):
    for each in (name, f"other/{name}"):
        (tmp_path / each).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    settings = Settings(**{name: tmp_path / "other" / name})
    assert FINDERS[name](settings) == tmp_path / "other" / name
    assert FINDERS[name](with_samples(settings)) == tmp_path / "other" / name


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with nothing beside it, and a working folder without prompts and eval sets."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "site-packages" / "llmops"
    folder.mkdir(parents=True)
    monkeypatch.setattr("llmops.settings._PACKAGE", folder)
    return folder


@pytest.mark.parametrize("name", FINDERS)
def test_an_installed_package_uses_the_copy_inside_it(package, name):
    (package / "_data" / name).mkdir(parents=True)
    assert FINDERS[name](Settings()) == package / "_data" / name


@pytest.mark.parametrize("name", FINDERS)
def test_another_packages_folder_of_that_name_beside_the_installed_one_is_not_taken(package, name):
    (package / "_data" / name).mkdir(parents=True)
    (package.parent / name).mkdir()
    assert FINDERS[name](Settings()) == package / "_data" / name


@pytest.mark.parametrize("name", FINDERS)
def test_when_there_is_none_the_error_names_the_variable_to_set(package, name):
    with pytest.raises(CannotRun, match=f"set LLMOPS_{name.upper()}$"):
        FINDERS[name](Settings())
