"""Prompt versions, releases, the champion, and what is on record of a version."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.api import Names, names_of
from llmops.errors import BadFile, LlmopsError, UsageError
from llmops.generation import GenerationParameters
from llmops.models.weights import refuse_lost_weights
from llmops.pages.tables import Block, Shown, Table
from llmops.prompt_file import PromptTemplate, load_prompt_folder
from llmops.settings import Settings, data_folder
from llmops.text_io import write_text
from llmops.versions import PromptVersion, Ref, Release, parse_guards, shown_guards

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmops.factsheet.contents import Factsheet
    from llmops.production_log import LogRecord
    from llmops.registry import Registry


def _opened(settings: Settings | None) -> Registry:
    from llmops.registry import Registry

    return Registry(settings or Settings.from_environment())


def prompt_json(version: PromptVersion) -> dict[str, Any]:
    """The contract's shape of a prompt version."""
    template = version.template
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "description": template.description,
        "input_variable": template.input_variable,
        "variables": sorted(template.variables),
        "parameters": template.parameters.to_mapping(),
        "content_hash": template.content_hash,
    }


@dataclass(frozen=True)
class RegisteredPrompts(Shown):
    """Prompt files as they are registered now: file, version, whether it is new. `to_pandas` has a line for each.
    broken: prompts with a file that cannot be read, of which nothing is registered, and what is wrong."""

    prompts: Sequence[tuple[Path, PromptVersion, bool]]
    broken: Mapping[str, BadFile] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What was not registered, and files whose name has another number than their version."""
        notes = [f"not registered: {error}" for error in self.broken.values()]
        for path, version, _ in self.prompts:
            if path.stem != f"v{version.version}":
                numbered = "versions are numbered as they are registered, and one never changes"
                notes.append(f"{path} is {version.ref}: {numbered}")
        return notes

    def to_dict(self) -> dict[str, Any]:
        broken = [{"name": name, "error": str(error)} for name, error in self.broken.items()]
        return {"prompts": self.records(), **({"broken": broken} if broken else {})}

    def blocks(self) -> Iterator[Block]:
        rows = [(v.ref, "new" if new else "unchanged", path, v.template.description) for path, v, new in self.prompts]
        yield Table("Prompt versions", ("prompt", "state", "file", "description"), rows)

    def records(self) -> list[dict[str, Any]]:
        return [{**prompt_json(version), "new": new, "file": str(path)} for path, version, new in self.prompts]


def register_prompts(names: Names = (), *, settings: Settings | None = None) -> RegisteredPrompts:
    """Registers prompt files whose content is new, as `llmops prompts register`. All files are read before any is
    registered; one that cannot be read leaves out its prompt alone.

    names: of prompts; by default all. settings: by default those of the environment.

    Raises CannotRun, StoreUnavailable.
    """
    settings = settings or Settings.from_environment()
    loaded, broken = load_prompts(settings, names_of(names))
    registry = _opened(settings)
    done = [(path, *registry.prompts.register(path.parent.name, template)) for path, template in loaded]
    return RegisteredPrompts(done, broken)


def load_prompts(
    settings: Settings, names: Sequence[str] = ()
) -> tuple[list[tuple[Path, PromptTemplate]], dict[str, BadFile]]:
    """Every prompt file of the prompts folder, or of the prompts named, in order; and by the name of each prompt with a
    file that cannot be read, what is wrong with it. Raises CannotRun."""
    folder = data_folder(settings, "prompts")
    wanted = list(names) or sorted(item.name for item in folder.iterdir() if item.is_dir())
    loaded, broken = list[tuple[Path, PromptTemplate]](), dict[str, BadFile]()
    for name in wanted:
        try:
            if not (folder / name).is_dir():
                raise BadFile(folder / name, "no such prompt folder")
            loaded.extend(load_prompt_folder(folder / name))
        except BadFile as error:
            broken[name] = error
    return loaded, broken


def release_json(release: Release) -> dict[str, Any]:
    """The contract's shape of a release."""
    return {
        "app": release.app,
        "version": release.version,
        "prompt": release.prompt.ref,
        "model": release.model.ref,
        "parameters": release.parameters.to_mapping(),
        "guards": dict(release.guards),
        "aliases": list(release.aliases),
    }


