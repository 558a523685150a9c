"""How cron and Kubernetes run a pipeline: each job names its cycle after the date, so a job tried again goes on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from llmops.pipelines.schedule import CronSchedule

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
              image: llmops  # your image
              command: ["/bin/sh", "-c"]
              args:
                - >-
                  {command}; code=$?; [ $code -eq 1 ] || exit $code
              env:
                - name: LLMOPS_PIPELINES_URL
                  valueFrom: {{secretKeyRef: {{name: llmops, key: pipelines-url}}}}
"""


def crontab(schedule: CronSchedule, name: str, inputs: Sequence[str]) -> str:
    """The lines for cron. inputs: as given to `--set`."""
    # cron takes a bare % for the end of the line
    return f"CRON_TZ=UTC\n{schedule.cron} {_command(schedule, name, inputs)}\n".replace("%", r"\%")


def cronjob(schedule: CronSchedule, name: str, inputs: Sequence[str]) -> str:
    """A manifest for Kubernetes; a negative verdict is no failure of the job."""
    return _CRONJOB.format(name=name, cron=schedule.cron, command=_command(schedule, name, inputs))


def _command(schedule: CronSchedule, name: str, inputs: Sequence[str]) -> str:
    given = "".join(f" --set {shlex.quote(text)}" for text in inputs)
    return f"llmops pipeline run {name} --cycle {schedule.shell_cycle}{given}"
