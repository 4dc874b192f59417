"""HTML pages read strictly for tests: what is not closed, or closed twice, is an error."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "hr", "img", "input", "link"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list["Node | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text for each in self.children)

    def all(self, tag: str | None = None, **attributes: str) -> list["Node"]:
        """Everything below with this tag and these attributes (`class_` for class), in order."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        found: list[Node] = []
        for each in self.children:
            if isinstance(each, Node):
                is_one = tag in (None, each.tag) and wanted.items() <= each.attributes.items()
                found += [*([each] if is_one else []), *each.all(tag, **attributes)]
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute of {tag} is there twice"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        closed = self.open.pop()
        assert closed.tag == tag, f"{closed.tag} is closed by {tag}"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


def parsed(page: str) -> Node:
    """The document. AssertionError where it is not well-formed."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, f"{reader.open[-1].tag} is not closed"
    return reader.open[0]


def skeleton(node: Node) -> list[Any]:
    """Tags and names of attributes, as they are nested, without any text."""
    below = [skeleton(each) for each in node.children if isinstance(each, Node)]
    return [node.tag, sorted(node.attributes), below]
