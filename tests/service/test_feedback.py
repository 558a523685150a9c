"""Feedback over HTTP: joined to the log, and open to those alone who may use the app."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from llmops.production_log import VoteCounts, read_predictions
from tests.service.conftest import assert_refused, bearer, release
from tests.service.tabular_models import WINE, Classes, Hours, row
from tests.service.tabular_models import version as bike


@pytest.fixture
def give(gateway):
    return lambda body, **headers: gateway.http.post("/v1/feedback", json=body, headers=headers)


@pytest.fixture
def answered(gateway):
    """The request id of an answer."""
    return gateway.chat().headers["x-request-id"]


def problem(reply):
    return reply.json()["error"]


def test_feedback_joins_its_record_and_several_opinions_are_kept(gateway, give, answered):
    reply = give({"request_id": answered, "score": 1, "label": "good", "comment": "Ja.", "user": "ida"})
    assert reply.status_code == give({"request_id": answered, "score": -1}).status_code == 200
    (record,) = gateway.log.read(request_id=answered, feedback=True)
    feedback, other = record.feedback
    assert (feedback.score, feedback.label, feedback.comment, feedback.user) == (1.0, "good", "Ja.", "ida")
    assert (feedback.caller, feedback.app, feedback.release) == ("anonymous", "assistant", "assistant@1")
    assert other.score == -1
    assert reply.json() == {
        "object": "feedback", "id": feedback.key, "request_id": answered, "at": feedback.at.isoformat(),
        "score": 1.0, "label": "good", "comment": "Ja.", "user": "ida", "caller": "anonymous",
    }  # fmt: skip
    assert reply.headers["x-request-id"] != answered


@pytest.mark.parametrize("as_header", [False, True])
def test_a_repetition_with_its_key_stores_nothing_new_and_another_opinion_is_refused(
    gateway, give, answered, as_header
):
    headers, key = ({"Idempotency-Key": "k1"}, {}) if as_header else ({}, {"key": "k1"})
    first, second = (give({"request_id": answered, "score": 1, **key}, **headers) for _ in range(2))
    assert first.status_code == 200
    assert second.json() == first.json()
    refused = give({"request_id": answered, "score": -1, **key}, **headers)
    assert refused.status_code == 422
    assert problem(refused)["code"] == "idempotency_key_reused"
    assert len(gateway.log.feedback_since(0)[0]) == 1


def test_a_vote_between_two_answers_is_counted(serve):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        a, b = (gateway.chat(model).headers["x-request-id"] for model in ("assistant", "assistant@challenger"))
        vote = {"request_id": b, "label": "better", "compared_to": a}
        reply = gateway.http.post("/v1/feedback", json=vote)
        assert reply.json()["compared_release"] == "assistant@1"
        assert gateway.log.votes("assistant") == {("assistant@1", "assistant@2"): VoteCounts(b=1)}


def test_an_unknown_request_is_not_found(give, answered):
    for field in ("request_id", "compared_to"):
        reply = give({"request_id": answered, "compared_to": answered, "score": 1, field: "req_nowhere"})
        assert (reply.status_code, problem(reply)["param"], problem(reply)["code"]) == (404, field, "not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"score": 1}, "request_id"),
        ({"request_id": "", "score": 1}, "request_id"),
        ({"request_id": 7, "score": 1}, "request_id"),
        ({"request_id": "a\x00b", "score": 1}, "request_id"),
        ({"request_id": "r", "score": "good"}, "score"),
        ({"request_id": "r", "score": True}, "score"),
        ({"request_id": "r", "score": 10**400}, None),  # no number that JSON's reader takes
        ({"request_id": "r", "label": "x" * 256}, "label"),
        ({"request_id": "r", "label": ""}, "label"),
        ({"request_id": "r", "comment": "x" * 4097}, "comment"),
        ({"request_id": "r", "score": 1, "user": []}, "user"),
        ({"request_id": "r", "score": 1, "stars": 5}, "stars"),
        ({}, "request_id"),
    ],
)
def test_a_wrong_field_is_named(shared_gateway, body, param):
    content = json.dumps(body)
    reply = shared_gateway.http.post("/v1/feedback", content=content, headers={"content-type": "application/json"})
    assert_refused(reply, param)


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        *((empty, "request_id") for empty in (b"", b" \n", b"{}")),
        (b'{"request_id": "r"}', "at least one of score, label, comment and truth"),
    ],
)
def test_feedback_without_content_is_told_what_is_missing(shared_gateway, content, missing):
    reply = shared_gateway.http.post("/v1/feedback", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert missing in problem(reply)["message"]


def test_a_key_reaches_the_answers_of_its_apps_alone(serve, key_store):
    keys = {apps: key_store.create(apps=apps) for apps in (None, ("assistant",), ("other",))}
    with serve(keys=key_store) as gateway:
        headers = {apps: bearer(text) for apps, (_, text) in keys.items()}
        asked = [
            gateway.chat(model, headers=headers[None]).headers["x-request-id"] for model in ("assistant", "tiny@1")
        ]
        for apps, statuses in ((None, [200, 200]), (("assistant",), [200, 404]), (("other",), [404, 404])):
            bodies = [{"request_id": request_id, "score": 1} for request_id in asked]
            replies = [gateway.http.post("/v1/feedback", json=body, headers=headers[apps]) for body in bodies]
            assert [reply.status_code for reply in replies] == statuses
        stored = [feedback.caller for feedback in gateway.log.feedback_since(0)[0]]
    assert stored == [keys[apps][0].id for apps in (None, None, ("assistant",))]


def test_of_a_repeated_request_id_the_callers_own_request_is_meant_or_else_the_newest(serve, key_store):
    headers = {name: {**bearer(key_store.create(name)[1]), "x-request-id": "mine"} for name in ("anna", "ben", "carl")}
    with serve(keys=key_store) as gateway:
        for name in ("anna", "ben"):
            gateway.chat(headers=headers[name])
        for name in ("anna", "carl"):
            said = {"request_id": "mine", "label": name}
            assert gateway.http.post("/v1/feedback", json=said, headers=headers[name]).status_code == 200
        records = gateway.log.read(request_id="mine", feedback=True)
    assert [[each.label for each in record.feedback] for record in records] == [["anna"], ["carl"]]


def test_many_opinions_at_once_are_all_kept(gateway, give, answered):
    with ThreadPoolExecutor(12) as pool:
        replies = pool.map(lambda score: give({"request_id": answered, "score": score}), range(12))
        assert {reply.status_code for reply in replies} == {200}
    (record,) = gateway.log.read(feedback=True)
    assert sorted(feedback.score for feedback in record.feedback) == list(range(12))


BIKES = {
    "tabular": [bike(1, "champion"), bike(1, "champion", name="wine", schema=WINE)],
    "open_tabular": lambda asked: Classes() if asked.name == "wine" else Hours(),
}


@pytest.fixture(scope="module")
def predicting(serve_shared):
    with serve_shared(release(1, "champion"), **BIKES) as gateway:
        yield gateway


def predict(gateway, model="bike", rows=None):
    """The request id of a prediction."""
    return gateway.http.post(f"/v1/predict/{model}", json={"rows": rows or [row(7), row(8)]}).headers["x-request-id"]


def tell(gateway, request_id, truth, **fields):
    return gateway.http.post("/v1/feedback", json={"request_id": request_id, "truth": truth, **fields})


def test_truths_come_late_the_last_ones_count_and_one_sent_again_with_its_key_is_stored_once(predicting):
    asked = predict(predicting)
    for truth in ([7, None], [7.5, 8]):
        reply = tell(predicting, asked, truth)
        assert (reply.status_code, reply.json()["truth"]) == (200, truth)
    first, again = (tell(predicting, asked, [7.5, 8], key="k") for _ in range(2))
    assert first.json() == again.json()
    assert tell(predicting, asked, [1, 3], key="k").status_code == 422
    (found,) = (each for each in read_predictions(predicting.log, "bike") if each.request_id == asked)
    assert (found.predictions, found.truth) == ([7.0, 8.0], [7.5, 8])


@pytest.mark.parametrize(
    ("truth", "param", "words"),
    [
        ([1], "truth", "each of the request's 2 rows, not 1"),
        ([1, 2, 3], "truth", "not 3"),
        ([1, "two"], "truth[1]", "must be a number, as was predicted, or null"),
        ([True, 2], "truth[0]", "must be a number"),
        ([[1], 2], "truth[0]", "true, false or null"),
        ([1, "a\x00b"], "truth[1]", "null"),
        ([], "truth", "at least 1"),
        ({}, "truth", "list"),
        ([1] * 10_001, "truth", "at most 10000"),
    ],
)
def test_a_truth_that_does_not_fit_the_prediction_is_refused_by_name(predicting, truth, param, words):
    assert_refused(tell(predicting, predict(predicting), truth), param, words)


def test_a_truth_is_of_a_prediction_and_a_class_of_its_kind_and_may_be_one_that_was_not_predicted(predicting):
    asked = predict(predicting, "wine", [{"alcohol": 12}])
    assert tell(predicting, asked, [2]).status_code == 200
    assert tell(predicting, asked, ["red"]).status_code == 400
    assert_refused(tell(predicting, predicting.chat().headers["x-request-id"], [1]), "truth")
    assert problem(tell(predicting, "req_nowhere", [1]))["code"] == "not_found"


def test_a_prediction_whose_rows_are_gone_still_counts_them(predicting):
    asked = predict(predicting)
    predicting.log.delete_texts(datetime.now(UTC) + timedelta(hours=1))
    assert tell(predicting, asked, [1]).status_code == 400
    assert tell(predicting, asked, [1, 2]).status_code == 200
