"""What a lab says of itself: its data, its candidates, its windows, and how they are judged; what it keeps open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from labs.evaluation import Estimate
from labs.gateway_client import GatewayClient
from labs.labelled_rows import LabelledRows
from labs.quality import QualityReport
from labs.sources import FetchedData
from labs.step_json import Json
from llmops.settings import Settings

if TYPE_CHECKING:
    from labs.gating import Judgement
    from labs.training import Trained
    from llmops.registry import Registry
    from llmops.tabular import TabularModel
    from monitoring.tabular import TabularSettings

FIRST = "first"
"""What the first model is said to be trained on; of later ones it is the window that was the newest."""


class LabData(Protocol):
    """What every lab's data says of itself."""

    @property
    def quality(self) -> QualityReport: ...
    @property
    def fetched(self) -> FetchedData: ...


class LabDefinition(ABC):
    """One lab. Use it as a context: the gateway that it starts ends with it.

    name: of the lab, its registered model, MLflow experiment and gate. metric: the one that is shown first. baseline:
    the candidate that others are measured by. blocks: rows of one cluster depend on each other. labels_late: windows
    until the labels of one are known. reference_grows: a champion's quiet windows, once labelled, join the rows held
    out that its next windows are compared with. monitoring: what the monitor may alarm about, and how often by mistake,
    in `windows_in_budget` windows.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    baseline: ClassVar[str]
    blocks: ClassVar[bool]
    labels_late: ClassVar[int]
    reference_grows: ClassVar[bool]
    windows_in_budget: ClassVar[int]

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
    def monitoring(self) -> TabularSettings: ...

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

        since: the window in which the error was first seen to rise. champion: `candidate` and `parameters` of it.
        """

    @abstractmethod
    def judge(self, challenger: tuple[str, Any], champion: tuple[str, Any] | None, rows: LabelledRows) -> Judgement: ...

    @abstractmethod
    def evaluate_rows(self, rows: LabelledRows, predictions: Any) -> dict[str, Estimate]:
        """Metrics with intervals."""

    @abstractmethod
    def error_of(self, metrics: Mapping[str, Estimate]) -> float:
        """The error that windows are compared by: less is better."""

    @cached_property
    def registry(self) -> Registry:
        from llmops.registry import Registry

        return Registry(self.settings, actor=f"lab {self.name}")

    @cached_property
    def gateway(self) -> GatewayClient:
        """A gateway of the lab's own, started when first needed."""
        from service.gateway_process import running_gateway

        return self._open.enter_context(GatewayClient(self._open.enter_context(running_gateway(self.settings))))

    def request_id(self, window: str) -> str:
        """Of the request that sends a window's rows."""
        return f"{self.name}-{self.cycle}-{window.replace(' ', '-')}"

    def model(self, ref: str) -> TabularModel:
        """A registered version, loaded once: versions never change."""
        from llmops.tabular import load

        if ref not in self._models:
            book = self.registry.tabular_versions
            self._models[ref] = load(book.fetch(book.get(ref)))
        return self._models[ref]

    @property
    def tags(self) -> dict[str, str]:
        return {"llmops.cycle": self.cycle}

    def predicted(self, ref: str, rows: LabelledRows) -> list[Any]:
        """What a registered version says of rows, in this process."""
        return list(self.model(ref).predict(rows.rows()).values)