def release_table(releases: Sequence[Release], left: Collection[str] = ()) -> Table:
    """left: the releases that were rolled back."""
    rows = []
    for each in releases:
        values = each.parameters.to_mapping()
        fixed = {"response_format": values["response_format"] and values["response_format"]["type"]}
        shown = [f"{key}={value}" for key, value in {**values, **fixed}.items() if value not in (None, [])]
        aliases = [*each.aliases, *["rolled back"] * (each.ref in left)]
        settings = ", ".join([*shown, *shown_guards(each.guards)])
        rows.append((each.ref, each.prompt.ref, each.model.ref, ", ".join(aliases), settings))
    return Table("Releases", ("release", "prompt", "model", "aliases", "parameters and guards"), rows)


@dataclass(frozen=True)
class CreatedRelease(Shown):
    """A release, and whether it is new. `to_pandas` has one line."""

    release: Release
    new: bool

    @property
    def ref(self) -> str:
        """`app@version`."""
        return self.release.ref

    @property
    def notes(self) -> list[str]:
        """Whether the release is new."""
        return [f"{self.ref} {'created' if self.new else 'has this content already'}"]

    def to_dict(self) -> dict[str, Any]:
        return {**release_json(self.release), "new": self.new}

    def blocks(self) -> Iterator[Block]:
        yield release_table([self.release])


def create_release(
    app: str,
    *,
    prompt: str,
    model: str,
    parameters: Mapping[str, Any] | None = None,
    guards: Names = (),
    settings: Settings | None = None,
) -> CreatedRelease:
    """Creates a release, as `llmops release create`; the same content gives the same release.

    Args:
        app: its name.
        prompt: a version, such as `qa@2`.
        model: a version.
        parameters: of generation; they override the prompt's.
        guards: `redact-pii`, `redact-pii-engine`, `block=REGEX`, `max-output=TOKENS`.
        settings: by default those of the environment.

    Raises UsageError, UnknownVersion, CannotRun, StoreUnavailable.
    """
    from llmops.engines.opening import check_parameters

    chosen = parse_guards(names_of(guards))
    settings, given = settings or Settings.from_environment(), dict(parameters or {})
    registry = _opened(settings)
    prompt_version, model_version = registry.prompts.get(prompt), registry.models.get(model)
    refuse_lost_weights(model_version, settings)
    checked = GenerationParameters.from_mapping(given)
    combined = dataclasses.replace(
        prompt_version.template.parameters, **{name: getattr(checked, name) for name in given}
    )
    check_parameters(model_version, settings, combined)
    return CreatedRelease(*registry.release_versions.create(app, prompt_version, model_version, combined, chosen))


@dataclass(frozen=True)
class ChampionMove(Shown):
    """Who is champion now. `to_pandas` has one line. previous: the version before; None where there was none."""

    app: str
    champion: str
    previous: str | None
    forced: bool

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("app", "champion", "previous", "forced")}

    def blocks(self) -> Iterator[Block]:
        yield f"{self.app}: champion is {self.champion} (was {self.previous})"


@dataclass(frozen=True)
class Promotion(ChampionMove):
    """reference: what became of the monitor's; None where nothing did. first: there was no champion."""

    reference: Mapping[str, Any] | None = None
    first: bool = False
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "reference": self.reference}

    def blocks(self) -> Iterator[Block]:
        before = f"was {self.previous}" if self.previous else "the first" if self.first else "as before"
        yield f"{self.app}: champion is {self.champion} ({before})"


def promote(ref: str, *, force: bool = False, why: str | None = None, settings: Settings | None = None) -> Promotion:
    """Makes a release, or a tabular model's version, the champion, as `llmops promote`. The monitor then uses a new
    reference, as configured.

    ref: such as `assistant@2`. force, why: without a passing gate, or of a version that was rolled back; the reason is
    recorded. settings: by default those of the environment.

    Raises GateRefused: no passing gate against the champion is on record. UsageError, UnknownVersion, CannotRun.
    """
    if force != bool(why):
        raise UsageError("--force and --why TEXT go together")
    settings = settings or Settings.from_environment()
    registry = _opened(settings)
    book = registry.book_of(Ref.parse(ref).name)
    version = book.get(ref)
    if isinstance(version, Release):
        refuse_lost_weights(version.model, settings)
    old = book.promote(version, why=why)
    was = old.ref if old else None
    previous, reference, notes = was if was != version.ref else None, None, []
    if isinstance(version, Release) and was != version.ref:
        reference, said = renew_reference(settings, registry, version, was)
        notes.append(said)
    return Promotion(version.name, version.ref, previous, force, reference, first=was is None, notes=notes)


