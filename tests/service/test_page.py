"""The page's files and the status it is drawn from, over HTTP."""

import contextlib
import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmops.keys import KeyStore
from llmops.production_log import Feedback, LogRecord
from service.routes.page import MOST_RECORDS, figures, quantile
from tests.at_once import wait_until
from tests.service.conftest import bearer, release, serving
from tests.service.tabular_models import WINE, Hours, row, version

FILES = {
    "/": "text/html",
    "/page/index.html": "text/html",
    "/page/style.css": "text/css",
    "/page/icon.svg": "image/svg+xml",
    **{f"/page/{name}.js": "text/javascript" for name in ("app", "status", "playground", "whatif", "whatif_answers")},
}


@pytest.fixture(scope="module")
def paged(serve_shared):
    with serve_shared(release(1, "previous"), release(2, "champion"), release(3, "challenger", tone="calm")) as running:
        yield running


def status(running):
    reply = running.http.get("/status.json")
    assert reply.status_code == 200
    return reply.json()


def record(release="assistant@2", *, ago=10, **values):
    fields = {"status": 200, "outcome": "ok", "latency_ms": 100.0, "first_token_ms": 20.0,
                              "tokens_out": 10}  # fmt: skip
    return LogRecord("r", datetime.now(UTC) - timedelta(seconds=ago), release=release, **{**fields, **values})


def test_the_page_and_its_files_are_served_under_a_strict_policy(paged):
    for path, kind in FILES.items():
        reply = paged.http.get(path)
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith(kind)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_nothing_from_elsewhere():
    folder = Path(__file__).parents[2] / "service" / "routes" / "page"
    text = "".join(path.read_text() for path in folder.iterdir()).replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?://[^\s\"'`]+|//[a-z]+\.[a-z]+/", text) == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|\bon[a-z]+=\"", text)


def test_no_other_file_is_served_and_one_that_has_not_changed_not_again(paged):
    for name in ("nothing.js", "..%2fpage.py", "%2e%2e/page.py", "../page.py", "page.py"):
        assert paged.http.get(f"/page/{name}").status_code == 404, name
    etag = paged.http.get("/page/app.js").headers["etag"]
    reply = paged.http.get("/page/app.js", headers={"if-none-match": etag})
    assert (reply.status_code, reply.content) == (304, b"")


def test_the_status_names_what_is_served(paged):
    found = status(paged)
    (app,) = found["apps"]
    assert found["ready"]
    assert [item["release"] for item in app["releases"]] == ["assistant@3", "assistant@2", "assistant@1"]
    assert app["releases"][0]["variables"] == ["tone"]
    assert (app["releases"][1]["aliases"], app["releases"][1]["prompt"], app["releases"][1]["model"]) == (
        ["champion"], "qa@2", "tiny@2",
    )  # fmt: skip
    assert found["links"] == {"mlflow": None}


def test_the_status_names_the_tabular_models_that_the_caller_may_use_newest_version_first(tmp_path):
    versions = [version(1, "previous"), version(2, "champion"), version(1, "champion", name="wine", schema=WINE)]
    with with_key(tmp_path, name="team", apps=["bike"], tabular=versions) as (running, secret):
        wait_until(lambda: running.http.get("/status.json", headers=bearer(secret)).status_code == 200)
        found = running.http.get("/status.json", headers=bearer(secret)).json()
    newest, oldest = {"version": "bike@2", "aliases": ["champion"]}, {"version": "bike@1", "aliases": ["previous"]}
    assert (found["apps"], found["tabular"]) == ([], [{"model": "bike", "versions": [newest, oldest]}])


