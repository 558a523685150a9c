"""The course's site builds strictly, loads nothing from elsewhere, and each of its links leads somewhere."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
_LOADING_RELS = {"stylesheet", "preload", "prefetch", "modulepreload", "icon", "manifest", "preconnect", "dns-prefetch"}
# Addresses in the theme's script, each with the class or component of a page's element that makes it load from there; a
# polyfill is only for browsers older than any that could show these pages.
_LOADERS = {
    "https://unpkg.com/mermaid": "mermaid",
    "https://unpkg.com/glightbox": "glightbox",
    "https://unpkg.com/pyodide": "pyodide",
    "https://cdn.jsdelivr.net/pyodide": "pyodide",
    "https://unpkg.com/ace-builds": "pyodide",
    "https://api.github.com": "source",
    "https://${e}/api/v4/projects": "source",
    "https://unpkg.com/resize-observer-polyfill": None,
    "http://www.w3.org/": None,
}


class Page(HTMLParser):
    """loaded: what a browser loads by itself. links: where a reader may go. ids: of elements. marks: every class, and
    every component of the theme's script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.marks: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values["id"]} if "id" in values else set()
        self.marks |= {*values.get("class", "").split(), *values.get("data-md-component", "").split()}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and _LOADING_RELS & set(values.get("rel", "").split()):
            self.loaded.append(values["href"])
        elif tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object"):
            self.loaded += [values[name] for name in ("src", "data", "poster") if name in values]
        self.loaded += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    command = [Path(sys.executable).parent / "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def navigated(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for where in entry.values():
            yield from [where] if isinstance(where, str) else navigated(where)


def test_a_browser_loads_nothing_from_elsewhere(site, pages):
    for path, page in pages.items():
        outside = [url for url in page.loaded if urlsplit(url).netloc]
        assert not outside, f"{path.name}: {outside}"
        assert not page.marks & set(_LOADERS.values()), path.name
    assert any(page.marks for page in pages.values())
    for script in site.rglob("*.js"):
        for address in re.findall(r"https?://[^\"'`\s)]+", script.read_text("utf-8")):
            assert any(address.startswith(known) for known in _LOADERS), f"{script.name}: {address}: when is it loaded?"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?\s*(?:https?:)?//[^)'\"]+", text), sheet.name


def test_every_link_and_anchor_leads_somewhere(site, pages):
    for path, page in pages.items():
        if path.name == "404.html":  # served at any address, so that its links begin at the site's root
            continue
        for target in [*page.links, *page.loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{path.relative_to(site)}: {target}"
            if parts.fragment and there in pages:
                assert unquote(parts.fragment) in pages[there].ids, f"{path.relative_to(site)}: {target}"


def test_every_page_of_docs_is_on_the_site_in_its_search_and_in_the_navigation(site):
    sources = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    found = {item["location"].partition("#")[0] for item in json.loads((site / "search.json").read_text())["items"]}
    for source in sources:
        address = source.replace("README.md", "index.md").removesuffix(".md") + ".html"
        assert (site / address).is_file(), source
        assert address in found, source
    in_navigation = set(navigated(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]))
    assert {source for source in sources if not re.match(r"adr/\d", source)} == in_navigation


def test_no_source_code_is_published(site):
    assert not [*site.rglob("*.py"), *site.rglob("*.pyc")]
