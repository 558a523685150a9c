"""`llmops.red_team`, which the command calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from llmops.errors import UsageError
from llmops.eval_runs.evaluations import Evaluations
from llmops.evaluation.suite import Suite, readable_suites
from llmops.processes import run_async
from llmops.progress import progress_bar
from llmops.recording.redteam import record_red_team
from llmops.redteam.attacks import KINDS, make_attacks, read_wordings
from llmops.redteam.result import RedTeamResult
from llmops.redteam.running import RedTeam
from llmops.registry import Registry
from llmops.settings import Settings, data_folder
from llmops.versions import Release, parse_guards, shown_guards


def red_team(
    release: str,
    *,
    kinds: Sequence[str] = (),
    per_kind: int = 40,
    seed: int = 0,
    ceiling: float = 0.1,
    guards: Sequence[str] = (),
    suite: str | None = None,
    progress: bool = True,
    settings: Settings | None = None,
) -> RedTeamResult:
    """Attacks a release, and says how often each kind of attack succeeds.

    Args:
        release: `APP@V` or an alias of the app.
        kinds: of `llmops.redteam.attacks.KINDS`; by default all.
        per_kind: attacks of each kind.
        seed: of the attacks.
        ceiling: the success rate that no kind may be above, 0 to 1.
        guards: to try, as `release create --guard` takes them; by default the release's own.
        suite: whose rows are the normal ones that guards must let pass; by default the one of the release's prompt.
        progress: shows bars, on a terminal and in a notebook.
        settings: by default those of the environment.

    Raises UsageError, BadFile, UnknownVersion, EngineError, StoreUnavailable.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise UsageError(f"kind: there is no {unknown[0]}; there are {', '.join(KINDS)}")
    if per_kind < 1 or not 0 <= ceiling <= 1:
        raise UsageError("per_kind must be 1 or more, and ceiling a share from 0 to 1")
    settings = settings or Settings.from_environment()
    evaluations = Evaluations(settings, Registry(settings))
    attacked = evaluations.registry.release_versions.get(release)
    tried = parse_guards(guards) if guards else dict(attacked.guards)
    normal = _normal_suite(evaluations, attacked, suite) if tried else None
    wordings = read_wordings(settings)
    attacks = list(make_attacks(wordings, seed, per_kind, list(kinds) or list(KINDS)))

    async def work() -> RedTeamResult:
        with progress_bar(progress) as show:
            async with aclosing(RedTeam(evaluations, attacked, show)) as team:
                found = await team.attack(attacks, tried)
                blocked = None if normal is None else await team.normal(normal.rows, tried)
        of = None if normal is None else normal.name
        return RedTeamResult(
            attacked.ref, seed, wordings.sha256, per_kind, ceiling, shown_guards(tried), found, blocked, of
        )

    result = run_async(work)
    return replace(result, run_id=record_red_team(evaluations.registry.store, result.to_dict()))


def _normal_suite(evaluations: Evaluations, release: Release, name: str | None) -> Suite:
    if name is not None:
        return evaluations.suite(name)
    suites, _ = readable_suites(data_folder(evaluations.settings, "eval_sets"), evaluations.suite)
    fitting = [suite for suite in suites if suite.prompt == release.prompt.name]
    if len(fitting) != 1:
        names = ", ".join(suite.name for suite in fitting) or "no suite"
        raise UsageError(f"suite: {names} uses the prompt {release.prompt.name}; name one whose rows are normal ones")
    return fitting[0]
