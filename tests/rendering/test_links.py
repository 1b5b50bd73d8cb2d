"""Links: which definition a name denotes, and which names denote none."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from labml_style.rendering.book import Book
from labml_style.rendering.index import Cell, Index, Module, Target
from labml_style.rendering.links import references
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


def add(book: Index, name: str, source: str) -> Module:
    tree = parse(source)
    assert tree is not None
    targets = [Target(name, d, f"{name}.ipynb", d.name) for d in definitions(tree)]
    return book.add(name, [Cell(source, frozenset(), tuple(targets))])


def links(source: str) -> list[str]:
    """`text -> target` of each link in a module that may import `pack.base`."""
    book = index()
    source = textwrap.dedent(source).strip("\n")
    (found,) = references(book, add(book, "pack.here", source))
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
            "from pack.base import Stone\ndef f(s: Stone):\n"
            "    s = s + 1\n    s.fall(1)",
            ["Stone -> Stone"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import Stone\nStone().eval().to(1).fall(1)",
            ["Stone -> Stone"] * 2 + ["fall -> Stone.fall"],
        ),
        (
            "from pack.base import Stone\nfor s in (Stone(), 3):\n    s.fall(1)",
            ["Stone -> Stone"] * 2,
        ),
        ("from pack import find\nfind()", ["find -> find"] * 2),
        (
            "from pack.base import Stone\nclass D:\n    @property\n"
            "    def one(self) -> Stone: ...\n    @one.setter\n"
            "    def one(self, one): ...\nD().one.fall(1)",
            ["Stone -> Stone"] * 2
            + ["one -> D.one", "D -> D", "one -> D.one", "fall -> Stone.fall"],
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
    book = index()
    (found,) = references(book, book.modules["pack.base"])
    lines = BASE.split("\n")
    named = {lines[r.line][r.column : r.end]: r.target.anchor for r in found}
    assert named["mass"] == "Stone.mass"
    assert named["shared"] == "Base.shared"
    assert named["light"] == "Stone.light"


def test_circles_end() -> None:
    book = index()
    first = "from pack.b import x\nclass A: ...\nclass A(A): ...\nA().y\nx()"
    second = "from pack.a import x\nclass B(C): ...\nclass C(B): ...\nB().z"
    a, b = add(book, "pack.a", first), add(book, "pack.b", second)
    assert len(references(book, a)[0]) == 2  # A and the base A
    assert len(references(book, b)[0]) == 2  # B twice; the first C is not there yet


def test_relative_imports_of_a_module_and_of_a_package() -> None:
    for name, init, dots in (("pack.sub", True, ".."), ("pack.here", False, ".")):
        book = index()
        source = f"from {dots}base import find\nfind()"
        (found,) = references(book, book.add(name, [Cell(source)], init))
        assert [r.target.anchor for r in found] == ["find", "find"], name


def leads(*cells: str) -> str:
    """`cell: name -> cell` of each link of a notebook, cells counted from 1.

    A cell's first line may be its tags: `# tags: solution`.
    """
    book, added = Index("pack"), []
    for number, source in enumerate(cells, 1):
        tags = frozenset(source.removeprefix("# tags: ").partition("\n")[0].split())
        tags = tags if source.startswith("# tags: ") else frozenset()
        tree = parse(source)
        known = list(definitions(tree)) if tree else []
        if tags:  # as in rows, a demonstration's variables are no definitions
            known = [one for one in known if one.kind != "constant"]
        targets = [Target("here", one, "here.ipynb", str(number)) for one in known]
        added.append(Cell(source, tags, tuple(targets)))
    result = []
    found = references(book, book.add("here", added))
    for number, (source, items) in enumerate(zip(cells, found, strict=True), 1):
        lines = source.split("\n")
        for item in items:
            name = lines[item.line][item.column : item.end]
            result.append(f"{number}: {name} -> {item.target.anchor}")
    return ", ".join(result)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        # The last binding before the use, in the reading order.
        (["n = 1", "n", "n = 2", "n"], "2: n -> 1, 4: n -> 3"),
        (["n = 1\nn\nn = 2\nn"], "1: n -> 1, 1: n -> 1"),
        (["n = 1", "n = n + 1", "n"], "2: n -> 1, 3: n -> 2"),
        (["n", "n = 1"], ""),
        (["m = n = 1", "m + n"], "2: m -> 1, 2: n -> 1"),
        (["n: int = 1", "n", "n: int", "n"], "2: n -> 1, 4: n -> 1"),
        # A binding that is no definition hides the earlier ones.
        (["n = 1", "for n in (3, 4):\n    n", "n"], ""),
        (["n = 1", "for k in n:\n    n\n    n = 3", "n"], "2: n -> 1, 2: n -> 1"),
        (["n = 1", "with open(n) as n:\n    n", "n"], "2: n -> 1"),
        (["n = 1", "try:\n    n\nexcept n as n:\n    n", "n"], "2: n -> 1, 2: n -> 1"),
        (["n = 1", "import os as n", "n", "n = 2", "n"], "5: n -> 4"),
        (["n = 1", "from os import n", "n"], ""),
        (["n = 1", "n += n", "n"], "2: n -> 1"),
        (["n = 1", "print(n, n := n + 1)", "n"], "2: n -> 1, 2: n -> 1"),
        (["n = 1", "[n := k for k in n]", "n"], "2: n -> 1"),
        (["n = 1", "del n", "n"], ""),
        (["n = 1", "k, [n, *m] = n", "n"], "2: n -> 1"),
        (["n = 1", "if n:\n    n = 2", "n"], "2: n -> 1"),
        (["n = 1", "match n:\n    case [1, *n]:\n        n", "n"], "2: n -> 1"),
        (["n = 1", "match n:\n    case {**n}:\n        n", "n"], "2: n -> 1"),
        (["n = 1", "match n:\n    case int() as n if n:\n        n"], "2: n -> 1"),
        (["def f():\n    pass", "f = 3", "f"], "3: f -> 2"),
        # Scopes of their own leave a module's name alone.
        (["n = 1", "[n for n in n]", "n"], "2: n -> 1, 3: n -> 1"),
        (["n = 1", "{n: m for m in n for n in m}", "n"], "2: n -> 1, 3: n -> 1"),
        (["n = 1", "lambda n=n: n", "n"], "2: n -> 1, 3: n -> 1"),
        (
            ["n = 1", "class C:\n    n\n    n = 2\n    n", "n"],
            "2: n -> 1, 2: n -> 2, 3: n -> 1",
        ),
        (
            ["n = 1", "class C:\n    n = 2\n    def f(self):\n        return n"],
            "2: n -> 1",
        ),
        (["n = 1", "class C:\n    n = 2\n    [n for k in n]"], "2: n -> 1, 2: n -> 2"),
        (
            [
                "n = 1",
                "class C:\n    class n:\n        def f(self):\n            n",
                "n",
            ],
            "2: n -> 1, 3: n -> 1",
        ),
        (
            ["n = 1", "def f(k=n):\n    n = 2\n    return n", "n"],
            "2: n -> 1, 3: n -> 1",
        ),
        (["n = 1", "def f():\n    n\n    return [n := k for k in n]"], ""),
        (["n = 1", "def f():\n    global n\n    n\n    n = 2", "n"], "2: n -> 1"),
        (
            ["n = 1", "def f(n):\n    def g():\n        global n\n        return n"],
            "2: n -> 1",
        ),
        (
            [
                "n = 1",
                "def f(n):\n    def g():\n        nonlocal n\n        n = 3",
                "n",
            ],
            "3: n -> 1",
        ),
        # A function runs later: the last binding before it, else the first after it.
        (["def f():\n    return n", "n = 1", "n = 2"], "1: n -> 2"),
        (["n = 1", "def f():\n    return n", "n = 2"], "2: n -> 1"),
        (["f = lambda: n", "n = 1"], "1: n -> 2"),
        (["def f(k: N) -> N:\n    pass", "class N:\n    pass"], "1: N -> 2, 1: N -> 2"),
        (["def f(k=n):\n    pass", "n = 1"], ""),
        (
            ["def f():\n    return g()", "def g():\n    return f()"],
            "1: g -> 2, 2: f -> 1",
        ),
        # A class or a function twice.
        (
            ["def f():\n    f()", "f()", "def f():\n    f()", "f()"],
            "1: f -> 1, 2: f -> 1, 3: f -> 3, 4: f -> 3",
        ),
        (
            [
                "class N:\n    k: int",
                "n = N()\nn.k",
                "class N(N):\n    k = N.k\n    def f(self) -> N:\n        return N()",
                "n.k\nN().k\nN().f().k",
            ],
            "2: N -> 1, 2: n -> 2, 2: k -> 1, "
            "3: N -> 1, 3: N -> 1, 3: k -> 1, 3: N -> 3, 3: N -> 3, "
            "4: n -> 2, 4: k -> 1, 4: N -> 3, 4: k -> 3, "
            "4: N -> 3, 4: f -> 3, 4: k -> 3",
        ),
        (
            [
                "class N:\n    k: int",
                "def f() -> N:\n    pass",
                "class N:\n    pass",
                "f().k",
            ],
            "2: N -> 1, 4: f -> 2, 4: k -> 1",
        ),
        (
            ["C = 1", "class C:\n    [lambda: C for k in ()]", "C"],
            "2: C -> 2, 3: C -> 2",
        ),
        # A demonstration binds as any cell does; a solution only for itself.
        (["n = 1", "# tags: active-ipynb\nn\nn = 2\nn", "n"], "2: n -> 1"),
        (
            ["def f(): ...", "# tags: solution\ndef f(): ...\nf()", "f()"],
            "2: f -> 2, 3: f -> 1",
        ),
        (
            ["def f():\n    g()", "# tags: solution\ndef h():\n    g()\ndef g(): ..."],
            "2: g -> 2",
        ),
        (
            [
                "class N:\n    k: int",
                "# tags: solution\nclass N:\n    pass",
                "def f() -> N:\n    pass",
                "f().k",
            ],
            "3: N -> 1, 4: f -> 3, 4: k -> 1",
        ),
        # What is not Python binds nothing and stops nothing.
        (["n = 1", "n = = 2", "%%bash\nls -l", "using N; n = N'", "n"], "5: n -> 1"),
        (["%pip install n\nn = 1", "n", "!ls {n}\nn"], "2: n -> 1, 3: n -> 1"),
        (["n = 1", "print(" + "k + " * 900 + "k)", "n"], "3: n -> 1"),
    ],
)
def test_a_name_leads_to_the_binding_that_is_meant(
    cells: list[str], expected: str
) -> None:
    assert leads(*cells) == expected


def test_variables_of_a_notebook_that_are_bound_again(tmp_path: Path) -> None:
    cells = [
        "size = 1",
        "print(size)",
        "size = 2",
        "for size in (3, 4):\n    print(size)",
    ]
    code: dict[str, object] = {
        "cell_type": "code",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    notebook = {
        "cells": [code | {"source": source} for source in cells],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path = tmp_path / "stones.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    book = Book("")
    chapter = book.add(path)
    book.link()
    found = {
        place: [reference.target.anchor for reference in references]
        for place, references in chapter.references.items()
    }
    assert found == {0: [], 1: [chapter.rows[0].id], 2: [], 3: []}


def test_other_modules_mean_the_own_definition_and_the_stub() -> None:
    def cell(place: str, *tags: str) -> Cell:
        source = "def find(): ..."
        tree = parse(source)
        assert tree is not None
        targets = [Target("pack.a", d, "a.ipynb", place) for d in definitions(tree)]
        return Cell(source, frozenset(tags), tuple(targets))

    own, demo = cell("own"), cell("demo", "active-ipynb")
    stub = cell("stub", "active-ipynb", "exercise")
    solution = cell("solution", "active-ipynb", "solution")
    for cells, expected in (
        ([own, demo, solution], "own"),
        ([stub, solution], "stub"),
        ([own, cell("later")], "later"),
    ):
        book = Index("pack")
        book.add("pack.a", cells)
        use = book.add("pack.b", [Cell("from pack.a import find")])
        assert [r.target.anchor for r in references(book, use)[0]] == [expected]


def test_a_name_in_an_f_string_is_a_link_at_its_place_or_none() -> None:
    # Python 3.11 gives other columns for it.
    assert leads("n = 1", 'f"""\n  {n}\n"""') in ("", "2: n -> 1")
