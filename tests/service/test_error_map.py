from __future__ import annotations

import inspect

import pytest

from llmops import errors
from service.error_map import ApiError, api_error

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.LlmopsError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_the_tree_has_an_answer_and_server_faults_hide_their_text(kind):
    error = kind("/secret", "x") if kind is errors.BadFile else kind("/secret")
    answer = api_error(error)
    assert 400 <= answer.status < 600
    # What is wrong with an answer's format was written for clients.
    assert answer.status < 500 or kind is errors.SchemaNotFollowed or "secret" not in answer.message


def test_the_reason_that_a_failure_has_for_clients_is_told_and_its_text_is_not():
    answer = api_error(errors.EngineError("/secret", reason="the upstream sent no answer"))
    assert (answer.status, answer.message) == (502, "the model failed on this request: the upstream sent no answer")


def test_a_subclass_is_answered_as_its_nearest_known_ancestor():
    class Odd(errors.ContextTooLong):
        pass

    assert api_error(Odd("x")).code == "context_length_exceeded"
    assert api_error(KeyError("x")).status == 500


def test_retry_after_is_whole_seconds_and_at_least_one():
    assert ApiError(503, "x", retry_after=0.2).response().headers["retry-after"] == "1"
    assert ApiError(503, "x", retry_after=2.1).response().headers["retry-after"] == "3"
    assert "retry-after" not in ApiError(400, "x").response().headers
