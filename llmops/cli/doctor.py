"""`llmops doctor`: checks the environment and says how to mend what is wrong."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import click

from llmops.cli.output import emit, json_option, print_table
from llmops.cli.registry import open_registry
from llmops.errors import IncompatibleStore, LlmopsError, StoreUnavailable
from llmops.generation import GenerationParameters, GenerationRequest, Message
from llmops.settings import Settings, describe
from llmops.state_files import integrity, shown
from llmops.versions import ModelVersion

_PACKAGES = ("mlflow", "xllamacpp", "transformers", "torch", "ragas", "evidently", "fastapi", "datasets")
_ROOM_GB = 2
_MOST_SHOWN = 5


@dataclass(frozen=True)
class Diagnosis:
    """state: ok, warn (works, but look at it) or fail. mend: what to do about it."""

    state: str
    detail: str
    mend: str = ""


@click.command()
@click.option("--settings", "show_settings", is_flag=True, help="List every setting with its environment variable.")
@json_option
def command(show_settings: bool, as_json: bool) -> None:
    """Check the environment, store, model, engine, log and gateway; exit 1 when something is broken.

    \b
    Example: llmops doctor
    """
    if show_settings:
        columns = ("variable", "default", "meaning")
        values = [dict(zip(columns, line, strict=True)) for line in describe()]
        emit(as_json, {"settings": values}, lambda: print_table("Settings", columns, describe()))
        return
    settings = Settings.from_environment()
    diagnoses = list(_diagnoses(settings))
    healthy = all(each.state != "fail" for _, each in diagnoses)
    value = {"ok": healthy, "checks": [{"name": name, **asdict(each)} for name, each in diagnoses]}
    rows = [(each.state, name, each.detail, each.mend) for name, each in diagnoses]
    names = ("state", "check", "found", "to mend it")
    emit(as_json, value, lambda: print_table("llmops doctor", names, rows))
    sys.exit(0 if healthy else 1)


def _diagnoses(settings: Settings) -> Iterator[tuple[str, Diagnosis]]:
    """By the name of what is checked. A check that raises has failed."""
    python = "ok" if sys.version_info >= (3, 11) else "fail"
    yield "python", Diagnosis(python, sys.version.split()[0], "use Python 3.11+")
    checks: tuple[tuple[str, Callable[[Settings], Diagnosis], str], ...] = (
        ("packages", _packages, "run `make install`"),
        ("home", _home, "set LLMOPS_HOME to a writable folder"),
        ("files", _files, "stop what runs on this home, and put a backup of the file in its place"),
        ("store", _store, "set LLMOPS_TRACKING_URI to a reachable MLflow store"),
        ("eval runs", _eval_runs, "put the artifacts back, or run the suites again: answers come from the cache"),
        ("model", _model, "run `llmops models pull`"),
        ("engine", _engine, "run `llmops models pull`"),
        ("serving", _serving, "run the suite again with these settings, and `llmops eval gate`"),
        ("log", _log, "set LLMOPS_LOG_URL to a reachable database"),
        ("keys", _keys, "put a backup of log.db in its place, or make a key: `llmops keys create`"),
        ("audit log", _audit, "read `llmops audit verify`"),
        ("gateway", _gateway, ""),
    )
    for name, check, mend in checks:
        try:
            diagnosis = check(settings)
        except StoreUnavailable as error:
            problem, advice = str(error), mend
            if isinstance(error, IncompatibleStore):
                problem, advice = error.problem, error.mend
            is_cause = name == "store" or (name in ("log", "keys") and not isinstance(error, IncompatibleStore))
            diagnosis = Diagnosis("fail", problem, advice if is_cause else "mend what fails above first")
        except LlmopsError as error:
            diagnosis = Diagnosis("fail", str(error))
        yield name, replace(diagnosis, mend=diagnosis.mend or (mend if diagnosis.state == "fail" else ""))


def _packages(_settings: Settings) -> Diagnosis:
    installed, missing = [], []
    for package in _PACKAGES:
        try:
            installed.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return Diagnosis("fail", f"missing: {', '.join(missing)}")
    return Diagnosis("ok", ", ".join(installed))


def _home(settings: Settings) -> Diagnosis:
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        probe = settings.home / ".doctor"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return Diagnosis("fail", f"{settings.home}: {error.strerror}")
    free = shutil.disk_usage(settings.home).free / 1e9
    state = "ok" if free > _ROOM_GB else "warn"
    return Diagnosis(state, f"{settings.home}, {free:.0f} GB free", "" if state == "ok" else "make room")


def _store(_settings: Settings) -> Diagnosis:
    from llmops.registry.schema import store_schema

    registry = open_registry()
    prompts, models = registry.prompts.list_versions(), registry.model_versions()
    apps = registry.release_versions.names()
    store = registry.store
    detail = f"{shown(store.uri)}: {len(prompts)} prompt versions, {len(models)} model versions, {len(apps)} apps"
    client, server = version("mlflow"), store.server_version()
    if server is None:
        schema = store_schema(store.uri)
        return Diagnosis("ok", f"{detail}; tables of revision {schema.revision}" if schema else detail)
    detail += f"; the server is MLflow {server}, this client {client}"
    if server != client:
        return Diagnosis("warn", detail, "install one version of MLflow on both sides")
    return Diagnosis("ok", detail)


def _serving(settings: Settings) -> Diagnosis:
    """Champions are served by the engine, and in the mode, that their gate has read answers of."""
    from llmops.eval_runs.served_mode import mode_change

    versions = open_registry().release_versions
    changed, seen = [], 0
    for app in versions.names():
        champion = versions.champion(app)
        for suite, gate in (versions.gates(champion) if champion is not None else {}).items():
            if champion is not None and gate.get("engine"):
                seen += 1
                if change := mode_change(gate["engine"], champion.model, settings):
                    changed.append(f"{champion.ref} on {suite}: {change}")
    if changed:
        return Diagnosis("warn", "; ".join(changed[:_MOST_SHOWN]), "run the suite again, and `llmops eval gate`")
    return Diagnosis("ok", f"{seen} gates of champions read answers made as they are served")


def _files(settings: Settings) -> Diagnosis:
    """SQLite reads every page; a damaged one would otherwise show when it is first needed."""
    names = ("mlflow.db", "log.db", "pipelines.db", "generation_cache/generations.db")
    present = [name for name in names if (settings.home / name).exists()]
    broken = {name: result for name in present if (result := integrity(settings.home / name)) != "ok"}
    if broken:
        return Diagnosis("fail", "; ".join(f"{settings.home / name}: {why}" for name, why in broken.items()))
    return Diagnosis("ok", f"{', '.join(present) or 'none yet'}: every page can be read")


def _eval_runs(_settings: Settings) -> Diagnosis:
    from llmops.recording.cell import lost_eval_runs

    lost = lost_eval_runs(open_registry().store)
    if lost:
        shown = "; ".join(lost[:_MOST_SHOWN]) + ("; …" if len(lost) > _MOST_SHOWN else "")
        return Diagnosis("fail", f"{len(lost)} without their rows: {shown}")
    return Diagnosis("ok", "each has its rows")


def _audit(_settings: Settings) -> Diagnosis:
    from llmops.audit import verify

    registry = open_registry()
    verification = verify(registry.audit, registry.standings)
    if verification.broken is not None:
        return Diagnosis("fail", f"broken at entry {verification.broken.seq}: it {verification.broken.why}")
    if verification.differences:
        moved = ", ".join(f"{each.what} of {each.name}" for each in verification.differences)
        return Diagnosis("fail", f"moved around the log: {moved}")
    if verification.unaudited:
        names = ", ".join(verification.unaudited)
        return Diagnosis("warn", f"no entry about {names}: the log began later, or is lost")
    return Diagnosis("ok", f"whole: {verification.entries} entries")


def _with_weights() -> list[ModelVersion]:
    return [model for model in open_registry().model_versions() if model.path]


def _model(settings: Settings) -> Diagnosis:
    from llmops.models.weights import verified_path

    versions = _with_weights()
    if not versions:
        return Diagnosis("warn", "no model version with weights is registered", "run `llmops models pull`")
    problems = []
    for model in versions:
        try:
            verified_path(model, settings)
        except LlmopsError as error:
            problems.append(str(error))
    if problems:
        return Diagnosis("fail", "; ".join(problems))
    return Diagnosis("ok", f"{', '.join(model.ref for model in versions)}: every byte as registered")


def _engine(settings: Settings) -> Diagnosis:
    import asyncio

    from llmops.engines.opening import open_engine
    from llmops.engines.protocol import generate

    versions = _with_weights()
    if not versions:
        return Diagnosis("warn", "nothing to load", "run `llmops models pull`")

    async def answer() -> tuple[str, int | None]:
        engine = open_engine(versions[0], settings)
        try:
            messages = (Message(role="user", content="Say hello."),)
            made = await generate(engine, GenerationRequest(messages, GenerationParameters(max_tokens=8)))
            return engine.identity.build, made.usage.tokens_out
        finally:
            await engine.close()

    start = time.perf_counter()
    build, tokens = asyncio.run(answer())
    seconds = time.perf_counter() - start
    return Diagnosis("ok", f"{build}: loaded {versions[0].ref} and made {tokens} tokens in {seconds:.1f} s")


def _log(settings: Settings) -> Diagnosis:
    from llmops.production_log import ProductionLog

    log = ProductionLog(settings.resolved_log_url)
    return Diagnosis("ok", f"{log.count()} records")


def _keys(settings: Settings) -> Diagnosis:
    from llmops.keys import KeyStore

    store = KeyStore(settings.resolved_log_url, home=settings.home)
    now = datetime.now(UTC)
    keys = store.read()
    live = sum(key.live(now) for key in keys)
    return Diagnosis("ok", f"{live} of {len(keys)} live" if keys else "none: the gateway serves loopback alone")


def _gateway(_settings: Settings) -> Diagnosis:
    import httpx

    url = "http://127.0.0.1:8000/readyz"
    try:
        reply = httpx.get(url, timeout=2)
    except httpx.HTTPError:
        return Diagnosis("ok", "not running on port 8000 (start it with `llmops serve`)")
    state = "ok" if reply.status_code == 200 else "warn"
    return Diagnosis(state, f"{url} says {reply.status_code}", "" if state == "ok" else f"read {url}")
