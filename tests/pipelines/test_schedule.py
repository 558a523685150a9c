"""When a pipeline is due, what its cycle is called, and how cron and Kubernetes are told."""

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from llmops.errors import UsageError
from llmops.pipelines.schedule import CronSchedule, JobEnvironment, cronjob, crontab, secrets_text, shell_command

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
def test_a_cycle_is_named_after_the_moment_as_far_as_the_schedule_needs_it(cron, due, cycle):
    schedule = CronSchedule(cron)
    assert schedule.after(NOON) == due
    assert schedule.cycle(due) == cycle


@pytest.mark.parametrize("cron", ["0 3 * * *", "7 * * * *", "*/7 * * * *", "0,30 3,4 * * *"])
def test_two_moments_of_a_schedule_have_two_names(cron):
    schedule, moment, names = CronSchedule(cron), NOON, set()
    for _ in range(50):
        moment = schedule.after(moment)
        names.add(schedule.cycle(moment))
    assert len(names) == 50


@pytest.mark.parametrize("cron", ["", "daily", "0 3 * *", "0 25 * * *", "0 3 * * * *", "@daily"])
def test_what_is_no_cron_expression_is_refused(cron):
    with pytest.raises(UsageError, match="five fields"):
        CronSchedule(cron)


def test_a_crontab_line_names_the_cycle_and_all_it_needs_and_escapes_what_cron_reads():
    job = JobEnvironment(Path("/my work"), {"PATH": "/a:/b", "LLMOPS_JUDGE": "x'y"})
    schedule = CronSchedule("0 3 * * *")
    command = shell_command(schedule, "bike", ["share=10%", "note=a b"], job, Path("/home/of it.env"))
    assert crontab(schedule, command) == (
        "CRON_TZ=UTC\n"
        "0 3 * * * cd '/my work' && export PATH=/a:/b LLMOPS_JUDGE='x'\"'\"'y' && . '/home/of it.env' && "
        'llmops pipeline run bike --cycle "$(date -u +\\%Y-\\%m-\\%d)" '
        "--set share=10\\% --set 'note=a b'\n"
    )
    assert " . " not in shell_command(schedule, "bike", [], job, None)


def test_a_shell_reads_the_file_of_secrets_as_they_were():
    job = JobEnvironment(Path("/"), {}, {"LLMOPS_LOG_URL": "postgresql://u:p'$w@h/d", "MY_KEY": "a\nb"})
    script = f'{secrets_text(job)}printf "%s|%s" "$LLMOPS_LOG_URL" "$MY_KEY"'
    done = subprocess.run(["env", "-i", "/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "postgresql://u:p'$w@h/d|a\nb"
    assert "p'$w" not in repr(job)


def test_a_cronjob_has_settings_by_value_and_secrets_by_reference():
    job = JobEnvironment(
        Path("/work/my: project"),
        {"PATH": "/a", "LLMOPS_HOME": "/work/h", "LLMOPS_JUDGE": 'openai:http://j/v1#"m"'},
        {"LLMOPS_LOG_URL": "postgresql://u:p@h/d", "JUDGE_KEY": "sk-1"},
    )
    text = cronjob(CronSchedule("0 3 * * *"), "llm", [], job)
    assert "sk-1" not in text
    assert "u:p@h" not in text
    pod = yaml.safe_load(text)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == "/work/my: project"
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    given = {each["name"]: each.get("value") or each["valueFrom"]["secretKeyRef"] for each in container["env"]}
    assert given == {
        "LLMOPS_HOME": "/work/h",
        "LLMOPS_JUDGE": 'openai:http://j/v1#"m"',
        "LLMOPS_PIPELINES_URL": {"name": "llmops", "key": "pipelines-url"},
        "LLMOPS_LOG_URL": {"name": "llmops", "key": "log-url"},
        "JUDGE_KEY": {"name": "llmops", "key": "judge-key"},
    }


def test_a_cronjob_goes_on_after_a_crash_and_ends_after_a_verdict():
    job = JobEnvironment(Path("/"), {})
    made = yaml.safe_load(cronjob(CronSchedule("0 3 * * *"), "bike", ['note="a: b"'], job))
    assert (made["kind"], made["spec"]["schedule"], made["spec"]["timeZone"]) == ("CronJob", "0 3 * * *", "Etc/UTC")
    pod = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert (made["spec"]["concurrencyPolicy"], pod["restartPolicy"]) == ("Forbid", "OnFailure")
    (line,) = pod["containers"][0]["args"]

    def exit_code(code):
        script = f'llmops() {{ echo "$*"; return {code}; }}\n{line}'
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert [exit_code(code)[0] for code in (0, 1, 2, 3, 137)] == [0, 0, 2, 3, 137]
    assert re.fullmatch(r'pipeline run bike --cycle \d{4}-\d\d-\d\d --set note="a: b"\n', exit_code(0)[1])
