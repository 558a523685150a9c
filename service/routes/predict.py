"""`POST /v1/predict/{model}`: rows in, predictions out; by the registered tabular models."""

import contextlib
from collections.abc import Iterable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from llmops import tabular
from llmops.errors import Corrupted, EngineBusy, EngineUnavailable
from llmops.keys import Key
from llmops.production_log import PREDICT, LogRecord
from llmops.tabular import BadRow, Column, Kind, RowSchema
from llmops.tabular.schema import LARGEST_INTEGER, LONGEST_TEXT
from llmops.versions import TabularVersion
from service.access import ANONYMOUS, require
from service.answering import UnaryAnswering
from service.error_map import ApiError
from service.gateway import Gateway
from service.json_route import JsonRoute
from service.schemas import ErrorReply, StrictBody, field_path, replies
from service.snapshot import Snapshot, unknown_model

MOST_ROWS = 10_000
"""Rows of one request."""

_PATH = "/v1/predict/{model}"
_TYPES: dict[Kind, dict[str, Any]] = {
    "integer": {"type": "integer", "minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER},
    "number": {"type": "number"},
    "text": {"type": "string", "maxLength": LONGEST_TEXT},
    "boolean": {"type": "boolean"},
}
_EXAMPLES: dict[Kind, Any] = {"integer": 1, "number": 0.5, "text": "text", "boolean": True}


def row_schema(schema: RowSchema) -> dict[str, Any]:
    """JSON Schema of one row: every column is there, and no other."""
    return {
        "type": "object",
        "properties": {column.name: column_schema(column) for column in schema.inputs},
        "required": list(schema.names),
        "additionalProperties": False,
    }


def column_schema(column: Column) -> dict[str, Any]:
    """JSON Schema of one value."""
    if column.categories:
        return {"enum": [*column.categories, *([None] if column.nullable else [])]}
    kind = _TYPES[column.kind]
    return {**kind, "type": [kind["type"], "null"]} if column.nullable else kind


def example_row(schema: RowSchema) -> dict[str, Any]:
    """A row that the model accepts; its values mean nothing."""
    return {
        column.name: column.categories[0] if column.categories else _EXAMPLES[column.kind] for column in schema.inputs
    }


def typed_paths(document: dict[str, Any], versions: Iterable[TabularVersion]) -> dict[str, Any]:
    """For the OpenAPI document: the route of each model as a path of its own, with its rows and values typed.

    A version whose schema cannot be read is left out; what is wrong with it, readiness says.
    """
    general = document["paths"][_PATH]["post"]
    paths = {}
    for version in versions:
        try:
            schema = RowSchema.from_json(version.schema)
        except Corrupted:
            continue
        rows = {"type": "array", "minItems": 1, "maxItems": MOST_ROWS, "items": row_schema(schema)}
        shape = {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}
        body = {"schema": shape, "example": {"rows": [example_row(schema)]}}
        operation = {
            **{name: value for name, value in general.items() if name != "parameters"},
            "summary": f"Predict {schema.output.name} with {version.name}",
            "description": f"As `{_PATH}`; the champion is {version.ref}.",
            "operationId": f"predict_{version.name}",
            "requestBody": {"required": True, "content": {"application/json": body}},
        }
        paths[_PATH.replace("{model}", version.name)] = {"post": operation}
    return paths


# What a row must hold depends on the model, which checks all rows at once: looking at each here would cost as much.
_Row = Annotated[Any, WithJsonSchema({"type": "object", "description": "A value for each column, and no other."})]


class PredictRequest(StrictBody):
    """The body of `POST /v1/predict/{model}`. `GET /v1/predict/{model}/schema` says what a row holds."""

    rows: Annotated[list[_Row], Field(min_length=1, max_length=MOST_ROWS)]


class Predictions(BaseModel):
    """The reply. predictions: a value for each row. probabilities: of each row, by class; only of a classifier."""

    model: str
    request_id: str
    predictions: list[Any]
    probabilities: list[dict[str, float]] | None = None


class RowDescription(BaseModel):
    """What a tabular model reads and gives. row, prediction: JSON Schema of a row, and of a predicted value. output:
    what is predicted. example: a body for `POST /v1/predict/{model}`, with a row of the input example that was stored
    with the model; where there is none, with values that mean nothing."""

    model: str
    task: str
    output: str
    row: dict[str, Any]
    prediction: dict[str, Any]
    example: dict[str, Any]


def predict_router(gateway: Gateway) -> APIRouter:
    """The routes of one gateway's tabular models."""
    router = APIRouter(tags=["predict"], route_class=JsonRoute)
    plain = APIRouter(tags=["predict"], responses={"4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}})

    @router.post("/v1/predict/{model}", response_class=Response, responses=replies(Predictions))
    def predict(model: str, body: PredictRequest) -> Prediction:
        """Scores rows. `model` is a tabular model (its champion), or one of its versions or aliases: `bike@3`."""
        return Prediction(gateway, model, body)

    @plain.get("/v1/predict/{model}/schema")
    async def describe_rows(model: str, request: Request) -> RowDescription:
        """What a row of the model holds."""
        caller: Key = getattr(request.state, "caller", ANONYMOUS)
        version = _chosen(gateway.keeper.snapshot, model, caller)
        schema, example = RowSchema.from_json(version.schema), None
        # What its rows hold is known also where the model cannot be loaded.
        with contextlib.suppress(EngineUnavailable):
            example = (await gateway.tabular.model(version)).example
        return RowDescription(
            model=version.ref,
            task=schema.task,
            output=schema.output.name,
            row=row_schema(schema),
            prediction=column_schema(schema.output),
            example={"rows": [example or example_row(schema)]},
        )

    router.routes.extend(plain.routes)
    return router


class Prediction(UnaryAnswering):
    """An ASGI app that answers one request."""

    # What refuses a body of the wrong shape, or for load, leaves no record on any route.
    unlogged = (ApiError, EngineBusy)

    def __init__(self, gateway: Gateway, model: str, body: PredictRequest) -> None:
        super().__init__(gateway)
        self._asked, self._rows = model, body.rows
        self._scored: tabular.Predictions | None = None

    def choose(self) -> str:
        self._version = _chosen(self._gateway.keeper.snapshot, self._asked, self.arrival.caller)
        return self._version.ref

    async def make(self) -> bytes:
        """Raises ApiError 400 naming the row and the column at fault."""
        model = await self._gateway.tabular.model(self._version)
        try:
            scored = await self._gateway.predictions.predict(model, self._rows)
        except BadRow as bad:
            place = ("rows", bad.row) if bad.column is None else ("rows", bad.row, bad.column)
            raise ApiError(400, str(bad), param=field_path(place)) from bad
        self._scored = scored
        reply = {"model": self._version.ref, "request_id": self.arrival.request_id, "predictions": scored.values}
        if scored.probabilities is not None:
            reply["probabilities"] = scored.probabilities
        return orjson.dumps(reply)

    def record(self, status: int, outcome: str, error: str | None = None) -> LogRecord:
        """With rows, predictions and probabilities, as `llmops.production_log.record` reads them."""
        ref, scored = self._version.ref, self._scored
        details = {"rows": len(self._rows), "error": error, "key": self.arrival.key_id}
        return self.arrival.record(
            status,
            outcome,
            details | {"probabilities": None if scored is None else scored.probabilities},
            input=orjson.dumps(self._rows).decode(),
            output="" if scored is None else orjson.dumps(scored.values).decode(),
            release=ref,
            model=ref,
            tokens_in=0,
            tokens_out=0,
            route=PREDICT,
        )


def _chosen(snapshot: Snapshot, asked: str, caller: Key) -> TabularVersion:
    """Raises ApiError 404, naming what the caller may ask for, and 403."""
    version = snapshot.tabular.get(asked)
    if version is None:
        raise unknown_model(asked, [name for name, each in snapshot.tabular.items() if caller.may_use(each.name)])
    require(caller, version.name)
    return version
