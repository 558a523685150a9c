"""The chrome that every HTML report shares: one file that asks nothing of any network.

The content security policy lets in our style sheet and our script, by their hashes, and nothing else: should markup
ever break out of a text, it could neither run nor fetch anything.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from llmops.errors import CannotRun
from llmops.evaluation.reports.markup import Child, Markup, element, joined

_FOLDER = Path(__file__).parent


def page(title: str, body: Iterable[str], *, script: bool) -> Iterator[str]:
    """A whole page, piece by piece. body: markup. script: whether the page needs page.js."""
    style = _source("page.css")
    code = _source("page.js") if script else ""
    yield "<!DOCTYPE html>\n"
    yield '<html lang="en">\n<head>\n'
    yield element("meta", charset="utf-8") + "\n"
    yield element("meta", http_equiv="Content-Security-Policy", content=_policy(style, code)) + "\n"
    yield element("meta", name="viewport", content="width=device-width, initial-scale=1") + "\n"
    yield element("meta", name="color-scheme", content="light dark") + "\n"
    yield element("meta", name="referrer", content="no-referrer") + "\n"
    yield element("title", title) + "\n"
    yield f"<style>{style}</style>\n</head>\n<body>\n"
    yield from body
    yield f"<script>{code}</script>\n" if script else ""
    yield "</body>\n</html>\n"


def write_page(pieces: Iterable[str], path: Path) -> None:
    """Writes the pieces as they come, making the file's folder. Raises CannotRun."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
    except OSError as error:
        raise CannotRun(f"cannot write the report to {path}: {error.strerror}") from error


def section(heading: str, *children: Child, name: str) -> Markup:
    """A part of the page under a heading that links can point at."""
    return joined([element("section", element("h2", heading), *children, id=name), Markup("\n")])


def table(caption: str, head: Iterable[Child], rows: Iterable[Markup], kind: str = "") -> Markup:
    """A table that scrolls on its own where the screen is narrow; by keyboard too."""
    heads = [cell if isinstance(cell, Markup) else element("th", cell, scope="col") for cell in head]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        class_=kind or None,
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _policy(style: str, code: str) -> str:
    scripts = _hashed(code) if code else "'none'"
    return (
        f"default-src 'none'; style-src {_hashed(style)}; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )  # fmt: skip


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _source(name: str) -> str:
    # With universal newlines, as a browser reads them before it computes the hash.
    return (_FOLDER / name).read_text(encoding="utf-8")
