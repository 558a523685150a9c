"""What the monitor may do to releases: stop a canary, roll back, evaluate again, have a new one trained.

Each may be asked for twice, after a crash or by two daemons, and does the second time only what is missing. Each looks
first whether the release it is about still has the part it had when the alarm was raised: somebody may have moved it.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun
from llmops.eval_runs.evaluations import Evaluations, RunOptions
from llmops.evaluation.gate import is_worse
from llmops.processes import NOT_STARTED, running
from llmops.production_log.record import pseudonym_of
from llmops.recording.monitoring import monitoring_experiment, record_action
from llmops.registry import Registry, rolled_back
from llmops.settings import Settings
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import CHALLENGER, CHAMPION, PREVIOUS, Release
from monitoring.act.actions import Interrupted, MonitorAction, evidence_folder
from monitoring.act.policy import Action, Situation

_TOLD = 2000
"""Characters kept of what a retrain command wrote last."""


class RegistryActuator:
    """Acts on one registry, which is opened when it is first needed: a store that is away holds up no daemon.

    stop: set when the daemon is to end; a command that runs is then ended, and begun anew by the next daemon.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings, self._stop = settings, stop

    def situation(self, app: str) -> Situation:
        """Who serves the app. Raises CannotRun where its traffic policy cannot be read, StoreUnavailable."""
        releases = self._registry.release_versions.versions(app)
        if not releases:
            return Situation()
        champion, challenger, previous = (_holder(alias, releases) for alias in (CHAMPION, CHALLENGER, PREVIOUS))
        policy, history = self._registry.release_versions.policy(app), self._registry.release_versions.history(app)
        no_return = ""
        if previous is None or champion is None or previous == champion:
            no_return = f"{app} has no previous release to return to"
        elif previous in rolled_back(history):
            no_return = f"the previous release {previous} was itself rolled back: {app} would go to and fro"
        moves = [move["at"] for move in history if move["to"] == champion and move["what"] in ("promote", "rollback")]
        return Situation(
            champion=champion,
            challenger=challenger,
            previous=None if no_return else previous,
            champion_since=datetime.fromisoformat(moves[-1]) if moves else None,
            canary=policy.canary if policy is not None and challenger is not None else 0.0,
            no_return=no_return,
        )

    def carry_out(self, action: MonitorAction) -> Mapping[str, Any]:
        """Does what the action is, as far as it is not done yet; raises as `stop_canary` and the others do."""
        actions: dict[Action, Callable[[MonitorAction], Mapping[str, Any]]] = {
            "stop-canary": self.stop_canary,
            "rollback": self.roll_back,
            "re-evaluate": self.re_evaluate,
            "retrain": self.retrain,
        }
        return actions[action.kind](action)

    def stop_canary(self, action: MonitorAction) -> Mapping[str, Any]:
        """The challenger gets no traffic any more, and is withdrawn."""
        challenger = _holder(CHALLENGER, self._registry.release_versions.versions(action.app))
        if challenger != action.release:
            return {"challenger": challenger, "note": f"{action.release} was no challenger any more"}
        policy = self._registry.release_versions.policy(action.app) or TrafficPolicy()
        rests = TrafficPolicy.from_mapping({**policy.to_mapping(), "canary": 0.0, "shadow": 0.0})
        self._registry.release_versions.set_policy(action.app, rests)
        self._registry.release_versions.withdraw(action.app)
        return {"withdrawn": action.release, "traffic_before": str(policy), "traffic": str(rests)}

    def roll_back(self, action: MonitorAction) -> Mapping[str, Any]:
        """The previous release becomes the champion. Raises CannotRun where there is none."""
        moved = self._registry.release_versions.roll_back_from(action.app, action.release)
        if moved is None:
            champion = self._registry.release_versions.champion(action.app)
            return {"champion": champion and champion.ref, "note": f"{action.release} was no champion any more"}
        new, old = moved
        return {"champion": new.ref, "previous": old.ref}

    def re_evaluate(self, action: MonitorAction) -> Mapping[str, Any]:
        """Answers the suite anew and scores it: is the release still as good as when it was gated? If it is not, and
        the policy names a recipe, begins to improve it.

        Raises CannotRun: the release has no gate on record and the policy names no suite; as `Evaluations.run`.
        """
        release = self._registry.release_versions.get(action.release)
        gates = self._registry.release_versions.gates(release)
        newest = self._registry.release_versions.newest_gate(release)
        name = action.policy.suite or (newest[0] if newest is not None else "")
        if not name:
            raise CannotRun(f"{release.ref} has no gate on record: name a suite in [policy.{action.app}] suite = …")
        evaluations = Evaluations(self._settings, self._registry)
        suite = evaluations.suite(name)
        # A seed of its own: finished answers to the same question would hide that the model behind it has changed.
        options = RunOptions(seed=int.from_bytes(_digest(action.key)[:4]))
        (done,) = evaluations.run(suite, evaluations.cells(suite, releases=[release.ref]), options, lambda *_: None)
        metrics = {metric: value.mean for metric, value in done.run.metrics.items()}
        outcome = {"suite": name, "run_id": done.run.run_id, "rows": done.run.rows, "metrics": metrics}
        gated = gates.get(name, {}).get("runs", {}).get("b")
        if gated:
            before = evaluations.resolve(gated)
            outcome["at_gate"] = {metric: value.mean for metric, value in before.metrics.items()}
            if action.policy.recipe:
                now = evaluations.compare_runs(suite, "at the gate", before, "now", done.run)
                outcome["worse"] = is_worse(now.metrics.get(suite.gate.primary))
                if outcome["worse"]:
                    outcome["improved"] = self._improve(action, name)
        return outcome

    def retrain(self, action: MonitorAction) -> Mapping[str, Any]:
        """Runs the policy's command, or the pipeline `improve` by its recipe; either may be run again after a crash,
        with the same evidence file.

        In the command `{evidence}`, `{app}`, `{release}` and `{key}` are filled in; without `{evidence}` the file comes
        last. Raises CannotRun: it cannot be started, fails, or takes too long; Interrupted: the daemon ends.
        """
        if action.policy.recipe:
            return self._improve(action, action.policy.suite)
        path = self._write_evidence(action)
        given = {"evidence": str(path), "app": action.app, "release": action.release, "key": action.key}
        command = list(action.policy.retrain_command)
        if not any("{evidence}" in part for part in command):
            command.append("{evidence}")
        for name, value in given.items():
            command = [part.replace(f"{{{name}}}", value) for part in command]
        code, told = self._run(command, action.policy.retrain_timeout)
        outcome = {"command": command, "exit_code": code, "evidence": str(path), "told": told}
        if code != 0:
            raise CannotRun(f"{command[0]} ended with exit code {code}: {told[-300:]}")
        return outcome

    def _improve(self, action: MonitorAction, suite: str) -> Mapping[str, Any]:
        """A cycle of the pipeline `improve` that is named after the action, so that it goes on where one was killed.
        What it came to is no failure: rows may have to be reviewed first, or the gate may say no."""
        path = self._write_evidence(action)
        cycle = path.stem
        given = {"app": action.app, "evidence": str(path), "recipe": action.policy.recipe, "dry_run": "false"}
        given |= {"suite": suite} if suite else {}
        llmops = str(Path(sys.executable).with_name("llmops"))  # which pip installs beside the interpreter
        command = [llmops, "pipeline", "run", "improve", "--cycle", cycle]
        command += [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
        code, told = self._run(command, action.policy.retrain_timeout)
        if code not in (0, 1):
            raise CannotRun(f"pipeline improve@{cycle} ended with exit code {code}: {told[-300:]}")
        return {"pipeline": f"improve@{cycle}", "verdict": "fail" if code else "pass", "told": told}

    def _write_evidence(self, action: MonitorAction) -> Path:
        path = evidence_folder(self._settings.home) / f"{_digest(action.key).hex()[:16]}.json"
        evidence = {"key": action.key, "app": action.app, "release": action.release, "why": action.why}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**evidence, **action.evidence}, ensure_ascii=False, indent=2), encoding="utf-8")
        except OSError as error:
            raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error
        return path

    def record(self, action: MonitorAction, outcome: Mapping[str, Any]) -> str | None:
        """As `Actuator`. Raises StoreUnavailable."""
        shown = {name: getattr(action, name) for name in ("app", "release", "dry_run", "why")}
        shown |= {"action": action.kind, "outcome": dict(outcome)}
        evidence = _without_names(action.evidence)  # MLflow's runs are not reached when a user is forgotten
        return record_action(self._registry.store, monitoring_experiment(action.app), action.key, shown, evidence)

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self._settings, actor="monitor")

    def _run(self, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """Exit code, and the end of what it wrote."""
        with tempfile.TemporaryFile() as out:
            with running(command, stdout=out, stderr=subprocess.STDOUT) as process:
                left = timeout
                while process.poll() is None and left > 0 and not self._stop.is_set():
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(min(0.2, left))
                    left -= 0.2
                if process.poll() is None:
                    if self._stop.is_set():
                        raise Interrupted(f"{command[0]}: stopped, for the daemon ends")
                    raise CannotRun(f"{command[0]}: took longer than {timeout:g} s")
            out.seek(max(0, out.seek(0, 2) - _TOLD))
            told = out.read().decode(errors="replace").strip()
            if process.returncode == NOT_STARTED and told.startswith(f"{command[0]}: "):
                raise CannotRun(told)
            return process.returncode, told


def _without_names(value: Any) -> Any:
    """Evidence with stand-ins for the users whose slices it speaks of."""
    if isinstance(value, Mapping):
        kept = {name: _without_names(item) for name, item in value.items()}
        return {**kept, "user": pseudonym_of(value["user"])} if isinstance(value.get("user"), str) else kept
    return [_without_names(item) for item in value] if isinstance(value, (list, tuple)) else value


def _holder(alias: str, releases: Sequence[Release]) -> str | None:
    return next((release.ref for release in releases if alias in release.aliases), None)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
