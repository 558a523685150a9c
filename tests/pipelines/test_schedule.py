"""When a pipeline is due, what its cycle is called, and how cron and Kubernetes are told."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime

import pytest
import yaml

from llmops.errors import UsageError
from llmops.pipelines.external_cron import cronjob, crontab
from llmops.pipelines.schedule import CronSchedule

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "due", "cycle"),
    [
        ("0 3 * * *", datetime(2026, 5, 2, 3, 0, tzinfo=UTC), "2026-05-02"),
        ("30 3 * * 1", datetime(2026, 5, 4, 3, 30, tzinfo=UTC), "2026-05-04"),
        ("15  */6 * * *", datetime(2026, 5, 1, 12, 15, tzinfo=UTC), "2026-05-01T12"),
        ("*/5 * * * *", datetime(2026, 5, 1, 12, 5, tzinfo=UTC), "2026-05-01T1205"),
        ("0,30 3 * * *", datetime(2026, 5, 2, 3, 0, tzinfo=UTC), "2026-05-02T0300"),
    ],
)
def test_a_cycle_is_named_after_the_moment_as_far_as_the_schedule_needs_it(
    cron: str, due: datetime, cycle: str
) -> None:
    schedule = CronSchedule(cron)
    assert schedule.after(NOON) == due
    assert schedule.cycle(due) == cycle


def test_two_moments_of_a_schedule_have_two_names() -> None:
    for cron in ("0 3 * * *", "7 * * * *", "*/7 * * * *", "0,30 3,4 * * *"):
        schedule, moment, names = CronSchedule(cron), NOON, []
        for _ in range(50):
            moment = schedule.after(moment)
            names.append(schedule.cycle(moment))
        assert len(set(names)) == 50


@pytest.mark.parametrize("cron", ["", "daily", "0 3 * *", "0 25 * * *", "0 3 * * * *", "@daily"])
def test_what_is_no_cron_expression_is_refused(cron: str) -> None:
    with pytest.raises(UsageError, match="five fields"):
        CronSchedule(cron)


def test_a_crontab_line_names_the_cycle_and_escapes_what_cron_reads() -> None:
    assert crontab(CronSchedule("0 3 * * *"), "bike", ["share=10%", "note=a b"]) == (
        "CRON_TZ=UTC\n"
        '0 3 * * * llmops pipeline run bike --cycle "$(date -u +\\%Y-\\%m-\\%d)" '
        "--set share=10\\% --set 'note=a b'\n"
    )


def test_a_cronjob_goes_on_after_a_crash_and_ends_after_a_verdict() -> None:
    made = yaml.safe_load(cronjob(CronSchedule("0 3 * * *"), "bike", ['note="a: b"']))
    assert (made["kind"], made["spec"]["schedule"], made["spec"]["timeZone"]) == ("CronJob", "0 3 * * *", "Etc/UTC")
    pod = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert (made["spec"]["concurrencyPolicy"], pod["restartPolicy"]) == ("Forbid", "OnFailure")
    (line,) = pod["containers"][0]["args"]

    def exit_code(code: int) -> tuple[int, str]:
        script = f'llmops() {{ echo "$*"; return {code}; }}\n{line}'
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert [exit_code(code)[0] for code in (0, 1, 2, 3, 137)] == [0, 0, 2, 3, 137]
    assert re.fullmatch(r'pipeline run bike --cycle \d{4}-\d\d-\d\d --set note="a: b"\n', exit_code(0)[1])
