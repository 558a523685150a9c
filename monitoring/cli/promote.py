"""`llmops promote`, and what a promotion does to the monitor's reference."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import echo, emit, json_option, say
from llmops.errors import LlmopsError, UsageError
from llmops.settings import Settings

if TYPE_CHECKING:
    from llmops.production_log import LogRecord
    from llmops.registry import Registry
    from llmops.versions import Release


@click.command()
@click.argument("release")
@click.option("--force", is_flag=True, help="Promote without a passing gate, or a rolled-back version; needs --why.")
@click.option("--why", help="The reason for a forced promotion; it is recorded.")
@json_option
def command(release: str, force: bool, why: str | None, as_json: bool) -> None:
    """Make a release, or a tabular model's version, the champion; the old champion becomes `previous`.

    Refused without a recorded passing gate against the current champion, and for a rolled-back version. The monitor
    then uses a new reference, as configured.

    \b
    Example: llmops promote assistant@2
    Example: llmops promote assistant@1 --force --why "hot fix, evaluated by hand"
    """
    from llmops.models.weights import refuse_lost_weights
    from llmops.registry import Registry
    from llmops.versions import Ref

    if force != bool(why):
        raise UsageError("--force and --why TEXT go together")
    settings = Settings.from_environment()
    registry = Registry(settings)
    if Ref.parse(release).name in registry.tabular_versions.names():
        version = registry.tabular_versions.get(release)
        old_version = registry.tabular_versions.promote(version, why=why)
        was = old_version.ref if old_version else None
        name, champion, reference = version.name, version.ref, None
    else:
        found = registry.release_versions.get(release)
        refuse_lost_weights(found.model, settings)
        old_release = registry.release_versions.promote(found, why=why)
        was = old_release.ref if old_release else None
        moved = was != found.ref
        reference = renew_reference(settings, registry, found, was) if moved else None
        name, champion = found.app, found.ref
    previous = was if was != champion else None
    value = {"app": name, "champion": champion, "previous": previous, "forced": force, "reference": reference}
    before = "the first" if was is None else "as before" if was == champion else f"was {was}"
    emit(as_json, value, lambda: echo(f"{name}: champion is {champion} ({before})"))


def renew_reference(settings: Settings, registry: Registry, release: Release, previous: str | None) -> dict[str, Any]:
    """Tells the monitor of a promotion that is done. Where that fails the promotion stands, and the failure is said."""
    from monitoring.decide.references import PinnedReference
    from monitoring.run import pin_at_promotion

    try:
        found = pin_at_promotion(settings, release.ref, previous, lambda: gate_answers(registry, release))
    except LlmopsError as error:
        say(f"the monitor's reference was not renewed: {error}")
        return {"pinned": False, "why": str(error)}
    if isinstance(found, PinnedReference):
        say(f"the monitor compares with {found.why} from now on")
        return {"pinned": True, "source": found.source, "why": found.why}
    say(f"the monitor's reference will be the first accepted window of {found.release}")
    why = f"the first accepted window of {found.release} is awaited"
    return {"pinned": False, "source": "first-window", "why": why}


def gate_answers(registry: Registry, release: Release) -> list[LogRecord]:
    """What a gate saw of a release: its answers to the eval set, as records that the monitor can describe.

    One for each row of the newest gate's eval run of the release; none when no gate is on record.

    Raises UnknownVersion when the run is gone, StoreUnavailable.
    """
    from llmops.production_log import LogRecord
    from llmops.recording import EvalRecorder

    gates = registry.release_versions.gates(release)
    newest = max(gates.values(), key=lambda gate: str(gate["at"]), default=None)
    if newest is None:
        return []
    recorder = EvalRecorder(registry.store)
    records = []
    for result in recorder.rows(recorder.get(str(newest["runs"]["b"]))):
        output, messages, inputs = result.output, result.row.messages, result.row.inputs
        asked = messages[-1]["content"] if messages else inputs.get(release.prompt.template.input_variable, "")
        failed = output.error is not None
        record = LogRecord(
            request_id=result.row.id,
            at=datetime.fromisoformat(newest["at"]),
            status=500 if failed else 200,
            outcome="error" if failed else "ok",
            input=str(asked),
            output=output.text,
            release=release.ref,
            prompt=release.prompt.ref,
            model=release.model.ref,
            tokens_in=output.tokens_in,
            tokens_out=output.tokens_out,
            latency_ms=output.latency_ms,
            details={name: said for name in ("refusal", "tool_calls") if (said := getattr(output, name))},
        )
        records.append(record)
    return records
