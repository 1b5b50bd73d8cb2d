"""Links: which definition a name denotes, and which names denote none."""

from __future__ import annotations

import textwrap

import pytest

from labml_style.rendering.links import Index, Target, references
from labml_style.rendering.rows import definitions, parse

BASE = '''
class Base:
    def shared(self) -> int:
        """Shared."""

class Stone(Base):
    mass: float

    def fall(self, time: float) -> float:
        return self.mass * self.shared()

    @property
    def twin(self) -> "Stone":
        return Stone()

    @classmethod
    def heavy(cls) -> "Stone":
        return cls.light()

    @staticmethod
    def light() -> "Stone | None":
        return Stone()

    def __iter__(self) -> "Iterator[Stone]":
        yield self

def find() -> tuple[Stone, int]:
    return Stone(), 1

LIMIT = 3
'''


def index() -> Index:
    book = Index("pack")
    add(book, "pack.base", BASE)
    return book


def add(book: Index, name: str, source: str) -> None:
    tree = parse(source)
    assert tree is not None
    targets = [Target(name, d, f"{name}.ipynb", d.name) for d in definitions(tree)]
    book.add(name, [source], targets)


def links(source: str) -> list[str]:
    """`text -> target` of each link in a module that may import `pack.base`."""
    book = index()
    source = textwrap.dedent(source).strip("\n")
    add(book, "pack.here", source)
    (found,) = references(book, "pack.here", [source])
    lines = source.split("\n")
    pairs = [(lines[r.line][r.column : r.end], r.target.anchor) for r in found]
    return [f"{text} -> {name}" for text, name in pairs if name not in "xné"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from pack.base import Stone", ["Stone -> Stone"]),
        (
            "from pack.base import Stone as S\nS()",
            ["Stone -> Stone", "S -> Stone"],
        ),
        ("import pack.base as b\nb.find()", ["find -> find"]),
        (
            "from pack import base\nbase.Stone().fall(1)",
            ["Stone -> Stone", "fall -> Stone.fall"],
        ),
        (
            "from pack.base import Stone\nx = Stone()\nx.fall(1)\nx.twin.shared()",
            ["Stone -> Stone"] * 2
            + ["fall -> Stone.fall", "twin -> Stone.twin", "shared -> Base.shared"],
        ),
        (
            "from pack.base import find\nx, n = find()\nx.fall(n)\nn.fall()",
            ["find -> find"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import Stone\nfor s in Stone():\n    s.fall(1)",
            ["Stone -> Stone"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import Stone\n[s.fall(1) for s in Stone()]",
            ["Stone -> Stone", "fall -> Stone.fall", "Stone -> Stone"],
        ),
        (
            "from pack.base import Stone\nfor i, s in enumerate(Stone()):\n s.fall(i)",
            ["Stone -> Stone"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import Stone\nfor a, b in zip(Stone(), [1]):\n a.fall(b)",
            ["Stone -> Stone"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import Stone\nnext(iter(Stone())).fall(1)",
            ["Stone -> Stone"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import Stone\ndef f(s: Stone, *r: int):\n    s.fall(1)",
            ["Stone -> Stone"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import LIMIT\nLIMIT + 1",
            ["LIMIT -> LIMIT"] * 2,
        ),
        ("import pack.base\npack.base.find()", ["find -> find"]),
        (
            "from pack.base import Stone\nclass Other: ...\n"
            "class D(Other, Stone): ...\nD().fall(1)",
            ["Stone -> Stone", "Other -> Other", "Stone -> Stone", "D -> D"]
            + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import find\ndef f():\n    global find\n    find = find()",
            ["find -> find"] * 2,
        ),
        (
            "def f():\n    from pack.base import find\n    return find()",
            ["find -> find"] * 2,
        ),
        (
            "from pack.base import Stone\nclass D(Stone):\n"
            "    def fall(self):\n        return super().fall(1)",
            ["Stone -> Stone"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "class D:\n    @classmethod\n    def new(cls):\n        return cls()",
            ["cls -> D"],
        ),
        (
            "def late():\n    return early()\n\ndef early():\n    return 1",
            ["early -> early"],
        ),
        (
            "é = 'ü'; from pack.base import Stone; é.x; Stone()",
            ["Stone -> Stone"] * 2,
        ),
    ],
)
def test_names_that_denote_a_definition(source: str, expected: list[str]) -> None:
    assert links(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "from pack.base import find\ndef f(find):\n    return find()",
        "from pack.base import find\ndef f():\n    find = len\n    return find()",
        "from pack.base import find\nx = lambda find: find()",
        "from pack.base import find\nx = [find for find in range(3)]",
        "from pack.base import find\ndef f():\n    for find in []:\n        find()",
        "from pack.base import find\ndef f():\n    def find(): ...\n    return find()",
        "from pack.base import find\ndef f():\n    find()\n    def find(): ...",
        "from pack.base import find\ndef f():\n    class find: ...\n    find()",
        "from pack.base import find\ndef f():\n    import os as find\n    find()",
        "from pack.base import find\ndef f():\n    try: ...\n"
        "    except ValueError as find:\n        find()",
        "from pack.base import find\ndef f(x):\n    match x:\n"
        "        case [find]:\n            find()",
    ],
)
def test_shadowed_names_are_skipped(source: str) -> None:
    assert links(source) == ["find -> find"]  # the import alone


def test_names_of_others_are_skipped() -> None:
    assert links("import torch\nx = torch.zeros(3)\nx.fall()\nprint(x.mass)") == []


def test_self_and_cls_inside_a_class() -> None:
    (found,) = references(index(), "pack.base", [BASE])
    lines = BASE.split("\n")
    named = {lines[r.line][r.column : r.end]: r.target.anchor for r in found}
    assert named["mass"] == "Stone.mass"
    assert named["shared"] == "Base.shared"
    assert named["light"] == "Stone.light"


def test_circles_end() -> None:
    book = index()
    first = "from pack.b import x\nclass A: ...\nclass A(A): ...\nA().y\nx()"
    second = "from pack.a import x\nclass B(C): ...\nclass C(B): ...\nB().z"
    add(book, "pack.a", first)
    add(book, "pack.b", second)
    assert len(references(book, "pack.a", [first])[0]) == 2  # A and the base A
    assert len(references(book, "pack.b", [second])[0]) == 3


def test_relative_imports_of_a_module_and_of_a_package() -> None:
    for name, init, dots in (("pack.sub", True, ".."), ("pack.here", False, ".")):
        book = index()
        source = f"from {dots}base import find\nfind()"
        book.add(name, [source], [], init)
        (found,) = references(book, name, [source])
        assert [r.target.anchor for r in found] == ["find", "find"], name
