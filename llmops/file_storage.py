"""Files in a folder, or below a prefix of an S3 bucket."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from llmops.errors import CannotRun, StoreUnavailable, UsageError, first_line
from llmops.settings import named_variables

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")
_PIECE = 1 << 20
_PART = ".part"  # how a local file ends that is still being written


def normalised(url: str) -> str:
    """`s3://BUCKET/PREFIX`, or the absolute path of a folder, so that one place has one name. Raises UsageError."""
    if "://" not in url:
        return str(Path(url).expanduser().resolve())
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise UsageError("an s3:// URL must not hold credentials: it is recorded; give them in the environment")
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"{url}: give a folder, or s3://BUCKET/PREFIX")
    return f"s3://{parts.netloc}/{parts.path.strip('/')}".rstrip("/")


class FileStorage:
    """Reads, writes and deletes files by their path below a root. A file is there whole, or not at all.

    S3's endpoint is that of AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or MLFLOW_S3_ENDPOINT_URL. Every method raises
    StoreUnavailable.
    """

    def __init__(self, url: str, what: str) -> None:
        """url: as `normalised` takes it. what: is stored there, for errors.

        Raises:
            UsageError: as `normalised`.
            CannotRun: the packages for S3 are missing.
        """
        self.url, self._what = normalised(url), what
        self._client: Any = None
        if self.url.startswith("s3://"):
            self.root = self.url.removeprefix("s3://")
            endpoint = next(iter(named_variables(_ENDPOINTS).values()), None)
            try:
                import boto3
            except ImportError as error:
                raise CannotRun(f"{self.url}: needs boto3: pip install 'llmops[s3]'") from error
            with self._translated():
                # pyarrow reads ranges of files; only boto3 deletes the old versions that a bucket may keep.
                self._client = boto3.client("s3", endpoint_url=endpoint)
                region = self._client.meta.region_name
                where = {} if region is None or region == "aws-global" else {"region": region}
                parts = urlsplit(endpoint or "")
                at = {"endpoint_override": parts.netloc, "scheme": parts.scheme} if endpoint else {}
                self.filesystem: fs.FileSystem = fs.S3FileSystem(**where, **at)
        else:
            self.root = self.url
            self.filesystem = fs.LocalFileSystem()

    def exists(self) -> bool:
        """Whether the folder is there; a bucket has no folders, and is only found missing when it is used."""
        return self._client is not None or Path(self.root).is_dir()

    def files(self, folder: str = "") -> dict[str, int]:
        """Sizes in bytes of the files below a folder, by path."""
        with self._translated():
            chosen = fs.FileSelector(self._full(folder), recursive=True, allow_not_found=True)
            entries = self.filesystem.get_file_info(chosen)
        start = len(self.root) + 1
        return {each.path[start:]: each.size for each in sorted(entries, key=lambda each: each.path) if each.is_file}

    def open(self, path: str) -> Any:
        """The file for reading at any place, as pyarrow takes it. Raises FileNotFoundError."""
        with self._translated():
            return self.filesystem.open_input_file(self._full(path))

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None where there is none."""
        try:
            with self._translated(), self.open(path) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def sha256(self, path: str) -> str:
        """sha256 in hex of the file as it is read back. Raises FileNotFoundError."""
        with self._translated(), self.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(self, path: str, content: bytes | Path) -> None:
        """Writes a file, from memory or from another file; durable when it returns."""
        with self._translated(), BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            if self._client is not None:
                with self.filesystem.open_output_stream(self._full(path)) as out:
                    shutil.copyfileobj(source, out, _PIECE)
            else:
                _write_local(Path(self._full(path)), source)

    def delete(self, path: str) -> None:
        """Deletes a file, and in a bucket that keeps versions every one of them; nothing where there is none."""
        with self._translated():
            if self._client is None:
                file = Path(self._full(path))
                file.unlink(missing_ok=True)
                for _ in path.split("/")[:-1]:  # as many folders, from the innermost
                    file = file.parent
                    with suppress(OSError):  # it is not empty
                        file.rmdir()
                return
            bucket, _, key = self._full(path).partition("/")
            self._client.delete_object(Bucket=bucket, Key=key)
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key):
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    if each["Key"] == key:
                        self._client.delete_object(Bucket=bucket, Key=key, VersionId=each["VersionId"])

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}".rstrip("/")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        foreign: tuple[type[Exception], ...] = (OSError, pa.ArrowException)
        if self._client is not None:
            from botocore.exceptions import BotoCoreError, ClientError

            foreign += (BotoCoreError, ClientError)
        try:
            yield
        except FileNotFoundError:
            raise
        except foreign as error:
            raise StoreUnavailable(f"{self._what} {self.url}: {first_line(error)}") from error


def _write_local(path: Path, source: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex}{_PART}")
    try:
        with part.open("xb") as out:
            shutil.copyfileobj(source, out, _PIECE)
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a power cut may take the name
    finally:
        os.close(folder)
