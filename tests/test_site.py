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
# What the theme's script would load from a CDN, were such an element on a page.
_LOADERS = {"mermaid", "glightbox", "pyodide"}


class Page(HTMLParser):
    """loaded: what a browser loads by itself. links: where a reader may go. ids: of elements. classes: all."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.classes: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values["id"]} if "id" in values else set()
        self.classes |= set(values.get("class", "").split())
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
        assert not page.classes & _LOADERS, path.name
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
    assert not list(site.rglob("*.py"))
