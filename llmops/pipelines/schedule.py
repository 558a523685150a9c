"""When a pipeline is due, and how cron and Kubernetes run it with all that it needs. All times are UTC.

A job names its cycle after the date, so that two schedulers, one that is started again, or a job tried again mean the
same cycle, and run it once. Both start a job with next to no environment, so this process's, as far as llmops reads it,
is written down, or named where it is secret.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from llmops.errors import BadFile, CannotRun, UsageError
from llmops.models.sources import UpstreamSource
from llmops.settings import Settings, data_folder, given_variables, named_variables
from llmops.text_io import read_toml

# Read by MLflow, by what reaches its artifacts, and by the hub's client. Some are secret; all are kept as if they were.
_CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "HF_TOKEN",
)  # fmt: skip
# An address with a user or password, or one whose query passes a secret on.
_SECRET_ADDRESS = re.compile(r"://[^/?#\s]*@|[?&](?:password|passwd|token|secret|api_?key|key)=", re.IGNORECASE)
_SECRET = "llmops"  # noqa: S105 - the Secret's name
_ALWAYS_SECRET = "LLMOPS_PIPELINES_URL"  # noqa: S105 - a pod's own file would be gone with it

_CRONJOB = """\
apiVersion: batch/v1
kind: CronJob
metadata:
  name: llmops-pipeline-{name}
spec:
  schedule: "{cron}"
  timeZone: Etc/UTC
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      backoffLimit: 3
      template:
        spec:
          restartPolicy: OnFailure
          containers:
            - name: pipeline
              image: llmops  # your image; llmops is found by its PATH
              workingDir: {folder}
              command: ["/bin/sh", "-c"]
              args:
                - >-
                  {command}; code=$?; [ $code -eq 1 ] || exit $code
              env:
{environment}
              volumeMounts:
                - {{name: project, mountPath: {folder}}}  # prompts/ and eval_sets/ of your own, and the home
          volumes:
            - name: project
              persistentVolumeClaim: {{claimName: llmops}}
"""


CYCLE_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%dT%H%M")
"""How the cycle of a schedule by the day, by the hour, and by the minute is named after the time it was due."""


class CronSchedule:
    """A cron expression of five fields: minute, hour, day of month, month, day of week."""

    def __init__(self, cron: str) -> None:
        """Raises UsageError: it is none, or nothing is ever due."""
        from croniter import croniter  # type: ignore[import-untyped]

        fields = cron.split()
        if len(fields) != 5 or not croniter.is_valid(cron):
            raise UsageError(f'--cron: {cron!r} is no cron expression of five fields such as "0 3 * * *"')
        self.cron = " ".join(fields)
        self._croniter: Any = croniter
        minute, hour = fields[:2]
        by_day, by_hour, by_minute = CYCLE_FORMATS
        self._cycle_format = by_day if hour.isdecimal() else by_hour
        if not minute.isdecimal():
            self._cycle_format = by_minute

    def after(self, moment: datetime) -> datetime:
        """When it is due next. moment: in UTC."""
        due: datetime = self._croniter(self.cron, moment).get_next(datetime)
        return due

    def cycle(self, due: datetime) -> str:
        """The name of the cycle that is due then: its date, with hour and minute as far as needed."""
        return due.strftime(self._cycle_format)

    def run_command(self, name: str, inputs: Sequence[str]) -> str:
        """What runs the cycle of a pipeline that is due when a shell reads this. inputs: as given to `--set`."""
        given = "".join(f" --set {shlex.quote(text)}" for text in inputs)
        return f'llmops pipeline run {name} --cycle "$(date -u +{self._cycle_format})"{given}'


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """What a job finds. folder: where it runs. variables: what may be read by all. secrets: what may not."""

    folder: Path
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


def shell_command(
    schedule: CronSchedule, name: str, inputs: Sequence[str], job: JobEnvironment, secrets: Path | None
) -> str:
    """A line for a shell, which needs nothing of its environment. inputs: as given to `--set`.

    secrets: the file with `secrets_text` of the job's, which the line reads; None: it has none.
    """
    exported = " ".join(f"{variable}={shlex.quote(value)}" for variable, value in job.variables.items())
    read = f" && . {shlex.quote(str(secrets))}" if secrets is not None else ""
    where = f"cd {shlex.quote(str(job.folder))} && export {exported}{read}"
    return f"{where} && {schedule.run_command(name, inputs)}"


def secrets_text(job: JobEnvironment) -> str:
    """The file of the job's secrets, for a shell to read."""
    return "".join(f"export {variable}={shlex.quote(value)}\n" for variable, value in job.secrets.items())