def test_the_status_has_votes_and_the_recent_figures_of_all_and_of_each_release(serve):
    with serve(release(1, "champion"), release(2)) as running:
        failed = record("assistant@2", status=504, outcome="error", tokens_out=0, first_token_ms=None)
        made = [record("assistant@1", latency_ms=float(number)) for number in range(1, 101)]
        running.log.append([*made, failed, record("assistant@1", ago=4000)])
        vote = Feedback("r", made[0].key, "anonymous", app="assistant", release="assistant@1", label="worse",
                        compared_to="r", compared_key=failed.key, compared_release="assistant@2")  # fmt: skip
        running.log.add_feedback(vote)
        found = status(running)
    assert found["recent"] == {
        "seconds": 300.0, "requests": 101, "requests_per_minute": 20.2, "errors": 1, "p50_ms": 50.0, "p95_ms": 95.0,
        "first_token_p50_ms": 20.0, "tokens_per_second": 3.33,
    }  # fmt: skip
    (app,) = found["apps"]
    by_release = {item["release"]: item["recent"] for item in app["releases"]}
    assert by_release["assistant@1"]["requests"] == 100
    assert (by_release["assistant@2"]["errors"], by_release["assistant@2"]["p50_ms"]) == (1, None)
    assert app["votes"] == [{"a": "assistant@1", "b": "assistant@2", "wins_a": 0, "wins_b": 1, "ties": 0}]


def test_under_much_traffic_the_figures_are_those_of_the_newest_records_and_without_the_log_the_rest_is_shown(serve):
    with serve() as running:
        running.log.append([record("assistant@1", ago=100 * number / MOST_RECORDS) for number in range(3000)])
        recent = status(running)["recent"]
    assert recent["requests"] == MOST_RECORDS
    assert 95 < recent["seconds"] < 130
    assert recent["requests_per_minute"] == pytest.approx(60 * MOST_RECORDS / recent["seconds"], rel=0.01)
    with serve() as running:
        running.log.close()
        (Path(running.log.url.removeprefix("sqlite:///"))).write_bytes(b"no database" * 1000)
        found = status(running)
    assert (found["recent"], found["problem"]) == (None, "the production log cannot be read")
    assert found["apps"]


@contextmanager
def with_key(folder, *releases, tabular=(), **key):
    """A gateway with one key, and the key."""
    with contextlib.closing(KeyStore(f"sqlite:///{folder / 'log.db'}")) as keys:
        _, secret = keys.create(**key)
        models = {"tabular": tabular, "open_tabular": lambda _: Hours(example=row(8))}
        with serving(folder, *releases, keys=keys, keys_poll=0.02, **models) as running:
            yield running, secret


def test_where_keys_exist_the_page_is_open_and_the_status_is_not(tmp_path):
    releases = release(1, "champion"), release(1, "champion", app="other")
    with with_key(tmp_path, *releases, name="team", apps=["assistant"]) as (running, secret):
        http, headers = running.http, bearer(secret)
        running.log.append([record("assistant@1"), record("other@1"), record("other@1")])
        wait_until(lambda: http.get("/status.json", headers=headers).status_code == 200)
        assert http.get("/").status_code == 200
        assert http.get("/page/app.js").status_code == 200
        assert http.get("/status.json").status_code == 401
        found = http.get("/status.json", headers=headers).json()
    assert [app["app"] for app in found["apps"]] == ["assistant"]
    assert found["recent"]["requests"] == 1


def test_an_mlflow_server_is_linked_and_never_with_its_password(serve):
    for uri, link in [("http://mlflow:5000", "http://mlflow:5000"), ("http://u:secret@mlflow:5000", None)]:
        with serve(release(1, "champion"), tracking_uri=uri) as running:
            assert status(running)["links"] == {"mlflow": link}


def test_a_quantile_is_one_of_the_values_and_no_records_have_no_figures():
    cases = [([], 0.5, None), ([3.0], 0.5, 3.0), ([1.0, 2.0], 0.5, 1.0), ([4.0, 1.0, 3.0, 2.0], 0.95, 4.0)]
    for values, share, found in [*cases, ([1.0], 0.0, 1.0)]:
        assert quantile(values, share) == found
    assert figures([], 300) is None
