"""A run of a pipeline in DBOS: begun, gone on with after an interruption or a failure, or found finished."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llmops.errors import CannotRun, UsageError
from llmops.pipelines.pipeline import Pipeline, told
from llmops.pipelines.recorder import Recorder, StepRecord

if TYPE_CHECKING:
    from dbos import WorkflowHandle

T = TypeVar("T")
_RESULT_SECONDS = 0.1
_log = logging.getLogger(__name__)


@dataclass
class Execution:
    """What happens to a run in this process. done: numbers of the steps done here; the others had finished before."""

    pipeline: Pipeline
    cycle: str
    recorder: Recorder
    tell: Callable[[str], None]
    done: set[int] = field(default_factory=set)
    step: str | None = None
    failure: BaseException | None = None

    def body(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The workflow. What it raises is kept, for DBOS keeps only the text."""
        try:
            self.recorder.begin(self.pipeline.name, self.cycle, inputs)
            complete = self.pipeline.complete(inputs)  # a cycle that older code began lacks newer inputs
            result = as_json(dict(self.pipeline.function(DurableSteps(self), complete)), "the pipeline's result")
            self.recorder.end(result, None)
        except Exception as error:
            self.failure = error
            self._tell_of(error)
            raise
        return cast("Mapping[str, Any]", result)

    def _tell_of(self, error: Exception) -> None:
        place = f"step {self.step}" if self.step else "between its steps"
        try:
            self.recorder.end(None, f"{place}: {told(error)}")
        except CannotRun as also:
            _log.warning("the failure of %s@%s is not recorded: %s", self.pipeline.name, self.cycle, also)


class DurableSteps:
    """Steps whose results DBOS keeps."""

    def __init__(self, execution: Execution) -> None:
        from dbos import DBOS

        self._execution, self._run = execution, DBOS.workflow_id
        self._number = 0

    @property
    def cycle(self) -> str:
        return self._execution.cycle

    def do(self, name: str, function: Callable[..., T], *arguments: Any, retries: int = 0) -> T:
        """As `Steps.do`."""
        from dbos import DBOS, StepOptions
        from dbos import error as dbos_errors

        if self._run != DBOS.workflow_id or DBOS.step_status is not None:
            raise RuntimeError(f"step {name}: only the pipeline's own function may begin a step, in its own thread")
        self._number += 1
        self._execution.step = name
        given = as_json(list(arguments), "an argument")
        options: StepOptions = {
            "name": name,
            "retries_allowed": retries > 0,
            "max_attempts": retries + 1,
            "should_retry": lambda error: not isinstance(error, UsageError),
        }
        try:
            result = DBOS.run_step(options, self._work(self._number, name, function, given))
        except dbos_errors.DBOSMaxStepRetriesExceeded as error:
            raise (error.errors[-1] if error.errors else error) from error
        except dbos_errors.DBOSUnexpectedStepError as error:
            raise CannotRun(
                f"step {self._number} had another name than {name!r} when this cycle began: the pipeline has changed; "
                "begin another cycle"
            ) from error
        self._execution.step = None
        return result

    def _work(self, number: int, name: str, function: Callable[..., T], given: list[Any]) -> Callable[[], T]:
        recorder, done = self._execution.recorder, self._execution.done

        def work() -> T:
            done.add(number)
            self._execution.tell(f"{self._execution.pipeline.name}@{self._execution.cycle}: {name}")
            at, begun = datetime.now(UTC), time.monotonic()
            try:
                result = as_json(function(*given), "its result")
            except Exception as error:
                recorder.step(StepRecord(number, name, given, None, time.monotonic() - begun, at, told(error)))
                raise
            # Inside the step: should the process end before DBOS has it, the step is done and written down again.
            recorder.step(StepRecord(number, name, given, result, time.monotonic() - begun, at))
            return cast("T", result)

        return work


def execute(workflow: Any, run_id: str, inputs: Mapping[str, Any], *, begun: bool) -> None:
    """Returns when the workflow has finished. Raises whatever it raises. begun: it is in the queue already."""
    from dbos import DBOS, SetWorkflowID

    handle: WorkflowHandle[Any]
    if begun:
        handle = DBOS.retrieve_workflow(run_id)
    else:
        with SetWorkflowID(run_id):
            handle = DBOS.start_workflow(workflow, inputs)
    handle.get_result(polling_interval_sec=_RESULT_SECONDS)


def as_json(value: Any, what: str) -> Any:
    """The value as it would be read from a JSON file. Raises CannotRun: it is none, such as NaN."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CannotRun(f"{what} is no JSON: {told(error)}") from error
