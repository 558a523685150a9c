from __future__ import annotations

import pytest

from llmops.engines.local import check_gguf
from llmops.errors import Corrupted


def test_a_gguf_file_passes(tiny_gguf):
    check_gguf(tiny_gguf)


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04GGUF"])
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(Corrupted, match=r"model\.gguf: not a GGUF file"):
        check_gguf(path)
