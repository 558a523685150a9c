"""The environment of a pipeline's job that another program starts: this process's, as far as llmops reads it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from llmops.errors import BadFile, CannotRun
from llmops.models.sources import UpstreamSource
from llmops.pipelines.external_cron import JobEnvironment, secrets_text
from llmops.settings import Settings, eval_sets_folder, given_variables, named_variables
from llmops.text_io import read_toml

# Read by MLflow, by what reaches its artifacts, and by the hub's client. Some are secret; all are kept as if they were.
_CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "HF_TOKEN",
)  # fmt: skip
# An address with a user or password, or one whose query passes a secret on.
_SECRET_ADDRESS = re.compile(r"://[^/?#\s]*@|[?&](?:password|passwd|token|secret|api_?key|key)=", re.IGNORECASE)


def job_environment(settings: Settings) -> JobEnvironment:
    """PATH, this folder and every `LLMOPS_*` variable that is set; and, as secrets, those of them that hold a password,
    and the variables with keys that settings, models and suites name.

    Raises StoreUnavailable: the registry, whose models name the variables of their keys, cannot be read.
    """
    given = {**given_variables(), "LLMOPS_HOME": str(settings.home)}
    # No line of a crontab can hold a line end; a file can.
    secret = {name: value for name, value in given.items() if _SECRET_ADDRESS.search(value) or "\n" in value}
    keys = sorted({*_CREDENTIALS, *_key_variables(settings)})
    plain = {name: value for name, value in given.items() if name not in secret}
    return JobEnvironment(Path.cwd(), {**_python(), **plain}, {**secret, **named_variables(keys)})


def write_secrets(settings: Settings, job: JobEnvironment, name: str) -> Path | None:
    """Writes the job's secrets into the home, for its owner's eyes alone; None where it has none. Raises CannotRun."""
    if not job.secrets:
        return None
    path = settings.home / f"pipeline-{name}.env"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # what others may read already would stay so
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(secrets_text(job), encoding="utf-8")
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _python() -> dict[str, str]:
    """PATH, beginning with this installation's programs, and PYTHONPATH where it is set."""
    given = named_variables(("PATH", "PYTHONPATH"))
    folders = [str(Path(sys.executable).parent), *given.get("PATH", os.defpath).split(os.pathsep)]
    return {**given, "PATH": os.pathsep.join(dict.fromkeys(folder for folder in folders if folder))}


def _key_variables(settings: Settings) -> Iterator[str]:
    from llmops.registry import Registry

    if settings.judge_key_variable:
        yield settings.judge_key_variable
    for model in Registry(settings).model_versions():
        if model.source.startswith("openai:"):
            source = UpstreamSource.parse(model.source, model.provenance.get("key_variable"))
            yield from (server.key_variable for server in source.servers if server.key_variable)
    yield from _key_variables_of_suites(settings)


def _key_variables_of_suites(settings: Settings) -> Iterator[str]:
    """What suites name for their judges. A suite that cannot be read is not told of here."""
    try:
        files = sorted(eval_sets_folder(settings).glob("*.toml"))
    except CannotRun:
        return
    for file in files:
        try:
            judges = read_toml(file).get("judges")
        except BadFile:
            continue
        for judge in judges.values() if isinstance(judges, dict) else ():
            name = judge.get("key_variable") if isinstance(judge, dict) else None
            if isinstance(name, str):
                yield name
