"""Predictions over HTTP: typed rows in, values out, every one of them in the log."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from llmops.errors import CannotRun, EngineBusy
from llmops.production_log import read_predictions
from llmops.tabular import columns_of
from service import predictions as predict_batching
from service.routes.predict import MOST_ROWS, example_row, row_schema
from tests.at_once import wait_until
from tests.service.conftest import assert_refused, bearer
from tests.service.tabular_models import BIKE, WINE, Classes, Hours, row, version

VERSIONS = [version(1, "previous"), version(2, "champion"), version(1, "champion", name="wine", schema=WINE)]


def opened(asked):
    return Classes() if asked.name == "wine" else Hours(float(asked.version))


@pytest.fixture(scope="module")
def served(serve_shared):
    with serve_shared(tabular=VERSIONS, open_tabular=opened) as gateway:
        yield gateway


@pytest.fixture
def serve_bikes(serve):
    """`with serve_bikes(before=…, **options) as gateway:` models that call `before` with the rows of each call."""

    def run(before=lambda _: None, **options):
        return serve(tabular=VERSIONS, **{"open_tabular": lambda _: Hours(before=before), **options})

    return run


def ask(gateway, *rows, model="bike", headers=None, **fields):
    return gateway.http.post(f"/v1/predict/{model}", json={"rows": list(rows), **fields}, headers=headers)


def error(reply):
    return reply.json()["error"]


def test_rows_are_scored_in_order_by_the_champion(served):
    reply = ask(served, row(7), row(8), headers={"x-request-id": "mine"})
    assert reply.json() == {"model": "bike@2", "request_id": "mine", "predictions": [14.0, 16.0]}
    assert reply.headers["x-llmops-model"] == "bike@2"
    assert reply.headers["x-request-id"] == "mine"


def test_a_version_or_an_alias_can_be_named(served):
    named = {"bike@previous": "bike@1", "bike@1": "bike@1", "bike%40champion": "bike@2"}
    assert {model: ask(served, row(), model=model).json()["model"] for model in named} == named


def test_a_classifier_gives_the_probability_of_each_class_and_the_log_has_them(served):
    reply = ask(served, {"alcohol": 14}, {"alcohol": 12.5}, model="wine")
    assert reply.json()["predictions"] == [1, 0]
    probabilities = [{"0": 0.0, "1": 1.0}, {"0": 1.0, "1": 0.0}]
    assert reply.json()["probabilities"] == probabilities
    (record,) = served.log.read(request_id=reply.headers["x-request-id"])
    assert record.details == {"rows": 2, "probabilities": probabilities}


def test_a_prediction_is_in_the_log_before_its_reply_ends(served):
    sent = [row(7), row(8, temperature=None)]
    request_id = ask(served, *sent).headers["x-request-id"]
    (record,) = served.log.read(request_id=request_id)
    assert (record.route, record.release, record.model, record.app) == ("predict", "bike@2", "bike@2", "bike")
    assert (record.status, record.outcome, record.prompt, record.details) == (200, "ok", None, {"rows": 2})
    assert (json.loads(record.input), json.loads(record.output)) == (sent, [14.0, 16.0])
    assert record.latency_ms > 0
    found = [each for each in read_predictions(served.log, "bike") if each.request_id == request_id]
    assert [(each.rows, each.predictions, each.truth) for each in found] == [(sent, [14.0, 16.0], [None, None])]


@pytest.mark.parametrize(
    ("bad", "param", "words"),
    [
        (row("seven"), "rows[2].hour", "must be a whole number, not text"),
        (row(7.5), "rows[2].hour", "must be a whole number"),
        (row(None), "rows[2].hour", "null"),
        (row(weather="fog"), "rows[2].weather", "'clear', 'mist'"),
        (row(holiday=1), "rows[2].holiday", "true or false"),
        (row(wind=3), "rows[2].wind", "unknown"),
        ({"hour": 7}, "rows[2].weather", "missing"),
        ([7], "rows[2]", "must be an object"),
    ],
)
def test_a_wrong_value_names_its_row_and_its_column_and_is_not_logged(served, bad, param, words):
    before = served.log.count()
    reply = ask(served, row(), row(), bad)
    assert_refused(reply, param, "row 2")
    assert_refused(reply, param, words)
    assert served.log.count() == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "rows"),
        ({"rows": []}, "rows"),
        ({"rows": row()}, "rows"),
        ({"rows": [row()], "model": "bike"}, "model"),
        ([row()], None),
    ],
)
def test_a_body_of_another_shape_names_the_field(served, body, param):
    assert_refused(served.http.post("/v1/predict/bike", json=body), param)


def test_one_request_has_a_bounded_number_of_rows(serve):
    with serve(tabular=VERSIONS, open_tabular=opened, max_body_bytes=900_000) as gateway:
        assert len(ask(gateway, *[row()] * MOST_ROWS).json()["predictions"]) == MOST_ROWS
        assert_refused(ask(gateway, *[row()] * (MOST_ROWS + 1)), "rows")
        assert ask(gateway, *[row()] * 2 * MOST_ROWS).status_code == 413


@pytest.mark.parametrize("model", ["boke", "bike@9", "bike@challenger", "assistant"])
def test_an_unknown_model_names_what_there_is(served, model):
    for reply in (ask(served, row(), model=model), served.http.get(f"/v1/predict/{model}/schema")):
        assert (reply.status_code, error(reply)["code"]) == (404, "model_not_found")
        assert "bike, bike@champion, bike@2" in error(reply)["message"]


def test_tabular_models_are_listed_and_do_not_answer_chats(served):
    listed = {card["id"] for card in served.http.get("/v1/models").json()["data"]}
    assert listed == {"bike", "bike@previous", "bike@champion", "bike@1", "bike@2", "wine", "wine@champion", "wine@1"}
    assert served.http.get("/v1/models/bike@2").json()["id"] == "bike@2"
    assert served.chat("bike").status_code == 404


def test_requests_and_rows_are_counted(serve):
    with serve(tabular=VERSIONS, open_tabular=opened) as gateway:
        ask(gateway, row(), row(), row())
        ask(gateway, row("bad"))
        text = gateway.http.get("/metrics").text
    assert 'llmops_predicted_rows_total{target="bike@2"} 3.0' in text
    assert 'llmops_requests_total{outcome="ok",status="200",target="bike@2"} 1.0' in text
    assert 'llmops_refused_requests_total{status="400"} 1.0' in text


def test_a_repeated_idempotency_key_gives_the_first_reply_again(served):
    repeated, mended = {"idempotency-key": "once"}, {"idempotency-key": "mended"}
    before = served.log.count()
    first, again = (ask(served, row(), headers=repeated) for _ in range(2))
    assert (first.content, again.headers["idempotent-replayed"]) == (again.content, "true")
    assert again.headers.get_list("x-llmops-model") == ["bike@2"]
    assert served.log.count() == before + 1
    assert ask(served, row(8), headers=repeated).status_code == 422
    assert ask(served, row(), model="bike@1", headers=repeated).status_code == 422
    assert ask(served, row("bad"), headers=mended).status_code == 400
    assert ask(served, row(), headers=mended).status_code == 200


@pytest.fixture(scope="module")
def with_keys(serve_shared, shared_key_store):
    scopes = {"bike": {"apps": ["bike"]}, "other": {"apps": ["other"]}, "few": {"requests_per_minute": 1}}
    keys = {name: shared_key_store.create(**scope)[1] for name, scope in scopes.items()}
    with serve_shared(tabular=VERSIONS, open_tabular=opened, keys=shared_key_store) as gateway:
        yield gateway, {name: bearer(key) for name, key in keys.items()}


def test_a_key_opens_the_models_of_its_apps_alone_and_its_limit_counts_predictions(with_keys):
    gateway, keys = with_keys
    assert ask(gateway, row()).status_code == 401
    assert ask(gateway, row(), headers=keys["bike"]).status_code == 200
    assert ask(gateway, {"alcohol": 1}, model="wine", headers=keys["bike"]).status_code == 403
    assert gateway.http.get("/v1/predict/wine/schema", headers=keys["bike"]).status_code == 403
    unknown = ask(gateway, row(), model="boke", headers=keys["bike"])
    assert "bike" in unknown.text
    assert "wine" not in unknown.text
    assert "bike" not in ask(gateway, row(), model="boke", headers=keys["other"]).text
    record = gateway.log.read(newest=True, limit=1)[0]
    assert record.caller == record.details["key"]
    replies = [ask(gateway, row(), headers=keys["few"]) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 429]
    assert replies[1].headers["retry-after"]


def test_strangers_are_told_of_the_route_but_of_no_model(with_keys):
    gateway, keys = with_keys
    for headers, shown in (({}, set()), (keys["bike"], {"bike"}), (keys["other"], set())):
        paths = gateway.http.get("/openapi.json", headers=headers).json()["paths"]
        assert "/v1/predict/{model}" in paths
        assert {name for name in ("bike", "wine") if f"/v1/predict/{name}" in paths} == shown


def test_the_schema_describes_a_row_and_its_example_is_accepted(served):
    told = served.http.get("/v1/predict/bike/schema").json()
    assert (told["model"], told["task"], told["output"]) == ("bike@2", "regression", "count")
    assert told["row"]["required"] == ["hour", "weather", "temperature", "holiday"]
    assert told["row"]["properties"]["weather"] == {"enum": ["clear", "mist"]}
    assert told["row"]["properties"]["temperature"]["type"] == ["number", "null"]
    assert told["prediction"] == {"type": "number"}
    assert served.http.post("/v1/predict/bike", json=told["example"]).status_code == 200


def test_the_example_is_the_one_stored_with_the_version_or_made_up_where_it_cannot_be_loaded(serve):
    stored = {"bike@1": row(8), "bike@2": row(17)}

    def load(asked):
        if asked.name == "wine":
            raise CannotRun("gone")
        return Hours(example=stored[asked.ref])

    with serve(tabular=VERSIONS, open_tabular=load, until_ready=False) as gateway:
        for ref, example in {**stored, "wine": example_row(WINE)}.items():
            columns_of(WINE if ref == "wine" else BIKE, [example])  # it fits its schema
            assert gateway.http.get(f"/v1/predict/{ref}/schema").json()["example"] == {"rows": [example]}


def test_the_document_shows_each_models_typed_rows_where_its_schema_can_be_read(served, serve):
    document = served.http.get("/openapi.json").json()
    typed = document["paths"]["/v1/predict/bike"]["post"]
    body = typed["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"]["rows"]["items"] == json.loads(json.dumps(row_schema(BIKE)))
    assert served.http.post("/v1/predict/bike", json=body["example"]).status_code == 200
    assert "parameters" not in typed
    assert typed["responses"].keys() >= {"200", "4XX"}
    broken = dataclasses.replace(version(1, "champion"), schema={})
    with serve(tabular=[broken], open_tabular=opened) as gateway:
        assert "/v1/predict/bike" not in gateway.http.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("failure", "status", "logged"), [(ZeroDivisionError("secret"), 500, [500]), (EngineBusy("secret"), 429, [])]
)
def test_a_model_that_fails_gives_its_status(serve_bikes, failure, status, logged):
    def fail(_):
        raise failure

    with serve_bikes(fail) as gateway:
        reply = ask(gateway, row())
        assert (reply.status_code, "secret" in reply.text) == (status, False)
        assert [record.status for record in gateway.records()] == logged
        assert list(read_predictions(gateway.log, "bike")) == []


@pytest.fixture
def may_end():
    """Lets go what waits for it, at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def test_rows_beyond_what_may_wait_are_told_to_come_back(serve_bikes, monkeypatch, may_end):
    reached = threading.Event()

    def wait(_):
        reached.set()
        assert may_end.wait(30)

    monkeypatch.setattr(predict_batching, "MOST_WAITING_ROWS", 2)
    with serve_bikes(wait) as gateway, ThreadPoolExecutor(1) as pool:
        held = pool.submit(ask, gateway, row(), row())
        wait_until(reached.is_set)
        reply = ask(gateway, row())
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
        may_end.set()
        assert held.result().status_code == 200


def test_a_prediction_that_takes_too_long_and_a_client_that_leaves_are_logged(serve_bikes, may_end):
    with serve_bikes(lambda _: may_end.wait(30), engine_timeout=0.5) as gateway:
        assert ask(gateway, row()).status_code == 504
        with pytest.raises(httpx.ReadTimeout):
            gateway.http.post("/v1/predict/bike", json={"rows": [row()]}, timeout=0.1)
        wait_until(lambda: len(gateway.records()) == 2)
        may_end.set()
        outcomes = [(record.status, record.outcome) for record in gateway.records()]
    assert outcomes == [(504, "error"), (499, "cancelled")]


def test_requests_at_once_get_their_own_rows_answered(served):
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda hour: ask(served, row(hour), row(hour + 1)).json()["predictions"], range(64)))
    assert found == [[2.0 * hour, 2.0 * hour + 2] for hour in range(64)]
