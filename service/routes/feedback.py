"""`POST /v1/feedback`: what users say of answers, and late truths of predictions, joined to the production log."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import orjson
from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmops.keys import Key
from llmops.processes import run_blocking
from llmops.production_log import Feedback, LogRecord, hidden_if_redacted, is_prediction
from llmops.production_log.record import row_count, values_of
from llmops.tabular.schema import LONGEST_TEXT
from service.access import ANONYMOUS
from service.error_map import ApiError
from service.gateway import Gateway
from service.idempotency import key_of
from service.json_route import JsonRoute
from service.routes.predict import MOST_ROWS
from service.schemas import StrictBody, Text, only, replies

MOST_RECORDS = 100
"""Of one request id that clients use again and again, so many of its newest records are looked at."""


def _without_nul(text: str) -> str:
    # PostgreSQL's text holds every character but this one.
    if "\x00" in text:
        raise ValueError("must not hold the character NUL")
    return text


_Text = Annotated[Text, AfterValidator(_without_nul)]
_ShortText = Annotated[_Text, Field(min_length=1, max_length=255)]
_Value = Annotated[
    bool | int | float | Annotated[_Text, Field(max_length=LONGEST_TEXT)] | None,
    only(f"must be a number, a text of at most {LONGEST_TEXT} characters, true, false or null"),
]


class FeedbackRequest(StrictBody):
    """The body of `POST /v1/feedback`: an opinion on the answer to one request; at least one of score, label, comment,
    truth.

    request_id: the `x-request-id` of the reply. score: any finite number; more than 0 counts as positive. label: a
    word, such as `positive`. comment: at most 4096 characters. user: whom the opinion is from. key: the same key again
    stores nothing new; the header Idempotency-Key does the same. compared_to: the request whose answer to the same
    question this one was compared with; the label `better`, `worse` or `tie` is then a vote between two releases.
    truth: of a prediction, what each row's value really was, in the order of the rows, null where it is not known yet;
    sent again, the last one counts.
    """

    request_id: _ShortText
    score: float | None = None
    label: _ShortText | None = None
    comment: Annotated[_Text, Field(min_length=1, max_length=4096)] | None = None
    user: _ShortText | None = None
    key: _ShortText | None = None
    compared_to: _ShortText | None = None
    truth: Annotated[list[_Value], Field(min_length=1, max_length=MOST_ROWS)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.score is None and self.label is None and self.comment is None and self.truth is None:
            raise PydanticCustomError("fault", "send at least one of score, label, comment and truth")
        return self


class FeedbackReply(BaseModel):
    """What was stored."""

    object: Literal["feedback"]
    id: str
    request_id: str
    at: str
    score: float | None = None
    label: str | None = None
    comment: str | None = None
    user: str | None = None
    caller: str
    compared_to: str | None = None
    compared_release: str | None = None
    truth: list[Any] | None = None


def feedback_router(gateway: Gateway) -> APIRouter:
    """The feedback route of one gateway."""
    router = APIRouter(tags=["feedback"], route_class=JsonRoute)

    @router.post("/v1/feedback", response_class=Response, responses=replies(FeedbackReply))
    def give_feedback(body: FeedbackRequest) -> FeedbackAnswer:
        """Stores an opinion on an answer. The answer's release must belong to an app that the caller may use."""
        return FeedbackAnswer(gateway, body)

    return router


class FeedbackAnswer:
    """An ASGI app that answers one request."""

    def __init__(self, gateway: Gateway, body: FeedbackRequest) -> None:
        self._gateway, self._log, self._body = gateway, gateway.production_log, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope["state"].get("caller", ANONYMOUS)
        key = self._body.key or key_of(scope["headers"])
        stored = await run_blocking(lambda: self._store(caller, key), name="feedback")
        known = stored.to_json()
        reply = {"object": "feedback", "id": known.pop("key"), **known}
        await Response(orjson.dumps(reply), media_type="application/json")(scope, receive, send)

    def _store(self, caller: Key, key: str | None) -> Feedback:
        """Raises ApiError 400, 404, 422 and StoreUnavailable."""
        body = self._body
        record = self._record(body.request_id, caller, "request_id")
        other = None if body.compared_to is None else self._record(body.compared_to, caller, "compared_to")
        if body.truth is not None:
            _check_truth(body.truth, record)
        name = caller.id or caller.name
        # Equal for repetitions.
        own_key = None if key is None else hashlib.sha256(f"{name}\n{key}".encode()).hexdigest()[:32]
        identity: dict[str, Any] = {} if own_key is None else {"key": own_key}
        # The texts as the guards of the answer's release let them into the log.
        said = self._gateway.guards_of(record).feedback(body.model_dump(include={"user", "label", "comment"}))
        given = Feedback(
            request_id=body.request_id,
            record_key=record.key,
            app=record.app,
            release=record.release,
            caller=name,
            user=hidden_if_redacted(body.user, said["user"]),  # a vote counts by its user: hidden, it is still one's
            score=body.score,
            label=said["label"],
            comment=said["comment"],
            compared_to=body.compared_to,
            compared_key=other.key if other is not None else None,
            compared_release=other.release if other is not None else None,
            truth=None if body.truth is None else tuple(body.truth),
            **identity,
        )
        stored = self._log.add_feedback(given)
        if not stored.says_the_same(given):
            message = "key: was used before for another feedback; use a new key for a new one"
            raise ApiError(422, message, param="key", code="idempotency_key_reused")
        return stored

    def _record(self, request_id: str, caller: Key, param: str) -> LogRecord:
        """The newest record of the request id that the caller may know of, its own ones first."""
        records = self._log.read(request_id=request_id, limit=MOST_RECORDS, newest=True)
        open_to_caller = [record for record in records if caller.may_use(record.app or None)]
        if not open_to_caller:
            message = f"{param}: no request {request_id!r} is in the production log"
            raise ApiError(404, message, param=param, code="not_found")
        own = [record for record in open_to_caller if caller.id and record.details.get("key") == caller.id]
        return (own or open_to_caller)[-1]


def _check_truth(truth: Sequence[Any], record: LogRecord) -> None:
    """Raises ApiError 400 unless the record predicted as many values, of the same kind."""
    if not is_prediction(record):
        raise ApiError(400, "truth: the request is no prediction of a tabular model", param="truth")
    if len(truth) != (rows := row_count(record)):
        message = f"truth: must have a value or null for each of the request's {rows} rows, not {len(truth)}"
        raise ApiError(400, message, param="truth")
    kinds = {_kind(value) for value in values_of(record)}
    for row, value in enumerate(truth):
        if value is not None and kinds and _kind(value) not in kinds:
            fault = f"truth[{row}]: must be {' or '.join(sorted(kinds))}, as was predicted, or null"
            raise ApiError(400, fault, param=f"truth[{row}]")


def _kind(value: Any) -> str:
    return "true or false" if isinstance(value, bool) else "text" if isinstance(value, str) else "a number"
