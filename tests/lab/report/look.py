"""Finding a cell of a table, and reading a page."""

from collections import Counter
from html.parser import HTMLParser

from pemath.lab.report.blocks import Report, Table, shown


def table(made: Report, name: str) -> Table:
    return next(each for each in made.tables() if each.name == name)


def cells(found: Table, group: str, name: str) -> list[str]:
    [line] = [
        row
        for each in found.groups
        if each.title == group
        for row in each.rows
        if row[0].text == name
    ]
    return [shown(entry) for entry in line]


class Page(HTMLParser):
    """Checks that elements nest, and collects ids, tags and what would be loaded."""

    EMPTY = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith("#"):
                self.loads.append(value or "")
            assert not name.startswith("on")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)
