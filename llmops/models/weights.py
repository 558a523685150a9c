"""The local store of weights: `models/<sha256>/…`, each stored once and checked before use."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmops.errors import BadFile, CannotRun, Corrupted
from llmops.hashing import file_sha256, folder_sha256
from llmops.settings import Settings
from llmops.versions import ModelVersion

# Pickled weights run code when they are loaded, so they are never taken in.
_UNSAFE = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".py"}


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights that lie in the store. path: relative to the models folder."""

    sha256: str
    path: Path
    format: str
    size_bytes: int


def store_weights(
    settings: Settings, write: Callable[[Path], Path], expected_sha256: str | None = None
) -> StoredWeights:
    """Takes weights in: `write` puts a file or folder into the empty folder it gets and returns its path.

    The weights are checked, hashed, and moved to their place in one rename, so that a crash leaves nothing half
    stored; weights that are already there are not stored again.

    Raises Corrupted: the sha256 differs from the expected one. BadFile: not weights that can be stored.
    """
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.models_dir, prefix=".incoming-") as incoming:
        written = write(Path(incoming))
        form = weights_format(written)
        sha256 = weights_sha256(written)
        if expected_sha256 is not None and sha256 != expected_sha256:
            raise Corrupted(f"{written.name}: sha256 is {sha256}, expected {expected_sha256}")
        relative = Path(sha256[:16]) / written.name
        target = settings.models_dir / relative
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            written.replace(target)
        files = [target] if target.is_file() else [each for each in target.rglob("*") if each.is_file()]
        return StoredWeights(sha256, relative, form, sum(each.stat().st_size for each in files))


def stored_path(settings: Settings, sha256: str) -> Path | None:
    """Where weights of that sha256 lie in the store, after checking every byte; None when they are not there. Raises
    Corrupted: they are not what was stored."""
    for path in (settings.models_dir / sha256[:16]).glob("*"):
        if weights_sha256(path) != sha256:
            raise Corrupted(f"{path} is corrupted (its sha256 is not {sha256}); delete it and try again")
        return path
    return None


def copy_into(source: Path) -> Callable[[Path], Path]:
    """A `write` for `store_weights` that copies a file, or a folder's files except hidden ones."""

    def write(incoming: Path) -> Path:
        target = incoming / source.name
        try:
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*"))
            else:
                shutil.copyfile(source, target)
        except OSError as error:
            raise BadFile(source, f"cannot be read: {error}") from error
        return target

    return write


def weights_format(path: Path) -> str:
    """`gguf` or `hf`. Raises BadFile naming what is missing or unsafe."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return "gguf"
        raise BadFile(path, "not a GGUF file; a model is one GGUF file or a Hugging Face folder")
    names = {item.name for item in path.iterdir()}
    if unsafe := sorted(item.name for item in path.rglob("*") if item.suffix.lower() in _UNSAFE):
        raise BadFile(path, f"holds {unsafe[0]}, which could run code when loaded; save with safetensors")
    if "config.json" not in names:
        raise BadFile(path, "holds no config.json; a model folder is one saved by save_pretrained")
    if not any(name.endswith(".safetensors") for name in names):
        raise BadFile(path, "holds no .safetensors weights")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"}:
        raise BadFile(path, "holds no tokenizer; save it beside the model")
    return "hf"


def weights_sha256(path: Path) -> str:
    """sha256 of the file, or of the folder's names and contents."""
    return file_sha256(path) if path.is_file() else folder_sha256(path)


def refuse_lost_weights(model: ModelVersion, settings: Settings) -> None:
    """Refuses a model version whose weights are gone from the home, before anything is built on it or made to serve.
    Where the registry is shared (`LLMOPS_TRACKING_URI`), this machine need not be the one that serves. Raises
    CannotRun: its weights are not in the home."""
    if model.path is not None and settings.tracking_uri is None:
        _stored(model, model.path, settings)


def verified_path(model: ModelVersion, settings: Settings) -> Path:
    """Where the weights of `model` lie, after checking every byte. Raises CannotRun: they are not on this machine.
    Corrupted: they are not what was registered."""
    if model.path is None:
        raise CannotRun(f"{model.ref} has no local weights; its source is {model.source}")
    path = _stored(model, model.path, settings)
    if weights_sha256(path) != model.sha256:
        raise Corrupted(
            f"{model.ref}: {path} is corrupted (its sha256 is not the registered one); delete it and run "
            f"`llmops models pull {model.ref}`"
        )
    return path


def _stored(model: ModelVersion, path: Path, settings: Settings) -> Path:
    stored = settings.models_dir / path
    if not stored.exists():
        raise CannotRun(f"{model.ref}: weights are not on this machine; run `llmops models pull {model.ref}`")
    return stored
