"""How cron and Kubernetes run a pipeline: each job names its cycle after the date, so a job tried again goes on.

Both start a job with next to no environment, so all that it needs is written down, or named where it is secret.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmops.pipelines.schedule import CronSchedule

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
    return f"{where} && {_command(schedule, name, inputs)}"


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
    secret = [_ALWAYS_SECRET, *(variable for variable in job.secrets if variable != _ALWAYS_SECRET)]
    plain = {
        variable: value
        for variable, value in job.variables.items()
        if variable not in ("PATH", "PYTHONPATH", _ALWAYS_SECRET)
    }
    # JSON's texts are YAML's as well.
    entries = [f"- {{name: {variable}, value: {json.dumps(value)}}}" for variable, value in plain.items()]
    entries += [
        f"- name: {variable}\n  valueFrom: {{secretKeyRef: {{name: {_SECRET}, key: {secret_key(variable)}}}}}"
        for variable in secret
    ]
    indented = "\n".join(f"{' ' * 16}{line}" for entry in entries for line in entry.splitlines())
    command = _command(schedule, name, inputs)
    folder = json.dumps(str(job.folder))
    return _CRONJOB.format(name=name, cron=schedule.cron, command=command, folder=folder, environment=indented)


def secret_key(variable: str) -> str:
    """Under which key of the Secret a variable's value stands."""
    return re.sub(r"[^a-z0-9]+", "-", variable.removeprefix("LLMOPS_").lower()).strip("-")


def _command(schedule: CronSchedule, name: str, inputs: Sequence[str]) -> str:
    given = "".join(f" --set {shlex.quote(text)}" for text in inputs)
    return f"llmops pipeline run {name} --cycle {schedule.shell_cycle}{given}"
