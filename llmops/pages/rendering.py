"""HTML pages from Jinja2 templates: each one file that asks nothing of any network, with every text escaped.

The content security policy of base.html lets in our style sheet and the page's script, by their hashes, and nothing
else: should markup ever break out of a text, it could neither run nor fetch anything.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmops.errors import CannotRun
from llmops.pages import numbers
from llmops.pages.charts import Axis, classes, time_scales

_ROOT = Path(__file__).parents[2]
"""The folder that holds our packages; templates are named from there: `llmops/pages/base.html`."""


_END = "\x1e"
"""The record separator, which no printable text holds."""


def stream_page(part: str, **values: Any) -> Iterator[str]:
    """A whole page piece by piece, as its template comes to them. part: the template of its body. values: `title`,
    `script` if the page runs one, and what the part needs; what HTML may not hold becomes `�`."""
    return _pieces("llmops/pages/base.html", part, values)


def page(part: str, **values: Any) -> str:
    """As `stream_page`, as a whole."""
    return "".join(stream_page(part, **values))


def embedded(part: str, **values: Any) -> str:
    """A part with its own style, for the body of a page that is not ours."""
    return "".join(_pieces("llmops/pages/embedded.html", part, values))


def render_blocks(template: str, **values: Any) -> str:
    """A text that is no HTML, such as Markdown: its template escapes by itself, and has `end` after each block. Blocks
    are parted by an empty line, whatever space the template leaves between them; empty ones are left out."""
    blocks = _plain.get_template(template).render(values, end=_END).split(_END)
    return "\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n"


def write_page(pieces: Iterable[str], path: Path) -> None:
    """Writes the pieces as they come, making the file's folder. Raises CannotRun."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
    except OSError as error:
        raise CannotRun(f"cannot write the report to {path}: {error.strerror}") from error


def _pieces(template: str, part: str, values: dict[str, Any]) -> Iterator[str]:
    return map(numbers.printable, environment.get_template(template).generate(values, part=part))


def _source(name: str) -> Markup:
    # With universal newlines, as a browser reads them before it computes the hash.
    return Markup((_ROOT / name).read_text(encoding="utf-8"))  # noqa: S704 - our own style sheets and scripts


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_ROOT),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    words = ("number", "count", "counted", "signed", "interval", "probability", "brief")
    made.filters |= {word: getattr(numbers, word) for word in words} | {"hashed": _hashed}
    made.globals |= {
        "source": _source,
        **{tool.__name__: tool for tool in (Axis, classes, time_scales)},
        "NOTHING": numbers.NOTHING,
    }
    return made


environment = _environment()
_plain = environment.overlay(autoescape=False)
