from __future__ import annotations

from pathlib import Path

import pytest

from llmops import paths
from llmops.errors import CannotRun
from llmops.settings import Settings

FINDERS = {"prompts": paths.prompts_folder, "eval_sets": paths.eval_sets_folder}


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
def test_a_checkout_uses_its_own_folder(name):
    assert FINDERS[name](Settings()) == Path(paths.__file__).parents[1] / name


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with nothing beside it."""
    folder = tmp_path / "site-packages" / "llmops"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths.resources, "files", lambda _name: folder)
    return folder


@pytest.mark.parametrize("name", FINDERS)
def test_an_installed_package_uses_the_copy_inside_it(package, name):
    (package / "_data" / name).mkdir(parents=True)
    assert FINDERS[name](Settings()) == package / "_data" / name


@pytest.mark.parametrize("name", FINDERS)
def test_when_there_is_none_the_error_names_the_variable_to_set(package, name):
    with pytest.raises(CannotRun, match=f"set LLMOPS_{name.upper()}$"):
        FINDERS[name](Settings())
