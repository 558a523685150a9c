"""Every error that llmops raises on purpose, in one tree.

UsageError ends a command with exit code 2, GateRefused with 1, every other one with 3.

Foreign exceptions are translated into this tree once, at the seam where they enter, with `raise … from`.
"""

from pathlib import Path
from typing import Self


class LlmopsError(Exception):
    """Base of every error raised on purpose; its text is one line that says what to do."""

    exit_code = 3


class UsageError(LlmopsError):
    """The command or call itself is wrong."""

    exit_code = 2


class CannotRun(LlmopsError):
    """Something outside the command must be mended before it can run."""


def first_line(error: BaseException) -> str:
    """What a foreign error says, in one line: a database's without the statement; a silent one's by its type."""
    return (str(getattr(error, "orig", None) or error).strip() or type(error).__name__).splitlines()[0]


class BadFile(CannotRun):
    """A file the user wrote is wrong. The text starts with `file:line: field: ` as far as they are known."""

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None, field: str | None = None) -> None:
        self.path, self.line, self.field, self.problem = Path(path), line, field, problem
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {field}: {problem}" if field else f"{where}: {problem}")

    @classmethod
    def of(cls, error: UsageError, path: Path | str, *, line: int | None = None, key: str = "") -> Self:
        """An error whose text starts with the field at fault, of a file's table `key`."""
        field, _, problem = str(error).partition(": ")
        return cls(path, problem, line=line, field=f"{key}.{field}" if key else field)


class UnknownVersion(CannotRun):
    """A prompt, model, release, run or alias that does not exist."""


class Corrupted(CannotRun):
    """Bytes differ from their recorded sha256, or cannot be read as what they claim to be."""


class StoreUnavailable(CannotRun):
    """The MLflow store or the production log cannot be reached or written."""


class IncompatibleStore(StoreUnavailable):
    """The MLflow store's tables are of another MLflow version; nothing was changed. mend: what to do about it."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}; nothing was changed: {mend}")
        self.problem, self.mend = problem, mend


class RecordingIncomplete(CannotRun):
    """The store holds fewer results than were handed to it."""


class GateRefused(CannotRun):
    """A promotion without a passing gate on record, or a way back to what was rolled back."""

    exit_code = 1


class EngineError(CannotRun):
    """A generation failed. reason: what a client may be told of why; the text itself may name hosts and paths."""

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class EngineUnavailable(EngineError):
    """The engine cannot be loaded or reached; trying again later may help, unless `lasting` (a wrong key, no such
    model). retry_after: seconds that an upstream asked to wait."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, lasting: bool = False, reason: str | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after, self.lasting = retry_after, lasting


class EngineBusy(EngineUnavailable):
    """The engine's queue is full: more requests wait than it may hold."""


class EngineRejected(EngineError):
    """The request can never succeed as it is. `param` names the field at fault, where known."""

    def __init__(self, message: str, *, param: str | None = None, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.param = param


class ContextTooLong(EngineRejected):
    """The prompt does not fit the engine's context."""


class SchemaNotFollowed(EngineError):
    """An engine's answer breaks the response format it was asked in. The text says how, and quotes nothing of it."""


class EngineTimeout(EngineError):
    """No answer in time."""
