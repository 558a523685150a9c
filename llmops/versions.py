"""What is versioned: prompt versions, model versions, releases that bind one of each, and tabular models. Plain
values, no store.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from llmops.errors import UnknownVersion, UsageError
from llmops.generation import GenerationParameters
from llmops.prompt_file import PromptTemplate
from llmops.traffic_policy import TrafficPolicy

MOST_NAMED = 10
"""Ids that an error names; whoever looks for candidates need look for no more than one beyond."""

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

PYTHON = "python"
"""The format of a model version that is a Python callable."""

_REF = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)(?:@(?P<selector>[A-Za-z0-9_-]+))?\Z")


@dataclass(frozen=True, slots=True)
class Ref:
    """`name@3`, `name@champion`, or `name` alone. Exactly one of version and alias is set, or neither."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError when `text` is none of the three forms."""
        found = _REF.match(text)
        if not found:
            raise UsageError(f"{text!r} is not NAME, NAME@VERSION or NAME@ALIAS")
        selector = found["selector"]
        if selector is None:
            return cls(found["name"])
        if selector.isdigit():
            return cls(found["name"], version=int(selector))
        return cls(found["name"], alias=selector)

    def __str__(self) -> str:
        selector = self.version if self.version is not None else self.alias
        return self.name if selector is None else f"{self.name}@{selector}"


class _Versioned:
    """What has a name and a version."""

    __slots__ = ()
    name: str
    version: int

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class PromptVersion(_Versioned):
    """A registered prompt template. `uri` is MLflow's name of it."""

    name: str
    version: int
    template: PromptTemplate
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        return f"prompts:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class ModelVersion(_Versioned):
    """A registered model: where its weights come from and what they must hash to.

    format: `gguf` (one file), `hf` (a Hugging Face folder), `openai` (an upstream server; no weights) or `python` (a
        callable, which only the process that holds it can ask; sha256 is of its source).
    path: where the weights lie below the models folder, relative; None where there are none.
    provenance: for derived weights, the parent and how they were made; of a callable its named version; else empty.
    """

    name: str
    version: int
    source: str
    format: str
    sha256: str
    path: Path | None = None
    licence: str = ""
    size_bytes: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    model_id: str = ""


@dataclass(frozen=True, slots=True)
class Release(_Versioned):
    """A version of an application: one prompt version, one model version, generation parameters.

    guards: what the gateway keeps this release from letting through; empty when it has none. Keys: `redact_log` (true:
    personal data is removed before logging), `redact_engine` (true: before the engine too), `block` (regular
    expressions), `max_output` (tokens).
    created_at: seconds since the epoch; 0 where nobody knows.
    """

    name: str
    version: int
    prompt: PromptVersion
    model: ModelVersion
    parameters: GenerationParameters
    aliases: tuple[str, ...] = ()
    model_id: str = ""
    guards: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0

    @property
    def app(self) -> str:
        """The application's name."""
        return self.name


@dataclass(frozen=True, slots=True)
class TabularVersion(_Versioned):
    """A version of a tabular model: a fitted estimator that reads rows of named columns.

    sha256: of the stored estimator. schema: its columns, as JSON of `llmops.tabular`'s RowSchema.
    source: where the artifact lies, as MLflow names it. run_id: the MLflow run that trained it.
    provenance: what it was trained on, such as the data's sha256 and licence.
    cycle: the run of a pipeline that registered it, which registers one version at most; None by hand.
    created_at: seconds since the epoch; 0 where nobody knows.
    """

    name: str
    version: int
    sha256: str
    run_id: str
    schema: Mapping[str, Any]
    source: str
    aliases: tuple[str, ...] = ()
    model_id: str = ""
    created_at: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    cycle: str | None = None


@dataclass(frozen=True, slots=True)
class RegisteredVersions:
    """What a registry holds at one moment, as far as a gateway serves it.

    releases: by app, oldest first. policies: by app, where one is set. policy_problems: app → why the policy set there
    cannot be read; such an app is served as if it had none. tabular: by name, oldest first.
    """

    releases: Mapping[str, tuple[Release, ...]]
    models: tuple[ModelVersion, ...] = ()
    policies: Mapping[str, TrafficPolicy] = field(default_factory=dict)
    policy_problems: Mapping[str, str] = field(default_factory=dict)
    tabular: Mapping[str, tuple[TabularVersion, ...]] = field(default_factory=dict)


Version = TypeVar("Version", bound=PromptVersion | ModelVersion | Release | TabularVersion)


