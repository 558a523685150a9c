"""Files that a person wrote are read with or without a byte order mark, and named where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.errors import BadFile
from llmops.prompt_file import load_prompt_folder
from llmops.text_io import read_json, read_text, read_toml

MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(MARK + b"a = 1\n")
    assert (read_text(path), read_toml(path)) == ("a = 1\n", {"a": 1})

    path.write_bytes(MARK + b'{"a": 1}')
    assert read_json(path) == {"a": 1}

    (tmp_path / "v1.md").write_bytes(MARK + b"---\ninput_variable: q\n---\n# user\n{{ q }}\n")
    assert [template.input_variable for _, template in load_prompt_folder(tmp_path)] == ["q"]


@pytest.mark.parametrize("content", [b"\xff", b"a = ", None])
def test_what_is_no_toml_is_a_bad_file(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.toml").write_bytes(content)

    with pytest.raises(BadFile) as caught:
        read_toml(tmp_path / "x.toml")

    assert caught.value.path == tmp_path / "x.toml"
    assert "\n" not in str(caught.value)
