"""What the labs ask of the gateway, over HTTP as any client would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llmops.errors import CannotRun

_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """model: which version answered. predictions: one for each row."""

    model: str
    predictions: Sequence[Any]


class GatewayClient:
    """Predictions and truths. Close it, or use it as a context."""

    def __init__(self, url: str) -> None:
        import httpx

        self._http = httpx.Client(base_url=url, timeout=_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], request_id: str | None = None) -> Served:
        """What the gateway predicts. request_id: names the request for good: asked again, it is answered from what is
        stored, and logged once.

        Raises:
            CannotRun: no answer, or an error.
        """
        headers = {"x-request-id": request_id, "idempotency-key": request_id} if request_id else {}
        reply = self._post(f"/v1/predict/{model}", {"rows": list(rows)}, headers)
        return Served(reply["model"], reply["predictions"])

    def tell_truth(self, request_id: str, truth: Sequence[Any]) -> None:
        """Says what the rows of a request really were; None for those that nobody knows yet. Raises CannotRun."""
        self._post("/v1/feedback", {"request_id": request_id, "truth": list(truth)}, {})

    def _post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        import httpx

        try:
            reply = self._http.post(path, json=body, headers=dict(headers))
        except httpx.HTTPError as error:
            raise CannotRun(f"the gateway does not answer {path}: {error}") from error
        if reply.status_code >= 400:
            message = reply.json().get("error", {}).get("message", "") if reply.content else ""
            raise CannotRun(f"the gateway answered {path} with {reply.status_code}: {message}")
        return reply.json()
