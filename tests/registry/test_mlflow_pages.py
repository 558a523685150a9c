"""MLflow's server as `llmops ui` starts it, and its pages in a browser."""

from __future__ import annotations

import json
import shutil

import pytest

from deploy.services.servers import ui_server
from docs.screenshots import draw, pages_of
from llmops.registry.mlflow_pages import COLUMNS_VARIABLE, create_app
from tests.registered_home import Workshop
from tests.service.browser import chromium


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")  # of MLflow
def test_the_script_stands_before_mlflows_own_and_nowhere_else(monkeypatch: pytest.MonkeyPatch):
    import mlflow.server

    monkeypatch.setitem(mlflow.server.app.view_functions, "serve", mlflow.server.app.view_functions["serve"])
    monkeypatch.setenv(COLUMNS_VARIABLE, json.dumps(["correct", "</script>"]))
    create_app()
    client = mlflow.server.app.test_client()
    page = client.get("/").text
    assert page.index("correct_assessment_column") < page.index("static-files")
    with client.get("/static-files/index.html") as untouched:
        assert page.count("</script>") == untouched.text.count("</script>") + 1
    assert client.get("/version").text == mlflow.__version__


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_on_a_narrow_screen_the_deciding_score_the_prompt_version_and_the_review_are_in_sight(
    workshop: Workshop, tmp_path, monkeypatch, llmops
):
    monkeypatch.setenv("LLMOPS_EVAL_SETS", str(workshop.folder))
    monkeypatch.setenv("LLMOPS_HOME", str(workshop.settings.home))
    workshop.run(("qa@1", "qa@2"))
    assert llmops("review", "open", "sums", "--rows", "2").code == 0
    pages = dict(pages_of(workshop.registry.store, "sums"))
    deciding = workshop.evaluations.suite("sums").gate.primary
    right_edge = "Math.max(...[...document.querySelectorAll('*')].filter(e => e.children.length == 0 && "
    with ui_server(tmp_path, workshop.settings.home) as url, chromium("chromium") as browser:
        for name, (page, text) in pages.items():
            draw(browser, f"{url}/#/{page}", text)
            assert "Ask a question" not in browser.text()  # the assistant
            if name == "comparison":
                edge = browser.run(
                    f"{right_edge}e.textContent == '{deciding}').map(e => e.getBoundingClientRect().right))"
                )
                assert 0 < edge <= 1440
            if name == "run":
                assert "qa (v2)" in browser.text()