def crontab(schedule: CronSchedule, command: str) -> str:
    """The lines for cron. command: of one line."""
    # cron takes a bare % for the end of the line
    return f"CRON_TZ=UTC\n{schedule.cron} {command}\n".replace("%", r"\%")


def cronjob(schedule: CronSchedule, name: str, inputs: Sequence[str], job: JobEnvironment) -> str:
    """A manifest for Kubernetes; a negative verdict is no failure of the job.

    PATH and PYTHONPATH are left out: they are the image's.
    """
    lines = [
        f"- {{name: {variable}, value: {json.dumps(value)}}}"  # JSON's texts are YAML's as well
        for variable, value in job.variables.items()
        if variable not in ("PATH", "PYTHONPATH", _ALWAYS_SECRET)
    ]
    for variable in (_ALWAYS_SECRET, *(name for name in job.secrets if name != _ALWAYS_SECRET)):
        key = re.sub(r"[^a-z0-9]+", "-", variable.removeprefix("LLMOPS_").lower()).strip("-")
        lines += [f"- name: {variable}", f"  valueFrom: {{secretKeyRef: {{name: {_SECRET}, key: {key}}}}}"]
    return _CRONJOB.format(
        name=name,
        cron=schedule.cron,
        command=schedule.run_command(name, inputs),
        folder=json.dumps(str(job.folder)),
        environment="\n".join(f"{' ' * 16}{line}" for line in lines),
    )


def job_environment(settings: Settings) -> JobEnvironment:
    """PATH, this folder and every `LLMOPS_*` variable that is set; and, as secrets, those of them that hold a password,
    and the variables with keys that settings, models and suites name. Raises StoreUnavailable: the registry, whose
    models name the variables of their keys, cannot be read."""
    given = {**given_variables(), "LLMOPS_HOME": str(settings.home)}
    # No line of a crontab can hold a line end; a file can.
    secret = {name: value for name, value in given.items() if _SECRET_ADDRESS.search(value) or "\n" in value}
    keys = sorted({*_CREDENTIALS, *_key_variables(settings)})
    python = named_variables(("PATH", "PYTHONPATH"))  # PATH begins with this installation's programs
    folders = [str(Path(sys.executable).parent), *python.get("PATH", os.defpath).split(os.pathsep)]
    python["PATH"] = os.pathsep.join(dict.fromkeys(folder for folder in folders if folder))
    plain = {name: value for name, value in given.items() if name not in secret}
    return JobEnvironment(Path.cwd(), {**python, **plain}, {**secret, **named_variables(keys)})


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


def _key_variables(settings: Settings) -> Iterator[str]:
    """Variables of keys that the settings, registered models and the judges of suites name."""
    from llmops.registry import Registry

    if settings.judge_key_variable:
        yield settings.judge_key_variable
    for model in Registry(settings).model_versions():
        if model.source.startswith("openai:"):
            source = UpstreamSource.parse(model.source, model.provenance.get("key_variable"))
            yield from (server.key_variable for server in source.servers if server.key_variable)
    try:
        suites = sorted(data_folder(settings, "eval_sets").glob("*.toml"))
    except CannotRun:
        suites = []
    for suite in suites:
        try:
            judges = read_toml(suite).get("judges")
        except BadFile:  # is not told of here
            continue
        for judge in judges.values() if isinstance(judges, dict) else ():
            name = judge.get("key_variable") if isinstance(judge, dict) else None
            if isinstance(name, str):
                yield name
