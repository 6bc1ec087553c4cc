# SPDX-License-Identifier: Apache-2.0
"""Pages as a test reads them: what is seen, what leads where, and that every tag is closed in order."""

from html.parser import HTMLParser
from urllib.parse import parse_qsl

from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.page.routes import routes
from gpuledger_collector.published import Published

ROUTES = routes()
VOID = {"input", "meta", "link", "br", "img", "rect", "circle"}


class Reader(HTMLParser):
    """Reads a page: visible text, attributes that are shown, tags; and that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def get(path: str, state: Published, /, query: str = "", **names: str) -> Document:
    return ROUTES[path](state, Asked(path=names, query=tuple(parse_qsl(query))))


def look(path: str, state: Published, /, query: str = "", **names: str) -> Reader:
    """Return the page at an address such as "/nodes/{node}"."""
    return Reader(get(path, state, query, **names).body.decode())


HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\u202e\x00"
