"""The wheel, built through the source distribution and installed elsewhere: whole, and carrying nothing private."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked tree, beside which a careless user left a secret that git ignores."""
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    (tree / "prompts" / "secret.env").write_text("KEY=private")
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (folder / "dist").glob("*.whl")
    return made


def test_the_wheel_holds_the_packages_and_their_data_and_nothing_that_git_ignores_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= {
        "llmops/cli/__init__.py", "service/app.py", "monitoring/run.py", "llmops/py.typed", "llmops/pages/base.html",
        "llmops/_data/prompts/qa/v1.md", "llmops/_data/eval_sets/qa/rows.jsonl", "llmops/_data/eval_sets/qa.toml",
        "llmops/cli/new_project/suite.toml", "llmops/cli/new_project/gitignore", "llmops/pages/page.css",
        "monitoring/default.toml", "monitoring/descriptors/profanity.txt",
    }  # fmt: skip
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"labs", "llmops", "monitoring", "service"}
    for name in names:
        assert "secret" not in name
        assert not name.endswith((".pyc", ".db", ".gguf"))


def test_the_installed_wheel_finds_its_prompts_and_eval_sets_from_anywhere(wheel, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
    environment |= {"PYTHONPATH": str(target), "LLMOPS_HOME": str(tmp_path / "home")}
    # -P keeps the folder that the tests run in off the path: what is found is the installed copy.
    code = "import llmops, sys; sys.stderr.write(llmops.__file__); from llmops.cli import main; "
    code += "main(['eval', 'list', '--json'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(target))
    suites = {suite["name"]: suite["rows"] for suite in json.loads(done.stdout)["suites"]}
    assert suites == {"qa": 120, "grounded": 48, "extract": 48}
