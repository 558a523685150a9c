"""What a home shows of the module on pipelines: runs that were stopped by the gate, killed, scheduled and moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from labs.checks.check import NOTHING_YET, Achievement, Gathered, Question
from llmops.errors import LlmopsError
from llmops.pipelines import PipelineRun, Pipelines
from llmops.settings import Settings
from llmops.text_io import read_text

if TYPE_CHECKING:
    from llmops.audit import Verification
    from llmops.versions import TabularVersion

MANIFESTS = "manifests.yaml"
_PAGE = "docs/labs/pipeline.md"
_MOST_RUNS = 1000
_WITH_PODS = ("Deployment", "StatefulSet", "Job", "CronJob")


@dataclass
class _Home:
    """runs: of every pipeline, oldest first, with their steps. attempts: of each run, by MLflow. versions: registered
    ones of every tabular model. audit: the chain of moves, followed to its end; None where nothing is registered."""

    runs: Sequence[PipelineRun] = ()
    attempts: Mapping[str, int] = field(default_factory=dict)
    versions: Sequence[TabularVersion] = ()
    audit: Verification | None = None
    registrations: Sequence[str] = ()

    @property
    def refused(self) -> PipelineRun | None:
        """A run whose data the gate stopped: nothing that was trained on it is registered."""
        known = {each.provenance.get("data_sha256") for each in self.versions}
        for run in self.runs:
            data = run.result.get("data", {}).get("sha256")
            if run.is_negative and run.result.get("model") is None and data is not None and data not in known:
                return run
        return None

    @property
    def resumed(self) -> PipelineRun | None:
        """A run that took more than one attempt, and registered each of its versions once."""
        for run in self.runs:
            mine = [each.ref for each in self.versions if str(each.cycle).startswith(f"{run.cycle}/")]
            once = bool(mine) and all(self.registrations.count(ref) == 1 for ref in mine)
            if run.status == "finished" and self.attempts.get(run.ref, 0) > 1 and once:
                return run
        return None

    @property
    def scheduled(self) -> PipelineRun | None:
        """A finished run whose cycle is named after the hour or minute it was due."""
        return next((run for run in self.runs if run.status == "finished" and _is_a_time(run.cycle)), None)


def _is_a_time(cycle: str) -> bool:
    from llmops.pipelines.schedule import CYCLE_FORMATS

    for form in CYCLE_FORMATS[1:]:  # a date may also have been typed
        try:
            datetime.strptime(cycle, form)
        except ValueError:
            continue
        return True
    return False


def _home(settings: Settings) -> _Home:
    """Reads the home. One without runs is left as it is: a check makes none."""
    if settings.pipelines_url is None and not (settings.home / "pipelines.db").is_file():
        return _Home()
    with Pipelines(settings) as pipelines:
        refs = [run.ref for run in pipelines.runs(limit=_MOST_RUNS)]
        runs = [pipelines.get(ref) for ref in reversed(refs)]
    if not runs:
        return _Home()
    from llmops.audit import verify
    from llmops.recording.pipelines import ATTEMPT_TAG, find_pipeline_run
    from llmops.registry import Registry

    registry = Registry(settings)
    recorded = {run.ref: find_pipeline_run(registry.store, run.pipeline, run.cycle) for run in runs}
    attempts = {ref: int(run.data.tags.get(ATTEMPT_TAG, 1)) for ref, run in recorded.items() if run is not None}
    book = registry.tabular_versions
    versions = [version for name in book.names() for version in book.versions(name)]
    entries = registry.audit.entries()
    registrations = [entry.subject for entry in entries if entry.action == "register"]
    return _Home(
        runs, attempts, versions, verify(registry.audit, registry.standings) if entries else None, registrations
    )


def _manifests(settings: Settings) -> tuple[bool, str, int | None]:
    """Whether a CronJob in the home's rendered manifests runs the wine lab, what was found, and how many make pods."""
    import yaml

    from llmops.pipelines.schedule import CronSchedule

    path = settings.home / MANIFESTS
    if not path.is_file():
        return False, NOTHING_YET, None
    try:
        all_of_them = [each for each in yaml.safe_load_all(read_text(path)) if each]
        kinds = [each["kind"] for each in all_of_them]
        for job in (each for each in all_of_them if each["kind"] == "CronJob"):
            name, schedule = job["metadata"]["name"], CronSchedule(job["spec"]["schedule"])
            (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
            if container["args"][0].startswith(f"{schedule.run_command('wine', ())};"):
                pods = sum(kind in _WITH_PODS for kind in kinds)
                return True, f"{len(kinds)} manifests; {name} runs wine at {schedule.cron!r}", pods
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError, AttributeError, LlmopsError) as error:
        return False, f"{path}: {type(error).__name__}: {error}".splitlines()[0], None
    return False, f"{len(kinds)} manifests, no CronJob runs wine under the name of the day it is due", None


def check_pipeline(settings: Settings) -> Gathered:
    """The module on pipelines."""
    home = _home(settings)
    refused, resumed, scheduled = home.refused, home.resumed, home.scheduled
    on_postgres = all(
        url.startswith("postgresql") for url in (settings.resolved_log_url, settings.resolved_pipelines_url)
    )
    again = (
        f"{resumed.ref}: {home.attempts[resumed.ref]} attempts, {len(resumed.steps)} steps" if resumed else NOTHING_YET
    )
    whole = home.audit is not None and home.audit.whole
    fits, manifests, pods = _manifests(settings)
    achievements = [
        Achievement(
            "the gate stopped a run on spoiled data, and nothing was registered",
            refused is not None,
            f"{refused.ref}: {refused.result['verdict']}" if refused else NOTHING_YET,
            f"step 1 of {_PAGE}",
        ),
        Achievement(
            "a run was killed and went on; each version was registered once",
            resumed is not None,
            again,
            f"step 2 of {_PAGE}",
        ),
        Achievement(
            "a schedule ran a cycle", scheduled is not None, scheduled.ref if scheduled else NOTHING_YET,
            f"step 3 of {_PAGE}: a cycle named after the minute, such as wine@2026-05-11T0300",
        ),
        Achievement(
            "runs and audit log are in PostgreSQL, and the chain of moves is whole",
            on_postgres and whole and resumed is not None,
            f"{len(home.runs)} runs {'in PostgreSQL' if on_postgres else 'in files'}, the chain is"
            f" {'whole' if whole else 'not whole'}"
            if home.runs
            else NOTHING_YET,
            f"step 4 of {_PAGE}; LLMOPS_LOG_URL and LLMOPS_PIPELINES_URL must be set for this check, too",
        ),
        Achievement(
            f"{MANIFESTS} in the home has a CronJob that runs the lab", fits, manifests, f"step 5 of {_PAGE}"
        ),
    ]  # fmt: skip
    metric = refused.result["metric"]["value"] if refused else None
    return achievements, [
        Question("spoiled", "The accuracy of the best model on the spoiled data?", metric, 0.0006),
        Question("steps", "How many steps has the run that was killed?", len(resumed.steps) if resumed else None),
        Question("attempts", "How many attempts did it take?", home.attempts[resumed.ref] if resumed else None),
        Question("pods", f"How many of the manifests in {MANIFESTS} make pods?", pods),
        Question("entries", "How many entries does the audit log have?", home.audit.entries if home.audit else None),
    ]