def rollback(
    app: str, *, force: bool = False, why: str | None = None, settings: Settings | None = None
) -> ChampionMove:
    """Makes the previous champion the champion again, as `llmops rollback`.

    force, why: back to a version that was itself rolled back. settings: by default those of the environment.

    Raises GateRefused: the previous champion was rolled back. UsageError, UnknownVersion, StoreUnavailable.
    """
    if force != bool(why):
        raise UsageError("--force and --why TEXT go together")
    new, old = _opened(settings).book_of(app).roll_back(app, why=why)
    return ChampionMove(app, new.ref, old.ref, force)


def renew_reference(
    settings: Settings, registry: Registry, release: Release, previous: str | None
) -> tuple[dict[str, Any], str]:
    """Tells the monitor of a promotion; returns what became of its reference, also in words."""
    from monitoring.decide.references import PinnedReference
    from monitoring.run import pin_at_promotion

    try:
        reference = pin_at_promotion(settings, release.ref, previous, lambda: gate_answers(registry, release))
    except LlmopsError as error:
        return {"pinned": False, "why": str(error)}, f"the monitor's reference was not renewed: {error}"
    if isinstance(reference, PinnedReference):
        pinned = {"pinned": True, "source": reference.source, "why": reference.why}
        return pinned, f"the monitor compares with {reference.why} from now on"
    why = f"the first accepted window of {reference.release} is awaited"
    said = f"the monitor's reference will be the first accepted window of {reference.release}"
    return {"pinned": False, "source": "first-window", "why": why}, said


def gate_answers(registry: Registry, release: Release) -> list[LogRecord]:
    """What a gate saw of a release: its answers to the eval set, as records that the monitor can describe.

    One for each row of the newest gate's eval run of the release; none when no gate is on record.

    Raises UnknownVersion when the run is gone, StoreUnavailable.
    """
    from llmops.production_log import LogRecord
    from llmops.recording import EvalRecorder

    newest = registry.release_versions.newest_gate(release)
    if newest is None:
        return []
    _, gate = newest
    recorder = EvalRecorder(registry.store)
    records = []
    for result in recorder.rows(recorder.get(str(gate["runs"]["b"]))):
        output, messages, inputs = result.output, result.row.messages, result.row.inputs
        asked = messages[-1]["content"] if messages else inputs.get(release.prompt.template.input_variable, "")
        failed = output.error is not None
        record = LogRecord(
            request_id=result.row.id,
            at=datetime.fromisoformat(gate["at"]),
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


@dataclass(frozen=True)
class FactSheet(Shown):
    """All recorded facts about a version. `to_pandas` has a line for each, by its path in `to_dict`."""

    sheet: Factsheet

    def to_dict(self) -> dict[str, Any]:
        return self.sheet.to_json()

    def markdown(self) -> str:
        """As a page of Markdown."""
        from llmops.factsheet.rendering import markdown

        return markdown(self.sheet)

    def blocks(self) -> Iterator[Block]:
        yield self.markdown()

    def records(self) -> list[dict[str, Any]]:
        return [{"fact": path, "value": value} for path, value in _leaves(self.to_dict(), "")]

    def _repr_html_(self) -> str:
        from llmops.factsheet.rendering import html
        from llmops.pages.rendering import embedded

        return html(self.sheet, embedded)

    def write(self, *, html: Path | str | None = None, markdown: Path | str | None = None) -> list[Path]:
        """Writes the sheet to files; returns them. Raises CannotRun."""
        from llmops.factsheet.rendering import html as sheet_html
        from llmops.pages.rendering import write_page

        if markdown is not None:
            write_text(Path(markdown), self.markdown())
        if html is not None:
            write_page([sheet_html(self.sheet)], Path(html))
        return [Path(path) for path in (markdown, html) if path is not None]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Mapping, list)) and value:
        named = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, item in named:
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def fact_sheet(ref: str, *, settings: Settings | None = None) -> FactSheet:
    """The recorded facts about a version, as `llmops factsheet`. Raises UnknownVersion, StoreUnavailable."""
    from llmops.factsheet.collecting import make_factsheet

    return FactSheet(make_factsheet(_opened(settings), ref))