def pick(versions: Sequence[Version], ref: Ref, noun: str, missing: str, default: str | None = None) -> Version:
    """The version that `ref` means among all versions of its name, oldest first. Where it names none: the one with the
    alias `default`, or without a default the newest.

    noun, missing: for errors, what a version is, and what to say where there is none at all.

    Raises UnknownVersion: there is no such version or alias; names those there are.
    """
    if not versions:
        raise UnknownVersion(missing)
    alias = default if ref.version is None and ref.alias is None else ref.alias
    if ref.version is None and alias is None:
        return versions[-1]
    for version in versions:
        if version.version == ref.version or alias in version.aliases:
            return version
    known = (each.ref + (f" ({', '.join(each.aliases)})" if each.aliases else "") for each in versions)
    raise UnknownVersion(f"no {noun} {ref}; there are {', '.join(known)}")


def release_content(
    prompt_ref: str, model_ref: str, parameters: GenerationParameters, guards: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a release is made of, as plain JSON values: its `content_hash` is the release's identity. Guards are named
    only where there are any, so that releases made before there were guards keep theirs."""
    content = {"prompt": prompt_ref, "model": model_ref, "parameters": parameters.to_mapping()}
    return {**content, "guards": dict(guards)} if guards else content


def whole_id(given: str, known: Collection[str], kind: str, listed_by: str = "") -> str:
    """The one of `known` that is `given`, or else the only one that begins with it.

    kind: what the ids are of, for errors; listed_by: a command that shows them.

    Raises UnknownVersion: none does. UsageError: several do; names them.
    """
    if given in known:
        return given
    found = sorted(each for each in known if given and each.startswith(given))
    if not found:
        raise UnknownVersion(f"no {kind} {given}" + (f"; `{listed_by}` shows those there are" if listed_by else ""))
    if len(found) > 1:
        more = ", …" if len(found) > MOST_NAMED else ""
        raise UsageError(f"{given} begins the ids of several {kind}s: {', '.join(found[:MOST_NAMED])}{more}")
    return found[0]


GUARDS = "redact-pii, redact-pii-engine, block=REGEX, max-output=TOKENS"
"""The guards there are, as the command line names them."""


def parse_guards(texts: Iterable[str]) -> dict[str, Any]:
    """Guards as the command line names them, in the shape of `Release.guards`.

    `redact-pii`: personal data is removed before the request is logged. `redact-pii-engine`: before the engine reads it
    too. `block=REGEX` (any number): a request or answer that it matches is refused. `max-output=TOKENS`: no answer is
    longer.

    Raises UsageError: an unknown guard or a wrong value; the text starts with the guard.
    """
    guards: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if text in ("redact-pii", "redact-pii-engine"):
            guards["redact_log"] = True
            if text == "redact-pii-engine":
                guards["redact_engine"] = True
        elif name == "block" and sign:
            guards.setdefault("block", []).append(value)
        elif name == "max-output" and sign:
            guards["max_output"] = int(value) if value.isascii() and value.isdigit() else value
        else:
            raise UsageError(f"--guard {text}: unknown guard; there is {GUARDS}")
    return check_guards(guards)


def check_guards(guards: Mapping[str, Any]) -> dict[str, Any]:
    """The same guards, checked: equal ones are written alike. Raises UsageError starting with the guard at fault."""
    checked: dict[str, Any] = {}
    for name, value in guards.items():
        if name in ("redact_log", "redact_engine"):
            if not isinstance(value, bool):
                raise UsageError(f"{name}: must be true or false")
        elif name == "block":
            value = _checked_patterns(value)
        elif name == "max_output":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError("max-output: must be a whole number of 1 or more")
        else:
            raise UsageError(f"{name}: unknown guard; there is {GUARDS}")
        if value:
            checked[name] = value
    return checked


def _checked_patterns(values: Any) -> list[str]:
    import regex  # the library that the gateway applies them with

    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UsageError("block: must be a list of regular expressions")
    for value in values:
        if not isinstance(value, str) or not value:
            raise UsageError("block: must be a regular expression of one character or more")
        try:
            regex.compile(value)
        except (regex.error, RecursionError, OverflowError) as error:
            raise UsageError(f"block: {value!r} is not a regular expression: {error}") from error
    return sorted(set(values))


def shown_guards(guards: Mapping[str, Any]) -> list[str]:
    """Guards as `parse_guards` reads them."""
    redaction = "redact-pii-engine" if guards.get("redact_engine") else "redact-pii"
    shown = [redaction] if guards.get("redact_engine") or guards.get("redact_log") else []
    shown += [f"block={pattern}" for pattern in guards.get("block", [])]
    return shown + ([f"max-output={guards['max_output']}"] if "max_output" in guards else [])
