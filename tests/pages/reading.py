"""Pages as a browser's parser takes them."""

from html.parser import HTMLParser


class Reading(HTMLParser):
    """A page as a browser's parser takes it: the elements there are, their attributes, and the text in each kind."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.shown = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.attributes.extend(attrs)
        if tag not in {"meta", "input", "br", "link"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown += data
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    def text(self, tag: str) -> str:
        return " ".join(self.texts.get(tag, []))
