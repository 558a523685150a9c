"""What a lab is: its data, candidates and windows, how they are judged, and the registry and gateway it works on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from labs.data import LabData, LabelledRows
from labs.evaluation import Judgement, MetricEstimate, PredictionScorer, judge
from labs.training import Trained
from llmops.errors import CannotRun
from llmops.evaluation.gate_rules import GateRules
from llmops.settings import Settings
from llmops.tabular import TabularModel, load
from monitoring.tabular.settings import TabularSettings

if TYPE_CHECKING:
    from llmops.registry import Registry

Json = dict[str, Any]
FIRST = "first"
"""What the first model is said to be trained on; of later ones it is the window that was the newest."""
_REQUEST_SECONDS = 60.0


class Lab(ABC):
    """One lab. Use it as a context: the gateway that it starts ends with it.

    name: of the lab and its pipeline.
    model_name: of its registered model, MLflow experiment and gate.
    metric: the one that is shown first.
    error_name: of what `error_of` gives, in tables.
    compared_name: of what the monitor compares windows by, which may be another measure.
    baseline: the candidate that others are measured by.
    blocks: rows of one cluster depend on each other.
    labels_late: windows until the labels of one are known.
    judged_late: whether a window is judged once more when its labels have come late.
    reference_grows: a champion's quiet windows, once labelled, join the rows held out that its next windows are
        compared with.
    scorers, rules: how the gate judges a challenger.
    monitoring: what the monitor may alarm about, and how often by mistake, in `windows_in_budget` windows.
    """

    name: ClassVar[str]
    model_name: ClassVar[str]
    metric: ClassVar[str]
    error_name: ClassVar[str]
    compared_name: ClassVar[str]
    baseline: ClassVar[str]
    blocks: ClassVar[bool]
    labels_late: ClassVar[int]
    judged_late: ClassVar[bool] = False
    reference_grows: ClassVar[bool]
    windows_in_budget: ClassVar[int]
    scorers: ClassVar[Sequence[PredictionScorer]]
    rules: ClassVar[GateRules]
    monitoring: ClassVar[TabularSettings]

    def __init__(self, settings: Settings, *, source: str | None = None, cycle: str) -> None:
        """Opens nothing. source: of the data, the catalogue's when None. cycle: which run of the lab this is: names
        requests and registered versions."""
        self.settings, self.source, self.cycle = settings, source, cycle
        self._open = ExitStack()
        self._models: dict[str, TabularModel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    @abstractmethod
    def data(self) -> LabData:
        """The lab's data, fetched and cleaned when first asked for."""

    @abstractmethod
    def first_models(self) -> Sequence[Trained]:
        """A fitted model of each candidate."""

    @abstractmethod
    def windows(self) -> Sequence[str]:
        """The windows to replay, in order."""

    @abstractmethod
    def window(self, name: str) -> LabelledRows:
        """The rows of one."""

    @abstractmethod
    def holdout(self, trained_on: str) -> LabelledRows:
        """Rows that the model which was trained on `trained_on` has not seen: what its windows are compared with."""

    @abstractmethod
    def challenger(self, window: str, since: str, champion: Json) -> Trained | None:
        """A model that knows all that is known by the end of `window`; None when more labels are needed.

        since: the window in which the error was first seen to rise.
        champion: `candidate` and `parameters` of it.
        """

    @abstractmethod
    def evaluate_rows(self, rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
        """Metrics with intervals."""

    def error_of(self, metrics: Mapping[str, MetricEstimate]) -> float:
        """The error that windows are compared by: less is better. Unless a lab says otherwise, `metric`."""
        return metrics[self.metric].value

    def findings(self, models: Sequence[Trained], best: Trained) -> list[Json]:  # noqa: ARG002 - most have none
        """What there is to say of the first models beside metrics and gate: tables, each with `title`, `columns`,
        `rows` and `told`, what they show in a sentence."""
        return []

    def figures(self, model: Trained) -> dict[str, Any]:  # noqa: ARG002 - most have none
        """Pictures of a model beside those of `labs.recording`, by file name."""
        return {}

    def judge(self, challenger: tuple[str, Any], champion: tuple[str, Any] | None, rows: LabelledRows) -> Judgement:
        """The gate's verdict. challenger, champion: a name and the predictions for the rows."""
        return judge(challenger, champion, rows, self.scorers, self.rules)

    @cached_property
    def registry(self) -> Registry:
        from llmops.registry import Registry

        return Registry(self.settings, actor=f"lab {self.name}")

    @cached_property
    def gateway(self) -> GatewayClient:
        """A gateway of the lab's own, started when first needed."""
        from service.serve import running_gateway

        return self._open.enter_context(GatewayClient(self._open.enter_context(running_gateway(self.settings))))

    def request_id(self, window: str) -> str:
        """Of the request that sends a window's rows."""
        return f"{self.name}-{self.cycle}-{window.replace(' ', '-')}"

    def model(self, ref: str) -> TabularModel:
        """A registered version, loaded once: versions never change."""
        if ref not in self._models:
            book = self.registry.tabular_versions
            self._models[ref] = load(book.fetch(book.get(ref)))
        return self._models[ref]

    def predicted(self, ref: str, rows: LabelledRows) -> list[Any]:
        """What a registered version says of rows, in this process."""
        return list(self.model(ref).predict(rows.rows()).values)

    def error(self, rows: LabelledRows, predictions: Sequence[Any]) -> float:
        """The error of predictions for rows."""
        return self.error_of(self.evaluate_rows(rows, np.asarray(predictions, dtype=rows.truth.dtype)))


class GatewayClient:
    """Asks the gateway for predictions and tells it truths, over HTTP as any client would. Close it, or use it as a
    context."""

    def __init__(self, url: str) -> None:
        import httpx

        self._http = httpx.Client(base_url=url, timeout=_REQUEST_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], request_id: str | None = None) -> Json:
        """The gateway's reply: `model`, the version that answered, and `predictions`, one for each row.

        request_id: names the request for good: asked again, it is answered from what is stored, and logged once.

        Raises CannotRun: no answer, or an error.
        """
        headers = {"x-request-id": request_id, "idempotency-key": request_id} if request_id else {}
        return self._post(f"/v1/predict/{model}", {"rows": list(rows)}, headers)

    def tell_truth(self, request_id: str, truth: Sequence[Any]) -> None:
        """Says what the rows of a request really were; None for those that nobody knows yet. Raises CannotRun."""
        self._post("/v1/feedback", {"request_id": request_id, "truth": list(truth)}, {})

    def _post(self, path: str, body: Json, headers: dict[str, str]) -> Json:
        import httpx

        try:
            reply = self._http.post(path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise CannotRun(f"the gateway does not answer {path}: {error}") from error
        if reply.status_code >= 400:
            message = reply.json().get("error", {}).get("message", "") if reply.content else ""
            raise CannotRun(f"the gateway answered {path} with {reply.status_code}: {message}")
        return dict(reply.json())
