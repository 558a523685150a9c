"""What a pipeline is, what became of a run of it, and where its steps are written down: values that know no engine."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

from llmops.errors import CannotRun, LlmopsError, UsageError

T = TypeVar("T")
RunStatus = Literal["finished", "failed", "running", "interrupted"]
StepStatus = Literal["done", "skipped", "failed"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,79}")


class Steps(Protocol):
    """What a pipeline's function does its work through. cycle: which run of the pipeline this is."""

    @property
    def cycle(self) -> str: ...

    def do(self, name: str, function: Callable[..., T], *arguments: Any, retries: int = 0) -> T:
        """Calls the function with the arguments; once it has returned, never again in this run.

        A run that goes on after an interruption or a failure gets the stored result of each finished step. A step that
        was interrupted is done anew, so it must do no harm when it is done twice. Arguments and result are JSON (NaN is
        none): the function's result comes back as it would be read from a file, so a tuple is a list. retries: how
        often a step that raises is tried again, with growing pauses from one second; not after a UsageError.

        Raises CannotRun: the result is no JSON. Whatever the function raises.
        """
        ...


PipelineFunction = Callable[[Steps, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Pipeline:
    """A job of several steps.

    function: does its work through `steps.do`; between steps it may only compute, the same each time it is called, for
    it is called again when a run goes on. Its result is JSON; `verdict` other than `pass` in it is a negative one.
    what: one line for people. complete: fills in the defaults of inputs before anything begins, and raises UsageError
    for inputs that are wrong; complete ones it leaves as they are. default_cycle: names a cycle that nobody names, by
    its complete inputs.
    """

    name: str
    function: PipelineFunction
    what: str
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    default_cycle: Callable[[Mapping[str, Any]], str] = lambda _inputs: f"{datetime.now(UTC):%Y-%m-%d}"


@dataclass(frozen=True, slots=True)
class StepRun:
    """A step of a run. skipped: finished in an earlier attempt, its result was used again. started_at: in UTC."""

    name: str
    status: StepStatus
    seconds: float
    started_at: datetime
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        value = {**asdict(self), "started_at": self.started_at.isoformat("T", "milliseconds")}
        return {name: part for name, part in value.items() if name != "error" or part is not None}


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """One cycle of a pipeline. interrupted: its process has ended; running it again goes on."""

    pipeline: str
    cycle: str
    status: RunStatus
    steps: tuple[StepRun, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    started_at: datetime | None = None

    @property
    def ref(self) -> str:
        """`NAME@CYCLE`."""
        return reference(self.pipeline, self.cycle)

    @property
    def is_negative(self) -> bool:
        """Whether it finished with a verdict that is not `pass`."""
        return self.status == "finished" and self.result.get("verdict", "pass") != "pass"

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        steps = [step.to_json() for step in self.steps]
        started_at = self.started_at.isoformat("T", "seconds") if self.started_at else None
        told = {"pipeline": self.pipeline, "cycle": self.cycle, "run": self.ref, "status": self.status}
        found = {"inputs": dict(self.inputs), "steps": steps, "result": dict(self.result), "error": self.error}
        return {**told, "started_at": started_at, **found}


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that ended. number: its place in the run, from 1. output: None where it failed; `error` then says why."""

    number: int
    name: str
    arguments: Sequence[Any]
    output: Any
    seconds: float
    started_at: datetime
    error: str | None = None


class Recorder:
    """Where a run's steps are written down for people to see; this one writes nothing down. The seam to MLflow, which
    this package does not import. Each method may be called again with the same after a crash, and must then leave what
    one call leaves."""

    def begin(self, pipeline: str, cycle: str, inputs: Mapping[str, Any]) -> None:
        """A run begins, or goes on. Raises StoreUnavailable: then the run fails here."""

    def step(self, record: StepRecord) -> None:
        """A step has just been done. Raises StoreUnavailable: then the step counts as failed, and is done again."""

    def end(self, result: Mapping[str, Any] | None, error: str | None) -> None:
        """The run has finished, with a result, or failed, with an error. Raises StoreUnavailable."""


class StepFailed(CannotRun):
    """A step raised, or what lies between steps. `run` says what had finished; the same cycle goes on from there.

    The exit code is the cause's.
    """

    def __init__(self, run: PipelineRun, step: str | None, cause: BaseException) -> None:
        self.run, self.step = run, step
        self.exit_code = cause.exit_code if isinstance(cause, LlmopsError) else CannotRun.exit_code
        where = f"step {step}" if step else "between its steps"
        super().__init__(f"{run.ref}: {where}: {told(cause)}")


def reference(pipeline: str, cycle: str) -> str:
    """`NAME@CYCLE`. Raises UsageError: one of them cannot be part of a reference."""
    for what, text in (("pipeline", pipeline), ("cycle", cycle)):
        if not _NAME.fullmatch(text):
            raise UsageError(
                f"{what} {text!r}: at most 80 letters, digits and . _ : + -, beginning with a letter or digit"
            )
    return f"{pipeline}@{cycle}"


def parse_reference(text: str) -> tuple[str, str]:
    """Pipeline and cycle of `NAME@CYCLE`. Raises UsageError."""
    pipeline, at, cycle = text.partition("@")
    if not at:
        raise UsageError(f"{text!r} is no run of a pipeline: NAME@CYCLE, such as llm@2026-05-01")
    reference(pipeline, cycle)
    return pipeline, cycle


def told(error: BaseException) -> str:
    """An error in one line: its own text where it was raised on purpose, otherwise with its kind."""
    line = (str(error).splitlines() or [""])[0]
    if isinstance(error, LlmopsError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
